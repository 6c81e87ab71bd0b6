"""What pydantic says of a configuration, as sentences that name the file, the key and the nearest known one."""

import difflib
from typing import Any, get_args

from pydantic import ValidationError

from instar.record.foreign import clean, cut, shown

MOST = 10
"""How many faults of a file are told."""


def faults(error: ValidationError, model: Any, where: str) -> str:
    """A line a fault, each with `where` it was found; what was found is shown short and escaped."""
    found = [f"{where}: {_explain(e, model)}" for e in error.errors()[:MOST]]
    more = error.error_count() - MOST
    return "\n".join([*found, *([f"{where}: and {more} more faults"] if more > 0 else [])])


def _explain(error: Any, model: Any) -> str:
    where = [clean(cut(str(step), 60)).replace("\n", " ") for step in error["loc"]]
    path = ".".join(where)
    if error["type"] == "literal_error":
        near = difflib.get_close_matches(str(error["input"]), error["ctx"]["expected"].split("'")[1::2], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"{path}: {error['msg']}, found {shown(error['input'])}{hint}"
    if error["type"] != "extra_forbidden":
        return f"{path}: {clean(cut(error['msg'], 600))}, found {shown(error['input'])}"
    part = model
    for step in where[:-1]:
        part = part.model_fields[step].annotation
        part = next((p for p in get_args(part) if p is not type(None)), part)
    near = difflib.get_close_matches(where[-1], part.model_fields, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(part.model_fields)}"
    return f"{path}: unknown key; {hint}"
