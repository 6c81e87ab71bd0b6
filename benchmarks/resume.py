"""What a command costs on a run where nothing is left to do: 500 checkpoints, two tasks, 7,500 measurements."""

import shutil
import tempfile
import time
from pathlib import Path

from instar.models.organism import FOLDER
from instar.record.config import RunConfig
from instar.record.contents import NAME, Entry
from instar.workflow.experiment import Experiment
from instar.workflow.jobs import jobs

TASKS = ("ioi2", "ioi3")


def finished(root: Path, checkpoints: int) -> Experiment:
    """A run whose measurements are all there, each of a few bytes; nothing but the list says what they are."""
    config = {"train": {"steps": checkpoints - 1, "checkpoints": 1, "seeds": [0]}, "compare": {"controls": []}}
    experiment = Experiment.create(root, RunConfig.checked(config, "benchmark"))
    store = experiment.store
    rows = [{"step": step, "sha256": f"{step:064x}", "loss": None} for step in range(checkpoints)]
    with store.owned():
        for row in rows:
            folder = store.checkpoint(0, row["step"])
            folder.mkdir(parents=True)
            for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
                shutil.copyfile(FOLDER / name, folder / name)
        store.write_index(0, {"seed": 0, "steps": rows, "health": []})
        todo = jobs(experiment, TASKS, "data")
        for job in todo:
            job.path.parent.mkdir(parents=True, exist_ok=True)
            job.path.write_bytes(b"no netCDF")
        store.contents.add(Entry(j.path.relative_to(root).as_posix(), 9, "0" * 64, j.key, "instar") for j in todo)
    # What a kept run looks like: the list is as old as the files.
    with (root / NAME).open("a"):
        (root / NAME).touch()
    return experiment


def looked_over(root: Path) -> tuple[int, int]:
    """What a second command asks before it does anything: which measurements there are, and which are missing."""
    experiment = Experiment.open(root)
    store = experiment.store
    todo = jobs(experiment, TASKS, "data")
    missing = [job for job in todo if not store.has_measurement(job.path, job.key)]
    places = {(job.stage, job.task) for job in todo}
    steps = sum(len(store.measured_steps(stage, task)) for stage, task in places)
    return steps, len(missing)


def measured(checkpoints: int = 500) -> dict[str, float]:
    """Seconds, wall and processor."""
    from instar.record import directory

    with tempfile.TemporaryDirectory() as folder:
        finished(Path(folder) / "run", checkpoints)
        # As a process of its own would: what is known of the list is forgotten.
        directory._contents.cache_clear()
        wall, processor = time.perf_counter(), time.process_time()
        files, missing = looked_over(Path(folder) / "run")
        found = {"seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - processor}
        return {"checkpoints": checkpoints, "files": files, "missing": missing, **found}


if __name__ == "__main__":
    print(measured())
