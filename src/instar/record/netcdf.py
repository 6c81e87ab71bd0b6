"""Measurements as netCDF: made in memory and written as bytes; read only where the file is as instar writes it.

1. HDF5 flushes again while it closes a file, and on a full disk that ends the process. Bytes made in memory are written by
   Python, whose error is an error.
2. Somebody else's HDF5 file may name other files as the place of its values, or declare more values than it holds. Neither
   is what instar writes, so both are refused before anything is read. What is compressed may be
   `DENSEST` times what it takes.
3. Opening takes longer than reading, and a comparison reads a series for many purposes: small files are kept in memory, as
   long as they are the same on the disk.
"""

import io
import json
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr

ROOM = 1 << 16
"""Bytes that a file's variables may declare beyond its size: fill values are declared and not kept."""
DENSEST = 16
"""Bytes of values for each that a compressed variable has in the file; what would be denser is written as it is."""
PACKED = {"zlib": True, "shuffle": True, "complevel": 4}
"""Encoding of a variable that is worth compressing: `dataset[name].encoding |= PACKED`."""
SMALL, KEPT = 1 << 20, 1 << 28
"""Bytes: of a dataset that is kept in memory, and of all of them."""
_DIMENSION_ALONE = b"This is a netCDF dimension but not a netCDF variable"


class Refused(ValueError):  # noqa: N818 — it is the file that is
    """Not as instar writes files."""


def as_bytes(dataset: xr.Dataset) -> bytes:
    """The file's content. Attributes that are not text or numbers become JSON."""
    content = bytes(plain_attrs(dataset).to_netcdf(engine="h5netcdf"))
    if any(variable.encoding.get("zlib") for variable in dataset.variables.values()):
        try:
            with h5py.File(io.BytesIO(content), "r") as file:
                _look_over(file, len(content))
        except Refused:
            return as_bytes(dataset.drop_encoding())
    return content


def rounded(values: np.ndarray, bits: int) -> np.ndarray:
    """Float32 to so many binary digits behind the first (off by 2^-(bits + 1) at most): the rest is zeros, which compress."""
    drop = np.uint32(23 - bits)
    raw = np.ascontiguousarray(values, np.float32).view(np.uint32)
    even = (raw >> drop) & np.uint32(1)
    whole = (raw + (np.uint32(1) << (drop - np.uint32(1))) - np.uint32(1) + even) >> drop << drop
    # What is no number stays as it is, and what the largest ones would become is not wanted.
    return np.where(np.isfinite(values) & np.isfinite(whole.view(np.float32)), whole.view(np.float32), values)


def plain_attrs(dataset: xr.Dataset) -> xr.Dataset:
    """The dataset as it will be read back: attributes that are no text or number are JSON, and so are the largest numbers."""
    plain = {
        k: v if isinstance(v, str | float) or (isinstance(v, int) and abs(v) < 2**63) else json.dumps(v)
        for k, v in dataset.attrs.items()
    }
    return dataset.assign_attrs(plain)


@contextmanager
def opened(path: Path) -> Iterator[xr.Dataset]:
    """A file's dataset: a large one not read yet, a small one from memory, where it is not to be written into.

    Raises:
        ValueError: for a file that is damaged, or is not as instar writes it.
    """
    with _sentences(path):
        now = path.stat()
        key = str(path), now.st_ino, now.st_mtime_ns, now.st_size
        known = _kept.get(key)
        if known is None:
            with h5py.File(path, "r") as file:
                _look_over(file, now.st_size)
            dataset = xr.open_dataset(path, engine="h5netcdf")
            if dataset.nbytes <= SMALL:
                with dataset:
                    known = _keep(key, dataset.load())
        else:
            _kept.move_to_end(key)
            dataset = known
    if known is not None:
        yield known.copy()
    else:
        with dataset:
            yield dataset


_kept: OrderedDict[tuple[str, int, int, int], xr.Dataset] = OrderedDict()
"""What was read, the last used last."""


def _keep(key: tuple[str, int, int, int], dataset: xr.Dataset) -> xr.Dataset:
    for variable in dataset.variables.values():
        if isinstance(variable.data, np.ndarray):
            variable.data.flags.writeable = False
    _kept[key] = dataset
    while len(_kept) * SMALL > KEPT and sum(one.nbytes for one in _kept.values()) > KEPT:
        _kept.popitem(last=False)
    return dataset


def attributes(path: Path) -> dict[str, Any]:
    """A file's attributes; errors as of `opened`."""
    with _sentences(path), h5py.File(path, "r") as file:
        plain = {str(name): value for name, value in file.attrs.items() if not str(name).startswith("_")}
    return {name: value.item() if getattr(value, "size", 0) == 1 else value for name, value in plain.items()}


@contextmanager
def _sentences(path: Path) -> Iterator[None]:
    """HDF5 and its readers raise whatever they stumble over."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        reason = str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is no measurement, or damaged ({reason})") from None


def _look_over(file: h5py.File, size: int) -> None:
    """Refuses a file of so many bytes that is not as instar writes it."""
    declared = 0
    for name in file:
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise Refused(f"{name} is a link, which may lead out of the file")
        value = file[name]
        if not isinstance(value, h5py.Dataset):
            raise Refused(f"{name} is a {type(value).__name__.lower()} inside the file, expected variables alone")
        if value.external or value.is_virtual:
            raise Refused(f"the values of {name} are in another file")
        if value.compression not in (None, "gzip"):
            raise Refused(f"{name} is compressed by {value.compression}, expected gzip or nothing")
        # A dimension without labels is declared as a variable, and read by nobody.
        if not value.attrs.get("NAME", b"").startswith(_DIMENSION_ALONE):
            declared += value.nbytes // (DENSEST if value.compression else 1)
        if declared > size + ROOM:
            raise Refused(f"its variables declare {declared:,} bytes, with {name}, and the file has {size:,}")
