"""What people call devices, types and places, as the one name that is used here."""

import re
from pathlib import Path
from typing import Any

DTYPES = ("float32", "float64", "bfloat16", "float16")
_SHORT = {
    **dict.fromkeys(("fp32", "f32", "float", "single"), "float32"),
    **dict.fromkeys(("fp64", "f64", "double"), "float64"),
    **dict.fromkeys(("bf16",), "bfloat16"),
    **dict.fromkeys(("fp16", "f16", "half"), "float16"),
}
_FILE = re.compile(r"(?!\.)[\w.-]+")
LONGEST_FILE = 240
"""Bytes of a whole file's name, which may be made of several."""
_DEVICE = re.compile(r"(cpu|cuda|mps|xpu|hpu|npu|xla)(:\d+)?")


def dtype_name(value: Any) -> str:
    """`torch.bfloat16`, "bf16" and "bfloat16" are "bfloat16".

    Raises:
        ValueError: naming those that there are.
    """
    text = str(value).removeprefix("torch.").lower()
    name = _SHORT.get(text, text)
    if name not in DTYPES:
        raise ValueError(f"dtype {value!r} is none of {', '.join(DTYPES)}")
    return name


def device_name(value: Any) -> str:
    """Also "gpu" and "gpu:1", which torch calls cuda.

    Raises:
        ValueError: naming those that there are.
    """
    name = re.sub(r"^gpu(?=:|$)", "cuda", str(value).lower())
    if not _DEVICE.fullmatch(name):
        raise ValueError(f"device {value!r} is none of cpu, cuda, cuda:1, mps")
    return name


def file_name(value: Any, what: str, longest: int = 100) -> str:
    """A name that becomes part of a file's: of a task, a counterfactual, a group, a tuning.

    Raises:
        ValueError: for anything but a short name of letters, digits, `_`, `.` and `-`, without a dot at its start.
    """
    if (
        not isinstance(value, str)
        or not _FILE.fullmatch(value)
        or len(value) > longest
        or len(value.encode()) > LONGEST_FILE
    ):
        raise ValueError(
            f"{what} {value!r:.60}: its name becomes part of a file's name: expected up to {longest} letters, digits, _, - "
            "and ., and no dot at its start"
        )
    return value


def as_file_name(text: str) -> str:
    """A text as such a name: other characters become `-`."""
    short = re.sub(r"[^\w.-]+", "-", text).strip("-").lstrip(".")[:100].encode()[:200].decode(errors="ignore")
    return short or "unnamed"


def at_home(place: str) -> str:
    """A place whose `~/` is the home directory; anything else as it is."""
    return str(Path(place).expanduser()) if place.startswith("~/") else place


_HOLES = re.compile(r"\{([^\W\d]+)\d*\}(?:(?:, | and )\{\1\d*\})*")


def wording_name(template: str) -> str:
    """A template with its holes as dots, however many people it is filled with: "After … went to the …, … gave a … to"."""
    return _HOLES.sub("…", template)
