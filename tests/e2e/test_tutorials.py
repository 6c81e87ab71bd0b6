"""The tutorials are executed notebooks: each runs from its cells, says what it said, and can be read anywhere.

`INSTAR_WRITE=1 pytest tests/e2e/test_tutorials.py` executes them and writes their outputs anew.

Cells tagged `check` must print what is committed: the same words, and numbers that are close (training in float32 on
another processor is not the same training to the last bit). Of cells tagged `trained`, which tell of a model that the
notebook trains from nothing, the words alone: a thousand steps on another processor end in another model. Of other
cells only errors and warnings count.
"""

import difflib
import os
import re
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOKS = sorted((DOCS / "tutorials").glob("*.ipynb"))
LARGEST = 400_000
"""Bytes of a notebook."""
CLOSE = {"rel": 0.05, "abs": 0.05}
PROGRESS = re.compile(r"[\w :()]+: \d+/\d+.*|Writing model shards: .*|this run takes about .*|it took .*|")
"""A line of instar.progress where there is no terminal, which has seconds in it; transformers' bar while it saves."""
NUMBER = re.compile(r"[-+−]?(?:\d[\d,]*\.?\d*|\.\d+)(?:e[-+]?\d+)?")
PLACES = re.compile(r"/(?:tmp|home|root|work|Users|private|var|opt|mnt)/|[A-Z]:\\|site-packages")
"""How absolute paths begin."""


class ThisPython(AsyncKernelManager):
    """The interpreter that runs the tests, whatever kernels are installed."""

    kernel_spec = KernelSpec(argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"])


def executed(path: Path, folder: Path, monkeypatch) -> nbformat.NotebookNode:
    """The notebook with new outputs. Raises where a cell does; what is on stderr must be progress and is left out."""
    notebook = nbformat.read(path, as_version=4)
    settings = {
        # `instar` in a cell is this environment's; `tempfile` makes its folders under the test's.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "TMPDIR": str(folder),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        # Tables as in a pipe: no colours, and as wide on every machine.
        "TTY_COMPATIBLE": "0",
        "COLUMNS": "100",
        # tqdm, where ipywidgets is not installed; nothing here needs it.
        "PYTHONWARNINGS": "ignore:IProgress not found",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    # Where it would be in a copy of the repository, so that nothing can be written into this one.
    place = folder / "docs" / "tutorials"
    place.mkdir(parents=True)
    shutil.copytree(DOCS.parent / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    client = NotebookClient(
        notebook,
        kernel_manager_class=ThisPython,
        timeout=300,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(place)}},
    )
    client.execute()
    for cell in code_cells(notebook):
        said = "".join(o.text for o in cell.outputs if o.get("name") == "stderr")
        strange = [line for line in re.split(r"[\r\n]", said) if not PROGRESS.fullmatch(line)]
        assert not strange, f"{path.name}, {cell.id}: on stderr:\n{said}"
        cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    return notebook


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def words(cell) -> str:
    """What a cell said, as text."""
    parts = (o.text if o.output_type == "stream" else o.get("data", {}).get("text/plain", "") for o in cell.outputs)
    return "\n".join(parts)


def differences(said: str, committed: str, numbers: bool = True) -> list[str]:
    """Words that differ, else `numbers` that do by more than `CLOSE`; line breaks and spaces do not count."""
    now, was = (NUMBER.sub(" # ", text).split() for text in (said, committed))
    if now != was:
        return [line for line in difflib.ndiff(was, now) if line[0] != " "]
    if not numbers:
        return []
    pairs = zip(*([m.group() for m in NUMBER.finditer(text)] for text in (committed, said)), strict=True)
    return [f"{a} is now {b}" for a, b in pairs if _number(b) != pytest.approx(_number(a), **CLOSE)]


def _number(text: str) -> float:
    return float(text.replace(",", "").replace("−", "-"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_says_what_is_committed(path, tmp_path, monkeypatch):
    notebook = executed(path, tmp_path, monkeypatch)
    if os.environ.get("INSTAR_WRITE"):
        path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
        return
    committed = nbformat.read(path, as_version=4)
    stale, checked = {}, 0
    for now, was in zip(code_cells(notebook), code_cells(committed), strict=True):
        tags = now.metadata.get("tags", [])
        if not {"check", "trained"} & set(tags):
            continue
        checked += 1
        if found := differences(words(now), words(was), numbers="check" in tags):
            stale[f"{path.name}, {now.id}"] = found
    assert checked >= 3
    assert not stale, "\n".join(f"{k}:\n" + "\n".join(v) for k, v in stale.items()) + (
        "\n(INSTAR_WRITE=1 pytest tests/e2e/test_tutorials.py writes them anew)"
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_can_be_read_anywhere(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert path.stat().st_size < LARGEST and 10 <= len(notebook.cells) <= 20
    text = path.read_text(encoding="utf-8")
    images = re.sub(r'"image/png": "[^"]*"', "", text)
    assert not PLACES.findall(images) and str(Path.home()) not in images and str(Path(sys.prefix)) not in images
    own = code_cells(notebook)
    assert [cell.execution_count for cell in own] == list(range(1, len(own) + 1))
    outputs = [o for cell in own for o in cell.outputs]
    assert outputs and not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert "\x1b" not in text and "\\u001b" not in text


def test_the_documentation_names_every_notebook():
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    assert len(NOTEBOOKS) == 3 and [p.name for p in NOTEBOOKS if f"(tutorials/{p.name})" not in index] == []


def test_differences_are_words_and_far_numbers():
    was = "ioi3  36.0% [29.7, 42.9]  failed\n1,024 rows"
    assert differences(was, was) == [] and differences(was.replace("  ", "\n"), was) == []
    assert differences(was.replace("36.0", "36.5"), was) == []
    assert differences(was.replace("36.0", "46.0"), was) == ["36.0 is now 46.0"]
    assert differences(was.replace("36.0", "46.0"), was, numbers=False) == []
    assert differences(was.replace("failed", "mastered"), was, numbers=False) == ["- failed", "+ mastered"]
    assert differences(was.replace("failed", "mastered"), was) == ["- failed", "+ mastered"]
    assert differences(was + "\nmore", was) == ["+ more"] and len(differences("", was)) > 3
