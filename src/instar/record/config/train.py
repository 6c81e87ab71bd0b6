"""How it is fine-tuned."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from instar.record.config.part import MANY, SEEDS, Part, different, in_short, listed
from instar.record.foreign import shown


class LoraConfig(Part):
    """Low-rank adapters in place of full fine-tuning (arXiv:2106.09685)."""

    rank: int = Field(default=8, ge=1, le=65_536, description="rank of every adapter")
    alpha: float | None = Field(default=None, gt=0, description="scale is alpha / rank; 2 × rank where left out")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="on what the adapters read")

    @model_validator(mode="before")
    @classmethod
    def _in_short(cls, value: Any) -> Any:
        """`lora: "rank=8,alpha=16"` is `lora: {rank: 8, alpha: 16}`."""
        return in_short(value)


class LearningConfig(Part):
    """Checkpoints where the new task is learnt: a probe of held-out choosing says at which steps (docs/checkpoints.md)."""

    learning: int = Field(ge=3, le=MANY, description="at most so many, 0 and the last among them")


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
    checkpoints: int | Literal["log"] | tuple[int, ...] | LearningConfig = Field(
        default=8,
        description='every N steps, "log" (1, 2, 4, …), a list of steps, or {learning: 24}: at most so many, where the new '
        "task is learnt; 0 and the last are always kept",
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

    @field_validator("checkpoints", mode="before")
    @classmethod
    def _checkpoints_in_short(cls, value: Any) -> Any:
        """`learning=24` is `{learning: 24}`, and `1,2,4` a list."""
        if isinstance(value, str) and "=" in value:
            name, _, number = value.partition("=")
            value = {name.strip(): int(number) if number.strip().isdecimal() else number}
        if isinstance(value, dict):
            number = value.get("learning")
            if set(value) != {"learning"} or type(number) is not int or not 3 <= number <= MANY:
                raise ValueError(f"of keys there is one, learning: a number of checkpoints from 3 to {MANY:,}")
        return listed(value) if isinstance(value, str) and "," in value else value

    _seeds_in_short = field_validator("seeds", mode="before")(listed)
    _seeds_once = field_validator("seeds")(different)

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

    @property
    def most_checkpoints(self) -> int:
        """How many checkpoints there are at most."""
        known = len(self.checkpoint_steps())
        return min(self.checkpoints.learning, self.steps + 1) if isinstance(self.checkpoints, LearningConfig) else known

    def checkpoint_steps(self) -> list[int]:
        """The steps whose weights are kept, 0 and the last included; where learning decides, these two are known."""
        if self.checkpoints == "log":
            middle = [2**i for i in range(self.steps.bit_length())]
        elif isinstance(self.checkpoints, int):
            middle = list(range(0, self.steps, self.checkpoints))
        elif isinstance(self.checkpoints, LearningConfig):
            middle = []
        else:
            middle = list(self.checkpoints)
        return sorted({0, *(s for s in middle if s <= self.steps), self.steps})
