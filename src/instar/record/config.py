"""A run in one file: every choice that decides a number, with its default.

YAML in and out. Unknown keys are errors that name the nearest known one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from instar.record.explain import faults
from instar.record.foreign import shown, yaml_of
from instar.record.names import at_home, device_name, dtype_name

Stage = Literal["evaluate", "lens", "attribution", "attention", "patching", "circuit", "roles", "drift"]

Column = Literal[
    "prompt", "answer", "corrupted", "foils", "contrast", "counterfactual", "split", "place", "wording", "spans"
]
"""What a column of a user's data may be."""
CONTROLS = {"old": "more of the old task", "shuffled": "shuffled answers"}
"""Fine-tunings that a change of circuits is to be compared with."""


def _listed(value: Any) -> Any:
    """`0,1,2` is a list, as a command line has it."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _home(value: Any) -> Any:
    return at_home(value) if isinstance(value, str) else value


SEEDS, MANY = 2**32, 100_000
"""numpy and torch take seeds below the one; a fine-tuning has at most the other's checkpoints."""


class Part(BaseModel):
    """Frozen, and strict about its keys; every number is finite, and true is none."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        inside = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(v, bool) for v in inside) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError(
                "yes, no, true and false are no numbers and no names: write the number, or the name in quotes"
            )
        return value


def _different(values: tuple[Any, ...]) -> tuple[Any, ...]:
    twice = next((v for v in values if values.count(v) > 1), None) if len(set(values)) < len(values) else None
    if twice is not None:
        raise ValueError(f"{twice!r} stands twice: name each once")
    return values


class ModelConfig(Part):
    """Which model is fine-tuned."""

    source: str = Field(default="embedded", description='"embedded", a folder, or a hub id; also as id@revision')
    revision: str | None = Field(default=None, description="hub revision")
    device: str = Field(default="cpu", description="torch device for training and measuring: cpu, cuda, cuda:1, mps")
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = Field(
        default="float32", description="type that is measured in; training is in float32"
    )
    chat: str | None = Field(
        default=None,
        description="a user's message: prompts begin the assistant's turn of the model's chat template; left out: plain text",
    )
    trust_remote_code: bool = Field(default=False, description="run code that comes with the repository")

    _source_at_home = field_validator("source", mode="before")(_home)
    _device_in_short = field_validator("device", mode="before")(device_name)
    _dtype_in_short = field_validator("dtype", mode="before")(dtype_name)

    @model_validator(mode="before")
    @classmethod
    def _revision_in_the_name(cls, value: Any) -> Any:
        """`source: id@revision` is `source: id` and `revision: revision`."""
        source = value.get("source") if isinstance(value, dict) else None
        if isinstance(source, str) and "@" in source and not Path(source).exists():
            name, _, revision = source.rpartition("@")
            if value.get("revision") not in (None, revision):
                raise ValueError(f"source names revision {revision!r} and revision is {value['revision']!r}; give one")
            return {**value, "source": name, "revision": revision}
        return value


class TasksConfig(Part):
    """The mastered task and the one it fails: library names, or paths to a .py file or to data (docs/own-data.md)."""

    old: str = Field(default="ioi2", description="the task the base has mastered")
    new: str = Field(default="ioi3", description="the task it is fine-tuned on")

    _tasks_at_home = field_validator("old", "new", mode="before")(_home)


class SeriesConfig(Part):
    """Checkpoints that somebody else trained, or that `instar.recorder` wrote: nothing is trained, the base is step 0."""

    checkpoints: str | None = Field(
        default=None,
        description="a glob of folders or .safetensors files whose names end in their step (out/checkpoint-*), or hub "
        "revisions that do (org/name@step{1000,2000}, name@step{1000..9000..1000})",
    )
    recorded: bool = Field(default=False, description="they were recorded here, during training")
    evict: bool = Field(
        default=False, description="remove from the hub's cache what was fetched, once a checkpoint is measured"
    )

    _checkpoints_at_home = field_validator("checkpoints", mode="before")(_home)

    @model_validator(mode="after")
    def _from_somewhere(self) -> Self:
        if (self.checkpoints is None) is not self.recorded:
            raise ValueError(
                "series needs checkpoints: a glob, or hub revisions; recorded is what instar.recorder writes"
            )
        return self


class DataConfig(Part):
    """What is trained on, tested on and measured on."""

    train_file: str | None = Field(
        default=None, description="prompts and answers to train on (file#split: of one split); the new task's if absent"
    )
    columns: dict[Column, str] = Field(
        default_factory=dict, description="what your files call their columns, such as {prompt: text, answer: label}"
    )
    holdout: float | None = Field(
        default=None, gt=0, lt=1, description="share of a task file's prompts to test on, where no row names a split"
    )
    train_size: int = Field(
        default=2944, ge=1, le=10_000_000, description="rows to train on; of a task file all, up to this many"
    )
    test_size: int = Field(default=1000, ge=20, le=1_000_000, description="held-out pairs a task for behaviour")
    measure_pairs: int = Field(default=96, ge=8, le=1_000_000, description="held-out pairs a task for what is inside")
    seed: int = Field(default=0, ge=0, lt=SEEDS, description="seed of all prompts")
    allow_leaks: bool = Field(default=False, description="train although test prompts are in the training data")
    general_text: str | None = Field(
        default=None, description="text file for the divergence; the embedded model has its own"
    )

    _files_at_home = field_validator("train_file", "general_text", mode="before")(_home)

    @model_validator(mode="after")
    def _enough_pairs(self) -> Self:
        """`measure_pairs` is at most `test_size`, which it is taken from."""
        if self.measure_pairs > self.test_size:
            raise ValueError(
                f"measure_pairs={self.measure_pairs} are taken from test_size={self.test_size}: raise test_size"
            )
        return self


class LoraConfig(Part):
    """Low-rank adapters in place of full fine-tuning (arXiv:2106.09685)."""

    rank: int = Field(default=8, ge=1, le=65_536, description="rank of every adapter")
    alpha: float | None = Field(default=None, gt=0, description="scale is alpha / rank; 2 × rank where left out")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="on what the adapters read")

    @model_validator(mode="before")
    @classmethod
    def _in_short(cls, value: Any) -> Any:
        """`lora: "rank=8,alpha=16"` is `lora: {rank: 8, alpha: 16}`."""
        if not isinstance(value, str):
            return value
        parts = (part.strip().partition("=") for part in value.split(","))
        return {name: number for name, _, number in parts}


class TrainConfig(Part):
    """Fine-tuning."""

    steps: int = Field(default=184, ge=1, le=10_000_000, description="optimizer steps")
    batch_size: int = Field(default=16, ge=1, le=1_000_000, description="rows a step")
    learning_rate: float = Field(default=1e-5, gt=0, description="AdamW's")
    schedule: Literal["constant", "linear", "cosine", "constant_with_warmup"] = Field(
        default="constant", description="of the learning rate, as transformers has them"
    )
    warmup_steps: int = Field(default=0, ge=0, le=10_000_000, description="for constant_with_warmup, linear and cosine")
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW's")
    loss: Literal["answer", "completion", "full"] = Field(
        default="answer", description="answer: its tokens; completion: these and end-of-text; full: the prompt too"
    )
    repeat: int = Field(default=1, ge=1, le=10_000, description="write the answer this many times (the log used 20)")
    checkpoints: int | Literal["log"] | tuple[int, ...] = Field(
        default=8, description='every N steps, "log" (1, 2, 4, …), or a list of steps; 0 and the last are always kept'
    )
    save: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="16-bit types store differences from step 0; adapters are stored by themselves"
    )
    lora: LoraConfig | None = Field(
        default=None, description="train adapters on every projection of attention and MLP; the rest is frozen"
    )
    freeze_embeddings: bool = Field(default=False, description="train everything but token and position embeddings")
    seeds: tuple[int, ...] = Field(
        default=(0, 1, 2),
        min_length=1,
        max_length=1000,
        description="one fine-tuning each; a claim about training needs at least three",
    )
    report_to: tuple[str, ...] = Field(default=(), description="passed to transformers: tensorboard, wandb, trackio")

    _seeds_in_short = field_validator("seeds", mode="before")(_listed)
    _seeds_once = field_validator("seeds")(_different)

    @model_validator(mode="after")
    def _steps_exist(self) -> Self:
        """every step of `checkpoints` lies between 0 and `steps`; N is at least 1; there are at most 100,000; seeds are
        below 2^32; adapters are saved in float32."""
        if any(not 0 <= seed < SEEDS for seed in self.seeds):
            raise ValueError(f"seeds {shown(self.seeds)} must lie between 0 and {SEEDS - 1}")
        if self.lora is not None and self.save != "float32":
            raise ValueError(f"save: {self.save} is for full fine-tuning; adapters are small, and are saved in float32")
        if isinstance(self.checkpoints, int) and self.checkpoints < 1:
            raise ValueError("checkpoints must be at least 1")
        if isinstance(self.checkpoints, int) and self.steps // self.checkpoints > MANY:
            raise ValueError(
                f"checkpoints: {self.checkpoints} of steps={self.steps} are more than {MANY:,}: keep fewer"
            )
        if isinstance(self.checkpoints, tuple) and any(not 0 <= s <= self.steps for s in self.checkpoints):
            raise ValueError(f"checkpoints {shown(list(self.checkpoints))} must lie between 0 and steps={self.steps}")
        return self

    def checkpoint_steps(self) -> list[int]:
        """The steps whose weights are kept, 0 and the last included."""
        if self.checkpoints == "log":
            middle = [2**i for i in range(self.steps.bit_length())]
        elif isinstance(self.checkpoints, int):
            middle = list(range(0, self.steps, self.checkpoints))
        else:
            middle = list(self.checkpoints)
        return sorted({0, *(s for s in middle if s <= self.steps), self.steps})


class MeasureConfig(Part):
    """What is measured at every checkpoint."""

    stages: tuple[Stage, ...] = Field(
        default=("evaluate", "lens", "attribution", "attention", "patching", "circuit", "roles", "drift"),
        description="measurements, in this order",
    )
    examples: int = Field(default=2, ge=0, le=10_000, description="prompts whose whole attention patterns are kept")
    chunk: int = Field(default=64, ge=1, le=1_000_000, description="pairs a forward pass")
    patching: Literal["exact", "attribution", "auto"] = Field(
        default="auto", description="auto: exact below ten million parameters, else estimated and checked on a sample"
    )
    patching_pairs: int = Field(
        default=32, ge=4, le=1_000_000, description="pairs patched, for each giver's counterfactual"
    )
    edges: Literal["eap", "eap-ig"] = Field(default="eap-ig", description="edge attribution at every checkpoint")
    edge_steps: int = Field(default=5, ge=1, le=10_000, description="interpolation steps of eap-ig")
    circuit_pairs: int = Field(
        default=32,
        ge=4,
        le=1_000_000,
        description="pairs a counterfactual for scores, and as many other ones for faithfulness",
    )
    role_pairs: int = Field(
        default=16, ge=4, le=1_000_000, description="pairs, for each giver, that heads' roles are read from"
    )
    exact_ends: bool = Field(
        default=True,
        description="score every edge by patching it, at the first and last step, where there are under 5,000",
    )
    replay_chunk: int = Field(default=16, ge=1, le=1_000_000, description="pairs replayed together")
    executor: Literal["serial", "ray"] = Field(default="serial", description="ray fans checkpoints out (extra: ray)")

    _stages_once = field_validator("stages")(_different)

    @model_validator(mode="after")
    def _behaviour_is_measured(self) -> Self:
        """`stages` holds `evaluate`: every table and drawing stands on it."""
        if "evaluate" not in self.stages:
            raise ValueError('stages must hold "evaluate": every table and drawing stands on it')
        return self


class CompareConfig(Part):
    """Causal tests between the base and a checkpoint, and the controls that a verdict stands beside."""

    checkpoints: int = Field(
        default=6, ge=1, le=MANY, description="checkpoints compared with the base, the last among them"
    )
    pairs: int = Field(
        default=64, ge=8, le=1_000_000, description="clean prompts a task for grafting and cross-model patching"
    )
    random_sets: int = Field(default=100, ge=0, le=100_000, description="matched random sets of heads for necessity")
    exchanged_sets: int = Field(
        default=30, ge=0, le=100_000, description="of these, for grafting and cross-model patching"
    )
    single: bool = Field(
        default=True, description="graft every single head, and all layers up to each, at the last step"
    )
    controls: tuple[Literal["old", "shuffled"], ...] = Field(
        default=("old", "shuffled"),
        description="fine-tunings of the same length to compare with: more of the old task, shuffled answers",
    )

    _controls_in_short = field_validator("controls", mode="before")(_listed)
    _controls_once = field_validator("controls")(_different)


class ReportConfig(Part):
    """The page and its figures."""

    gifs: bool = Field(default=True, description="animations of the stream, layer and head panels")
    static: bool = Field(default=True, description="PNG and SVG figures")


class RunConfig(Part):
    """Everything that decides a run."""

    model: ModelConfig = ModelConfig()
    tasks: TasksConfig = TasksConfig()
    series: SeriesConfig | None = None
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    measure: MeasureConfig = MeasureConfig()
    compare: CompareConfig = CompareConfig()
    report: ReportConfig = ReportConfig()
    threads: int | None = Field(default=None, ge=1, le=4096, description="torch threads; pin it to reproduce bytes")

    @model_validator(mode="after")
    def _enough_pairs(self) -> Self:
        """`measure.patching_pairs`, and twice `measure.circuit_pairs`, are at most `data.test_size`."""
        for stage, name, needed in (
            ("patching", "patching_pairs", self.measure.patching_pairs),
            ("circuit", "circuit_pairs (twice: scores and faithfulness)", 2 * self.measure.circuit_pairs),
        ):
            if stage in self.measure.stages and needed > self.data.test_size:
                raise ValueError(
                    f"measure.{name} takes {needed} of data.test_size={self.data.test_size} pairs: raise test_size"
                )
        return self

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        """A model by its name alone; of checkpoints that somebody else trained there is one fine-tuning and no control."""
        if not isinstance(value, dict):
            return value
        if isinstance(value.get("model"), str):
            value = {**value, "model": {"source": value["model"]}}
        if value.get("series") is not None:
            parts = {"train": {"seeds": [0]}, "compare": {"controls": []}}
            given = {name: value.get(name, {}) for name in parts}
            value = {**value, **{n: {**parts[n], **own} for n, own in given.items() if isinstance(own, dict)}}
        return value

    @model_validator(mode="after")
    def _series_is_one_fine_tuning(self) -> Self:
        """with `series`, `train.seeds` has one seed and `compare.controls` none."""
        if self.series is not None and (len(self.train.seeds) != 1 or self.compare.controls):
            raise ValueError("series holds one fine-tuning: give train.seeds one seed and leave compare.controls empty")
        return self

    @classmethod
    def read(cls, path: Path, instead: Mapping[str, dict[str, Any]] | None = None) -> "RunConfig":
        """A configuration from YAML, where `instead` names by part what is to stand in place of the file's.

        Raises:
            ValueError: naming the file, the key, and the nearest known key.
        """
        if not path.exists():
            raise ValueError(f"no configuration file {path}")
        value = {} if (found := yaml_of(path)) is None else found
        if not isinstance(value, dict):
            raise ValueError(f"{path} holds {type(value).__name__}, expected keys and values")
        for part, changes in (instead or {}).items():
            if changes:
                own = value.get(part) or {}
                own = {"source": own} if isinstance(own, str) else own
                value[part] = {**own, **changes} if isinstance(own, dict) else own
        return cls.checked(value, str(path))

    @classmethod
    def checked(cls, value: dict[str, Any], where: str) -> "RunConfig":
        """A configuration from keys and values.

        Raises:
            ValueError: a sentence a fault, each with `where` it was found.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise ValueError(faults(error, cls, where)) from None

    def yaml(self) -> str:
        """The whole configuration, defaults written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
