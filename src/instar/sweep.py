"""Measurements over many checkpoints: one model in memory at a time, what exists skipped, serial or with Ray.

1. A `Job` is one file: stage, task, seed, step. Its key hashes the checkpoint's weights, the task's data, the stage's
   options and instar's version; a file with the same key is not made again.
2. Checkpoints with anything missing are loaded one by one, and all their missing jobs are done.
3. With `executor: ray` checkpoints are fanned out over the cluster; the serial loop is the oracle.
4. A checkpoint that cannot be loaded is reported and the rest goes on.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from instar import __version__
from instar.config import RunConfig, digest
from instar.measure.drift import drift
from instar.models.load import Model, load
from instar.models.organism import NAME as EMBEDDED
from instar.models.organism.corpus import stories
from instar.progress import Tell
from instar.stages import STAGES, Pairs, options
from instar.store import SHARED, Store

GENERAL_TEXTS = 64


@dataclass(frozen=True)
class Job:
    """One measurement to make."""

    stage: str
    task: str
    seed: int
    step: int
    path: Path
    key: str
    at_an_end: bool
    """Whether this is the first or the last step."""


@dataclass(frozen=True)
class Failure:
    """A checkpoint that could not be measured, and why."""

    seed: int
    step: int
    reason: str


def jobs(store: Store, config: RunConfig, tasks: Iterable[str], data_key: str) -> list[Job]:
    """Every measurement of the run, done or not."""
    found = []
    for seed in config.train.seeds:
        index = store.index(seed)
        if index is None:
            raise ValueError(f"{store.checkpoints(seed)} has no finished fine-tuning; run `instar train` first")
        first = index["steps"][0]["sha256"]
        for row in index["steps"]:
            for stage in config.measure.stages:
                for task in [SHARED] if stage == "drift" else tasks:
                    at_an_end = row["step"] in (index["steps"][0]["step"], index["steps"][-1]["step"])
                    choices = [_options(stage, config), *([at_an_end] if stage == "circuit" else [])]
                    key = digest([__version__, stage, task, data_key, first, row["sha256"], choices])
                    path = store.measurement(stage, task, seed, row["step"])
                    found.append(Job(stage, task, seed, row["step"], path, key, at_an_end))
    return found


def _options(stage: str, config: RunConfig) -> dict[str, Any]:
    """What, beside weights and pairs, decides a stage's numbers."""
    own: dict[str, Any] = {"device": config.model.device, "threads": config.threads}
    if stage == "drift":
        return own | {"text": _general_texts(config.data.general_text, config.model.source)}
    return own | options(stage, config)


def sweep(store: Store, config: RunConfig, todo: list[Job], tell: Tell) -> list[Failure]:
    """Make what is missing. Returns what could not be made."""
    missing = [job for job in todo if not store.has_measurement(job.path, job.key)]
    for job in missing:
        # What is there was decided by something else; it must not stand in for what fails now.
        job.path.unlink(missing_ok=True)
    groups: dict[tuple[int, int], list[Job]] = {}
    for job in missing:
        groups.setdefault((job.seed, job.step), []).append(job)
    done = len(todo) - len(missing)
    tell(done, len(todo), "")
    failures: list[Failure] = []
    run = _with_ray if config.measure.executor == "ray" else _serial
    for group, failure in run(store, config, list(groups.values())):
        done += len(group)
        failures += [failure] if failure else []
        tell(done, len(todo), f"step {group[0].step}")
    return failures


def _serial(store: Store, config: RunConfig, groups: list[list[Job]]) -> Iterable[tuple[list[Job], Failure | None]]:
    worker = _Worker(store, config)
    for group in groups:
        yield group, worker.measure(group)


def _with_ray(store: Store, config: RunConfig, groups: list[list[Job]]) -> Iterable[tuple[list[Job], Failure | None]]:
    try:
        import ray  # pyright: ignore[reportMissingImports] — an extra
    except ImportError:
        raise ValueError("measure.executor: ray needs the extra: pip install 'instar[ray]'") from None
    threads = config.threads or torch.get_num_threads()
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)

    @ray.remote(num_cpus=1)
    def remote(group: list[Job]) -> Failure | None:
        # Equal thread counts make the sums, and so the bytes, equal to the serial loop's.
        torch.set_num_threads(threads)
        return _Worker(store, config).measure(group)

    waiting = {remote.remote(group): group for group in groups}
    while waiting:
        ready, _ = ray.wait(list(waiting), num_returns=1)
        yield waiting.pop(ready[0]), ray.get(ready[0])


class _Worker:
    """Measures checkpoints one after another, keeping each seed's base and the tokenised pairs."""

    def __init__(self, store: Store, config: RunConfig):
        self.store, self.config = store, config
        self.bases: dict[int, Model] = {}
        self.pairs: dict[str, Pairs] = {}

    def measure(self, group: list[Job]) -> Failure | None:
        seed, step = group[0].seed, group[0].step
        try:
            base = self._base(seed)
            model = base if step == 0 else self._load(seed, step, like=base)
            for job in group:
                if job.stage == "drift":
                    dataset = drift(base, model, *self._general(base))
                else:
                    pairs = self.pairs.setdefault(job.task, Pairs(self.store, job.task, base.tokenizer))
                    dataset = STAGES[job.stage](model, pairs, self.config, job.at_an_end)
                self.store.write_measurement(job.path, dataset, job.key)
        except (ValueError, OSError, ArithmeticError) as error:
            return Failure(seed, step, str(error))
        return None

    def _base(self, seed: int) -> Model:
        if seed not in self.bases:
            self.bases[seed] = self._load(seed, 0, like=None)
        return self.bases[seed]

    def _load(self, seed: int, step: int, like: Model | None) -> Model:
        model = load(self.store.checkpoint(seed, step), device=self.config.model.device, like=like)
        # Results are the same wherever the run directory lies, so they do not name it.
        return replace(model, name=f"{self.config.model.source}, seed {seed}, step {step}")

    def _general(self, base: Model) -> tuple[Any, Any]:
        texts = _general_texts(self.config.data.general_text, self.config.model.source)
        if not texts:
            return None, None
        limit = getattr(base.module.config, "max_position_embeddings", 512)
        rows = base.tokenizer(texts, truncation=True, max_length=min(limit, 256))["input_ids"]
        width = max(map(len, rows))
        tokens = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        return tokens, torch.arange(width)[None] < torch.tensor([[len(row)] for row in rows])


@lru_cache(maxsize=1)
def _general_texts(file: str | None, model: str) -> list[str]:
    """Text that has nothing to do with the tasks: the user's file, or the embedded model's own corpus."""
    if file is not None:
        text = Path(file).read_text(encoding="utf-8")
        return [block for block in text.split("\n\n") if block.strip()][:GENERAL_TEXTS]
    if model == EMBEDDED:
        source = stories(seed=7)
        return [" ".join(next(source)) for _ in range(GENERAL_TEXTS)]
    return []
