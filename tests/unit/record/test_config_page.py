"""docs/config.md is made from the models of `instar.record.config`: its tables are written here, and a stale one fails.

`INSTAR_WRITE=1 pytest tests/unit/record/test_config_page.py` writes them anew.
"""

import re
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel, Field

from instar.record.config import RunConfig
from pages import DOCS, is_up_to_date

PAGE = DOCS / "config.md"
PLAIN = {str: "text", int: "whole number", float: "number", bool: "true or false"}
PLURAL = {str: "texts", int: "whole numbers", float: "numbers"}
LIMITS = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}",
          "min_length": "at least {} of them", "max_length": "at most {} of them"}  # fmt: skip


def is_part(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def part_of(kind: Any) -> type[BaseModel] | None:
    """The model that a field holds, also where it may be null."""
    return next((k for k in (kind, *get_args(kind)) if is_part(k)), None)


def written(kind: Any) -> str:
    """A type in words."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return written(inner[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if k is type(None) else written(k) for k in inner)
    if origin in (tuple, list):
        return f"list of {PLURAL.get(inner[0]) or written(inner[0])}"
    if origin is dict:
        return f"from {written(inner[0])} to {written(inner[1])}"
    return "a part" if is_part(kind) else PLAIN[kind]


def limits(field: Any) -> str:
    """What pydantic enforces of one field alone."""
    found = []
    for one in field.metadata:
        known = [(name, getattr(one, name)) for name in LIMITS if getattr(one, name, None) is not None]
        assert known, f"{one!r}: say in LIMITS what this constraint means"
        found += [LIMITS[name].format(value) for name, value in known]
    return ", ".join(found)


def default(field: Any) -> str:
    if field.is_required():
        return "(needed)"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "below"
    text = yaml.safe_dump(list(value) if isinstance(value, tuple) else value, default_flow_style=True, width=1000)
    return f"`{text.strip().removesuffix('...').strip()}`"


def rules(part: type[BaseModel]) -> list[str]:
    """What is checked of several fields together: the checks' docstrings, or their names where they have none."""
    found = part.__pydantic_decorators__.model_validators
    return [" ".join((v.func.__doc__ or name.strip("_").replace("_", " ")).split()) for name, v in found.items()]


def section(part: type[BaseModel], at: str) -> list[str]:
    lines = [f"## {f'`{at}`' if at else 'The file'}", "", " ".join((part.__doc__ or "").split()), ""]
    lines += ["| key | what | type | default |", "| --- | --- | --- | --- |"]
    inner = []
    for name, field in part.model_fields.items():
        own, limit = part_of(field.annotation), limits(field)
        what = field.description or " ".join(((own.__doc__ if own else "") or "").split())
        assert what, f"{at}.{name}: a field needs a description"
        if own is not None:
            inner += section(own, f"{at}.{name}".strip("."))
        cells = [f"`{name}`", what, written(field.annotation) + (f"; {limit}" if limit else ""), default(field)]
        lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    checked = [f"- {rule[0].upper()}{rule[1:]}" for rule in rules(part)]
    return [*lines, "", *(["Also checked, or allowed:", "", *checked, ""] if checked else []), *inner]


def reference(part: type[BaseModel] = RunConfig) -> str:
    return "\n".join(section(part, "")).strip()


def test_the_page_is_the_configuration():
    is_up_to_date("config.md", "reference", reference(), __file__)


def test_every_key_of_a_written_configuration_is_on_the_page():
    text = PAGE.read_text(encoding="utf-8")

    def walk(value: Any):
        for key, inner in value.items():
            yield key
            if isinstance(inner, dict):
                yield from walk(inner)

    keys = set(walk(yaml.safe_load(RunConfig().yaml())))
    assert len(keys) > 40 and [key for key in keys if f"| `{key}` |" not in text] == []


def test_a_changed_description_default_or_limit_makes_it_stale():
    class Inner(BaseModel):
        """Inside."""

        size: int = Field(default=3, ge=1, lt=9, description="how | many")

    class Outer(BaseModel):
        """Outside."""

        inner: Inner | None = Field(default=None, description="may be left out")
        kinds: tuple[Literal["a", "b"], ...] = Field(default=("a",), min_length=1, description="which")
        must: str = Field(description="needed")

    page = reference(Outer)
    assert "| `size` | how \\| many | whole number; at least 1, below 9 | `3` |" in page and "## `inner`" in page
    assert "| `kinds` | which | list of `a`, `b`; at least 1 of them | `[a]` |" in page
    assert "| `inner` | may be left out | a part or null | `null` |" in page and "| text | (needed) |" in page
    assert re.search(r"^Inside\.$", page, re.MULTILINE)

    class Bare(BaseModel):
        """No description."""

        size: int = 1

    with pytest.raises(AssertionError, match="size: a field needs a description"):
        reference(Bare)
