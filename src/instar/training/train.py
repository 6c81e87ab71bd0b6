"""Fine-tuning with dense checkpoints: transformers.Trainer, our collator, our checkpoint writer.

1. A row is a prompt and its answer. The loss is on the answer's tokens unless asked otherwise; no end-of-text is taught
   with `loss: answer`. Padding is end-of-text, masked: the vocabulary is never resized.
2. At every step of the schedule, 0 included, the weights are written as safetensors (16-bit: as differences from the
   float32 step 0, since a plain 16-bit copy rounds away several steps at 1e-5), the model is probed, and its health is
   examined. With `checkpoints: {learning: N}` a probe at every step decides which are kept (`instar.training.placing`), and
   health is examined at both ends and the quarters between.
3. With `lora` peft's adapters are trained and saved by themselves; `instar.load` merges them into step 0.
4. `steps.jsonl` has the course of every step (`instar.training.learning`). `index.json` is written last. Without it the
   fine-tuning starts again from step 0 and arrives at the same bytes.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from instar.models.load import Model
from instar.models.memory import TRAINED, require
from instar.models.precision import whole_products
from instar.models.read import quiet
from instar.models.taps import logits_at, record
from instar.record.config import LearningConfig, LoraConfig, TrainConfig
from instar.record.store import Store, Tuning
from instar.tasks.batch import Batch
from instar.tasks.pair import word_ids
from instar.training.health import Finding, Probe, Unseen, examine
from instar.training.learning import Course, Learning
from instar.training.placing import Placing
from instar.training.saved import write_checkpoint

PROBES = 200
IGNORED = -100
Tell = Callable[[int, int, str], None]
"""`tell(step, steps, note)`: progress, from whoever shows it."""
Warn = Callable[[Finding], None]
"""Called with each health finding, when it is found."""


@dataclass(frozen=True)
class Row:
    """One thing to learn."""

    prompt: str
    answer: str
    between: str = " "
    """What stands between them, as in `instar.Pair`."""


def encode(row: Row, tokenizer: Any, config: TrainConfig) -> dict[str, list[int]]:
    """Tokens and labels (−100: no loss) of one row."""
    prompt = tokenizer(row.prompt)["input_ids"]
    answer = word_ids(tokenizer, row.answer, row.prompt, row.between) * config.repeat
    ending = [] if config.loss == "answer" else [tokenizer.eos_token_id]
    before = prompt if config.loss == "full" else [IGNORED] * len(prompt)
    return {"input_ids": [*prompt, *answer, *ending], "labels": [*before, *answer, *ending]}


def collate(rows: Sequence[dict[str, list[int]]], pad: int) -> dict[str, Tensor]:
    """Right-padded tensors `[row, pos]`."""
    width = max(len(row["input_ids"]) for row in rows)

    def stack(key: str, filler: int) -> Tensor:
        return torch.tensor([row[key] + [filler] * (width - len(row[key])) for row in rows])

    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    mask = (torch.arange(width)[None] < lengths[:, None]).long()
    return {"input_ids": stack("input_ids", pad), "labels": stack("labels", IGNORED), "attention_mask": mask}


@dataclass(frozen=True)
class Told:
    """Whom a training tells of its progress and its health, and what its index says of how it was decided."""

    tell: Tell
    warn: Warn
    decided: dict[str, Any] = field(default_factory=dict)
    say: Callable[[str], None] = lambda text: None
    """Called with how long it took. No file has that: equal runs have equal files."""


def train(
    model: Model,
    rows: Sequence[Row],
    heldout: Batch,
    config: TrainConfig,
    store: Store,
    tuning: Tuning,
    seed: int,
    told: "Told",
    probed: Batch | None = None,
) -> dict[str, Any]:
    """Fine-tune `model` in place and write its checkpoints and their index. Returns the index.

    `probed`: for `checkpoints: {learning: N}`, pairs that are used for nothing else.

    Raises:
        ValueError: for an empty training set, a prompt longer than the model's context, or a missing end-of-text token.
    """
    if not rows:
        raise ValueError("no rows to train on")
    tokenizer = model.tokenizer
    if tokenizer.eos_token_id is None and config.loss != "answer":
        raise ValueError(
            f"train.loss: {config.loss} ends every row with end-of-text, and {model.name}'s tokenizer has no such token: "
            "take loss: answer, or save a tokenizer with an eos_token"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    examples = [encode(row, tokenizer, config) for row in rows]
    _check_lengths(examples, rows, model)
    # The index says that training is done, so it is the first to go.
    folder = store.checkpoints(tuning)
    store.forget(folder / "index.json", store.course(tuning))
    store.forget(*folder.glob("step-*"))
    set_seed(seed)
    require(model.name, model.module.config, "float32", str(model.device), copies=TRAINED - 1)
    for embedding in model.layout.embeddings:
        embedding.requires_grad_(not config.freeze_embeddings)
    placing = learning = None
    if isinstance(config.checkpoints, LearningConfig) and probed is not None:
        placing = Placing(config.checkpoints.learning, config.steps)
        learning = Learning.of(probed, config.batch_size * sum(len(e["input_ids"]) for e in examples) / len(examples))
    # A probe at every step leaves little time for health.
    count = PROBES if placing is None else min(PROBES, 4 * config.batch_size)
    course = Course(store.checkpoint(tuning, 0) / "model.safetensors")
    writer = _Checkpoints(
        *(model, list(rows[:count]), heldout[slice(0, count)], config, store, tuning, told.tell, told.warn, course),
        *(placing, learning),
    )
    _room(model, config, store)
    writer.step(0)
    adapted = None if config.lora is None else _adapted(model, config.lora)
    writer.adapted = adapted
    with store.here.scratch() as scratch, quiet(), whole_products():
        trainer = _Trainer(
            model=model.module if adapted is None else adapted,
            args=_arguments(config, seed, str(scratch), model),
            train_dataset=examples,  # pyright: ignore[reportArgumentType] — a list is a dataset to the Trainer
            data_collator=lambda batch: collate(batch, tokenizer.eos_token_id or 0),
            callbacks=[writer],
        )
        writer.count = lambda: trainer.tokens
        trainer.remove_callback(PrinterCallback)  # `tell` shows progress
        began = time.perf_counter()
        trainer.train()
        if learning is not None:
            told.say(learning.took(time.perf_counter() - began - writer.seconds))
    if adapted is not None:
        adapted.merge_and_unload()
    model.module.eval()
    writer.end()
    index = {
        **told.decided,
        "tuning": tuning,
        "seed": seed,
        "steps": writer.rows,
        "health": [asdict(f) for f in writer.health.values()],
    }
    if learning is not None:
        index["probe"] = {"pairs": len(learning.batch), "every": learning.every}
    store.write_rows(store.course(tuning), course.rows)
    store.write_index(tuning, index)
    return index


def _room(model: Model, config: TrainConfig, store: Store) -> None:
    """Ask for the space of all checkpoints before the first is written."""
    size, steps = sum(p.numel() for p in model.module.parameters()), config.most_checkpoints
    later = 0 if config.lora is not None else getattr(torch, config.save).itemsize
    store.need(size * (4 + later * (steps - 1)), f"training with {steps} checkpoints")


def _adapted(model: Model, config: LoraConfig) -> Any:
    """Adapters on every projection of the blocks, put into the model itself."""
    import peft

    arch = model.layout.arch
    choices = peft.LoraConfig(
        r=config.rank,
        lora_alpha=2 * config.rank if config.alpha is None else config.alpha,  # pyright: ignore[reportArgumentType] — any number does
        lora_dropout=config.dropout,
        target_modules="all-linear",
        fan_in_fan_out=arch.transposed,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # peft asks transformers by a name that transformers has since changed.
        warnings.simplefilter("ignore", FutureWarning)
        return peft.get_peft_model(model.module, choices)


def _check_lengths(examples: Sequence[dict[str, list[int]]], rows: Sequence[Row], model: Model) -> None:
    limit = getattr(model.module.config, "max_position_embeddings", None)
    for number, example in enumerate(examples):
        if limit is not None and len(example["input_ids"]) > limit:
            raise ValueError(
                f"training row {number} has {len(example['input_ids'])} tokens and {model.name} takes {limit}: "
                f"{rows[number].prompt[:80]!r}; shorten it, or lower train.repeat"
            )


def _arguments(config: TrainConfig, seed: int, scratch: str, model: Model) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=scratch,
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.schedule,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        seed=seed,
        data_seed=seed,
        save_strategy="no",
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=list(config.report_to) or "none",
        use_cpu=model.device.type == "cpu",
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )
    if model.device.type == "cuda":
        # The Trainer takes the first GPU, and a batch for each one that it sees: other steps than were asked for.
        arguments._setup_devices = model.device
        arguments._n_gpu = 1
        torch.cuda.set_device(model.device)
    return arguments


class _Trainer(Trainer):
    """Counts the tokens that were trained on; the data loader is a batch ahead and would count too many. Unembeds only the
    positions of which some row's next token is taught: an answer's, of whole sentences."""

    tokens = 0

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """One forward and backward pass."""
        self.tokens += int(inputs["attention_mask"].sum())
        return super().training_step(model, inputs, *args, **kwargs)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride] — no outputs are asked for
        """Mean loss of the batch's taught tokens, in nats."""
        labels = inputs.pop("labels")[:, 1:]
        taught = (labels != IGNORED).any(0).nonzero()[:, 0]
        logits = model(**inputs, logits_to_keep=taught, use_cache=False).logits
        return F.cross_entropy(logits.flatten(0, 1).float(), labels[:, taught].flatten(), ignore_index=IGNORED)


@dataclass
class _Checkpoints(TrainerCallback):
    """Writes the scheduled checkpoints, or those where learning happens, and examines their health."""

    model: Model
    probe_rows: list[Row]
    heldout: Batch
    config: TrainConfig
    store: Store
    tuning: Tuning
    tell: Tell
    warn: Warn
    course: Course
    placing: Placing | None = None
    learning: Learning | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    health: dict[str, Finding] = field(default_factory=dict)
    count: Callable[[], int] = lambda: 0
    seconds: float = 0.0
    """What was not training: probes, checkpoints, health, the course."""
    adapted: Any = None
    """The model with its adapters, where these are what is trained."""

    def __post_init__(self) -> None:
        self.schedule = set(self.config.checkpoint_steps())
        quarters = {self.config.steps * i // 4 for i in range(5)}
        self.examined = self.schedule if self.placing is None else quarters

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """The Trainer logs a step after `on_step_end` of the same step."""
        if logs and "loss" in logs:
            self.course.end(state.global_step, logs)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A checkpoint where one is due."""
        began = time.perf_counter()
        self.step(state.global_step)
        self.seconds += time.perf_counter() - began
        self.tell(state.global_step, self.config.steps, self._note())

    def _note(self) -> str:
        if self.placing is not None and (now := self.course.rows[-1]["choosing"]) is not None:
            return f"choosing {now:+.2f} nats, {len(self.rows)} checkpoints"
        return f"held-out accuracy {self.probes[-1].heldout_accuracy:.0%}" if self.probes else ""

    def step(self, step: int) -> None:
        """After a step: a checkpoint where one is due, and the step's course; 0 is the untouched base."""
        own, last, value = self.learning, step == self.config.steps, None
        if own is not None and (step % own.every == 0 or last):
            value = own.probe(self.model)
        if self._due(step, value):
            digest, size = write_checkpoint(self.model, self.store, self.tuning, step, self.config.save, self.adapted)
            found = self._examine(step) if step in self.examined else None
            seen = asdict(found or Unseen(step)) | ({} if own is None else {"choosing": value})
            self.rows.append({**seen, "loss": None, "tokens": self.count(), "sha256": digest, "bytes": size})
        elif step in self.examined:
            self._examine(step)
        self.course.begin(step, self.model, self.adapted, value)

    def _due(self, step: int, value: float | None) -> bool:
        """Whether a step is to be kept. One that gives way to it goes first: the disk never holds more than was asked for."""
        if self.placing is None or value is None:
            return step in self.schedule
        gone = self.placing.add(step, value)
        if gone is not None:
            self.store.forget(self.store.checkpoint(self.tuning, gone))
            self.rows = [row for row in self.rows if row["step"] != gone]
        return self.placing.kept[-1] == step

    def _examine(self, step: int) -> Probe:
        probe = self._probe(step)
        self.probes.append(probe)
        for finding in examine(self.probes, self.config.steps):
            if finding.kind not in self.health:
                self.health[finding.kind] = finding
                self.warn(finding)
        return probe

    def end(self) -> None:
        """The mean loss of the steps that lead to each checkpoint."""
        before = 0
        for row in self.rows[1:]:
            row["loss"] = self.course.loss_between(before, row["step"])
            before = row["step"]

    @torch.no_grad()
    def _probe(self, step: int) -> Probe:
        tokenizer, layout = self.model.tokenizer, self.model.layout
        ids = [tokenizer(row.prompt)["input_ids"] for row in self.probe_rows]
        answers = torch.tensor([word_ids(tokenizer, r.answer, r.prompt, r.between)[0] for r in self.probe_rows])
        batch = collate([{"input_ids": i, "labels": i} for i in ids], tokenizer.eos_token_id or 0)
        device = self.model.device

        def logits(tokens: Tensor, mask: Tensor, end: Tensor) -> Tensor:
            final = record(layout, tokens.to(device), mask.bool().to(device)).final
            return logits_at(layout, final, end.to(device)).cpu()

        said = logits(batch["input_ids"], batch["attention_mask"], batch["attention_mask"].sum(1) - 1)
        heard = logits(self.heldout.clean, self.heldout.mask, self.heldout.end)
        trained, held = said.argmax(1), heard.argmax(1)
        return Probe(
            step,
            train_accuracy=(trained == answers).double().mean().item(),
            heldout_accuracy=(held == self.heldout.answer).double().mean().item(),
            end_of_text=0.0 if (end := tokenizer.eos_token_id) is None else (held == end).double().mean().item(),
            finite=bool(heard.isfinite().all()),
        )
