"""Everything that decides generated data: `instar data generate` has an option for each."""

from typing import Literal

from pydantic import ConfigDict, Field

from instar.record.config import Part


class GenerateConfig(Part):
    """Training data written by a language model: `instar data generate`."""

    # What is refused is not repeated: it may be a key in the wrong place.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    task: Literal["ioi2", "ioi3", "ioi4", "ioi5"] = Field(default="ioi3", description="N-object IOI")
    rows: int = Field(default=500, ge=1, description="rows to make")
    model: str = Field(min_length=1, description="the model's name at the server")
    base_url: str | None = Field(default=None, description="an OpenAI-compatible server, e.g. http://localhost:8000/v1")
    seed: int = Field(default=0, description="seed of the plans, sent along")
    rows_per_request: int = Field(default=1, ge=1, le=50, description="rows asked for in one answer")
    temperature: float = Field(default=1.0, ge=0, allow_inf_nan=False, description="of the model's sampling")
    answer_tokens: int = Field(default=1000, ge=1, description="tokens that one answer may have")
    concurrency: int = Field(default=4, ge=1, le=64, description="requests at a time")
    timeout: float = Field(
        default=60.0, gt=0, allow_inf_nan=False, description="seconds for one call, its whole answer included"
    )
    retries: int = Field(default=4, ge=0, description="further tries after 429, 5xx, time-outs, lost connections")
    first_wait: float = Field(
        default=1.0, ge=0, allow_inf_nan=False, description="seconds before the second try; doubles, with jitter"
    )
    longest_wait: float = Field(
        default=30.0,
        ge=0,
        allow_inf_nan=False,
        description="seconds before any try, also where the server asks for more",
    )
    failures: int = Field(default=5, ge=1, description="stop after so many requests without an answer, in a row")
    rejects: int = Field(default=50, ge=1, description="stop after so many answers in a row without a row that counts")
    max_requests: int | None = Field(default=None, ge=1, description="calls in all, tries and repairs included")
    max_tokens: int | None = Field(default=None, ge=1, description="tokens in all, as the server counts them")
    api_key_env: str = Field(
        default="OPENAI_API_KEY", pattern="^[A-Z][A-Z0-9_]*$", description="NAME of the variable that holds the key"
    )

    @property
    def people(self) -> int:
        """N of N-object IOI."""
        return int(self.task.removeprefix("ioi"))
