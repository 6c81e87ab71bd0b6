"""What is measured of it, and compared, and drawn."""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from instar.record.config.part import MANY, Part, different, listed

Stage = Literal["evaluate", "lens", "attribution", "attention", "patching", "circuit", "roles", "drift", "ledger"]
Test = Literal["causal", "reuse", "shapley"]
CONTROLS = {"old": "more of the old task", "shuffled": "shuffled answers"}
"""Fine-tunings that a change of circuits is to be compared with."""


Dear = Literal["patching", "circuit", "roles", "ledger"]
"""Stages that need not be measured at every checkpoint: they take most of the time."""
Places = Literal["all", "ends"] | Annotated[int, Field(ge=2, le=MANY)]
"""At how many of a series' checkpoints."""


class MeasureConfig(Part):
    """What is measured at every checkpoint."""

    stages: tuple[Stage, ...] = Field(
        default=("evaluate", "lens", "attribution", "attention", "patching", "circuit", "roles", "drift", "ledger"),
        description="measurements, in this order",
    )
    examples: int = Field(default=2, ge=0, le=10_000, description="prompts whose whole attention patterns are kept")
    checkpoints: dict[Dear, Places] = Field(
        default_factory=dict,
        description="at how many checkpoints interventions are measured, evenly spread, the first and last among them: "
        "{patching: 6, circuit: 12, roles: ends, ledger: 12}, or one for all four. Left out: all; of models of ten million "
        "parameters and more as in this example",
    )
    further_seeds: Literal["auto", "ends", "all"] = Field(
        default="auto",
        description="at which checkpoints seeds after the first are measured; auto: ends of models of ten million "
        "parameters and more, else all",
    )
    chunk: int = Field(default=64, ge=1, le=1_000_000, description="pairs a forward pass")
    patching: Literal["exact", "attribution", "auto"] = Field(
        default="auto", description="auto: exact below ten million parameters, else estimated and checked on a sample"
    )
    patching_pairs: int = Field(
        default=32, ge=4, le=1_000_000, description="pairs patched, for each giver's counterfactual"
    )
    edges: Literal["eap", "eap-ig", "gim", "relp", "relp-ah"] = Field(
        default="eap-ig", description="edge attribution at every checkpoint"
    )
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
    ledger_prompts: int | None = Field(
        default=None,
        ge=4,
        le=1_000_000,
        description="prompts a task that the gain is booked on, and grafts for the answer. Left out: 48; of models of ten "
        "million parameters and more 24",
    )
    exact_ends: bool = Field(
        default=True,
        description="score every edge by patching it, at the first and last step, where there are under 5,000",
    )
    replay_chunk: int = Field(default=16, ge=1, le=1_000_000, description="pairs replayed together")
    executor: Literal["serial", "ray"] = Field(
        default="serial", description="ray fans measurements and further trainings out (extra: ray)"
    )
    gpus: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="with ray on GPUs: of a GPU, what each process takes while it measures; 0.25 puts four on one",
    )

    _stages_once = field_validator("stages")(different)

    @field_validator("checkpoints", mode="before")
    @classmethod
    def _one_for_all(cls, value: Any) -> Any:
        """`checkpoints: ends` is every dear stage's."""
        return value if isinstance(value, dict) else dict.fromkeys(get_args(Dear), value)

    @model_validator(mode="after")
    def _behaviour_is_measured(self) -> Self:
        """`stages` holds `evaluate`: every table and drawing stands on it."""
        if "evaluate" not in self.stages:
            raise ValueError('stages must hold "evaluate": every table and drawing stands on it')
        return self


class CompareConfig(Part):
    """Causal tests between the base and a checkpoint, and the controls that an answer stands beside."""

    checkpoints: Annotated[int, Field(ge=1, le=MANY)] | None = Field(
        default=None,
        description="checkpoints compared with the base, the last among them. Left out: 6; of models of ten million "
        "parameters and more 3",
    )
    tests: tuple[Test, ...] = Field(
        default=("causal", "reuse", "shapley"),
        description="what is tested between the base and a checkpoint: grafts and exchanged outputs, whether the new skill "
        "runs on the old circuit, Shapley shares of grafts",
    )
    reuse_prompts: Annotated[int, Field(ge=12, le=1_000_000)] | None = Field(
        default=None,
        description="prompts, for each giver, a third of which scores edges, a third chooses the size, and a third tells "
        "what circuits do. Left out: 96; of models of ten million parameters and more 36",
    )
    draws: Annotated[int, Field(ge=20, le=100_000)] | None = Field(
        default=None,
        description="circuits with permuted heads that reuse is compared with, and sets of other edges. Left out: 100; of "
        "models of ten million parameters and more 30",
    )
    others: tuple[str, ...] | None = Field(
        default=None,
        description="other tasks whose circuits reuse is compared with. Left out: up to three of the library's that the base "
        "has mastered",
    )
    pairs: int = Field(
        default=64, ge=8, le=1_000_000, description="clean prompts a task for grafting and cross-model patching"
    )
    random_sets: int = Field(default=100, ge=0, le=100_000, description="matched random sets of heads for necessity")
    exchanged_sets: Annotated[int, Field(ge=0, le=100_000)] | None = Field(
        default=None,
        description="of these, for grafting and cross-model patching. Left out: 30; of models of ten million parameters "
        "and more 10",
    )
    single: bool | None = Field(
        default=None,
        description="graft every single head, and all layers up to each, at the last step. Left out: yes; of models of "
        "ten million parameters and more no",
    )
    controls: tuple[Literal["old", "shuffled"], ...] = Field(
        default=("old", "shuffled"),
        description="fine-tunings of the same length to compare with: more of the old task, shuffled answers",
    )

    _controls_in_short = field_validator("controls", mode="before")(listed)
    _tests_in_short = field_validator("tests", "others", mode="before")(listed)
    _tests_once = field_validator("tests")(different)
    _controls_once = field_validator("controls")(different)


class ReportConfig(Part):
    """The page and its figures."""

    gifs: bool = Field(
        default=True, description="animations of the circuit, stream, layers, heads, patching and ledger"
    )
    static: bool = Field(default=True, description="PNG and SVG figures, and the poster")
