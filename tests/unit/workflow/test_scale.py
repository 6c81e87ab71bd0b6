"""A finished run of many checkpoints is looked over by its list: no measurement is opened."""

import importlib.util
import sys
from pathlib import Path

from instar.record import directory

FILE = Path(__file__).parents[3] / "benchmarks" / "resume.py"


def test_nothing_is_opened_to_know_that_nothing_is_missing(tmp_path):
    spec = importlib.util.spec_from_file_location("resume", FILE)
    resume = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(resume)
    resume.finished(tmp_path / "run", 20)
    directory._contents.cache_clear()
    opened, watching = [], [True]

    def watch(event: str, arguments: tuple) -> None:
        # A hook cannot be taken away again, so it is silenced below.
        if watching and event in ("open", "h5py") and str(arguments[0]).startswith(str(tmp_path)):
            opened.append(Path(arguments[0]).name)

    sys.addaudithook(watch)
    assert resume.looked_over(tmp_path / "run") == (20 * 15 + 19 * 2, 0)
    assert not [name for name in opened if name.endswith(".nc")]
    # What is listed is read once, and each checkpoint's configuration once.
    assert opened.count("contents.jsonl") == 1 and len(opened) < 20 * 4
    gone = tmp_path / "run/measure/lens/ioi2/step-000003.nc"
    gone.unlink()
    changed = tmp_path / "run/measure/lens/ioi2/step-000004.nc"
    changed.write_bytes(b"of another size")
    assert resume.looked_over(tmp_path / "run") == (20 * 15 + 19 * 2 - 1, 2)
    watching.clear()
