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


def at_home(place: str) -> str:
    """A place whose `~/` is the home directory; anything else as it is."""
    return str(Path(place).expanduser()) if place.startswith("~/") else place


_FILE_NAME = re.compile(r"[\w][\w.-]{0,99}")


def file_name(value: Any, what: str = "a name") -> str:
    """A name that becomes a file's or a folder's, as it is.

    Raises:
        ValueError: for one that could lead elsewhere, or that some system could not keep.
    """
    if not isinstance(value, str) or not _FILE_NAME.fullmatch(value):
        shown = repr(value) if len(repr(value)) <= 120 else repr(value)[:117] + "…"
        raise ValueError(
            f"{what} {shown}: letters, digits and . _ - are expected, 100 at most, no . or - at its beginning"
        )
    return value
