"""Rows of Parquet and Arrow files, counted before they are unpacked: a few kilobytes may stand for gigabytes.

1. Parquet declares how many values a column has; 60 million rows of one value take no room in the file.
2. Arrow's buffers are checked against each other (`validate(full=True)`) before one is followed.
3. What a value takes once it stands in each row is bounded: a dictionary holds a long text once.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from instar.record.apart import apart

CELLS = 20_000_000
"""The most values that a file may have: rows times columns, and what lists hold."""
DECODED = 2**30
"""The most bytes that these values may take."""


def columnar_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a Parquet file, or of an Arrow stream as `datasets` writes them.

    Raises:
        ValueError: for more than `CELLS` values or `DECODED` bytes, or a damaged file.
    """
    # Looked at apart first: of some damaged files the library ends its process, of others it unpacks what no limit sees.
    apart("instar.tasks.columnar:counted", {"path": str(path)}, 100)
    return [row for batch in _batches(path) for row in batch.to_pylist()]


def counted(path: str) -> int:
    """How many rows there are; all are looked at."""
    rows, cells, size = 0, 0, 0
    for batch in _batches(Path(path)):
        if len(set(batch.schema.names)) < len(batch.schema.names):
            raise ValueError("a column stands twice")
        rows, cells = rows + batch.num_rows, cells + batch.num_rows * max(1, batch.num_columns)
        _bounded(cells, size)
        batch.validate(full=True)
        for column in batch.columns:
            inner, own = _extent(column)
            cells, size = cells + inner, size + own
            _bounded(cells, size)
    return rows


def _batches(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix.lower() == ".arrow":
        with pa.memory_map(str(path)) as mapped, pa.ipc.open_stream(mapped) as stream:
            yield from stream
        return
    with pq.ParquetFile(path) as file:
        about = file.metadata
        groups = [about.row_group(i) for i in range(about.num_row_groups)]
        chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
        _bounded(max(about.num_rows * max(1, about.num_columns), sum(max(0, c.num_values) for c in chunks)), 0)
        largest = max((c.total_uncompressed_size for c in chunks), default=0)
        _bounded(0, largest)
        # One page may hold a long text that every row repeats: so many rows at once that this fits.
        yield from file.iter_batches(batch_size=max(1, min(65_536, DECODED // max(1, largest))))


def _extent(array: Any) -> tuple[int, int]:
    """How many values an array has below its own, and how many bytes all take where each row has its own.

    Raises:
        ValueError: for a type whose values may share their bytes.
    """
    import pyarrow as pa
    from pyarrow import types as kinds

    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        return _extent(array.storage)
    if kinds.is_dictionary(kind):
        inner, size = _extent(array.dictionary)
        if inner:
            raise ValueError(f"a dictionary of {kind.value_type}: write it plainly")
        longest = max((len(v) for v in array.dictionary.to_pylist() if isinstance(v, str | bytes)), default=8)
        return len(array.dictionary), size + len(array) * longest
    if kinds.is_struct(kind):
        parts = [array.field(i) for i in range(kind.num_fields)]
    elif kinds.is_map(kind):
        parts = [array.keys, array.items]
    elif kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind):
        parts = [array.values]
    elif kinds.is_nested(kind) or "view" in str(kind) or "run_end" in str(kind):
        raise ValueError(f"a column of type {kind}: write it as plain values or lists")
    else:
        return 0, array.nbytes
    found = [_extent(part) for part in parts]
    return sum(len(part) for part in parts) + sum(n for n, _ in found), sum(size for _, size in found)


def _bounded(cells: int, size: int) -> None:
    if cells > CELLS:
        raise ValueError(f"it declares {cells:,} values, and the most that is read are {CELLS:,}")
    if size > DECODED:
        raise ValueError(f"it declares {size:,} bytes once unpacked, and the most that is read are {DECODED:,}")
