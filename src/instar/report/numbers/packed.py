"""Arrays as the page's scripts read them: bytes, with a type, a shape and a place.

In the page's first part they stand in its JSON (base64). In the second, which is packed as a whole, they stand behind it:

    length of the JSON (4 bytes, little-endian) · the JSON, filled with spaces to a multiple of 4 · the arrays' bytes
"""

import base64
import json
from typing import Any, Literal

import numpy as np

Kind = Literal["float32", "uint16", "uint8", "int16"]


def packed(values: np.ndarray, kind: Kind, steps: bool = False) -> dict[str, Any]:
    """An array of one of the types that a browser has, little-endian; `steps`: differences along the first axis.

    From checkpoint to checkpoint little changes, and what does not change packs well.
    """
    own = np.ascontiguousarray(values, np.dtype(kind).newbyteorder("<"))
    told = np.diff(own, axis=0, prepend=np.zeros_like(own[:1])) if steps else own
    return {"kind": kind, "shape": list(own.shape), "bytes": told.tobytes(), **({"steps": True} if steps else {})}


def shares(values: np.ndarray) -> dict[str, Any]:
    """Shares from 0 to 1 as bytes over steps: a 255th is finer than a colour."""
    return packed(np.rint(np.nan_to_num(values) * 255).clip(0, 255), "uint8", steps=True)


def as_text(value: Any) -> str:
    """JSON with arrays in base64, that cannot end the script element it stands in."""
    return _safe(json.dumps(value, default=lambda own: base64.b64encode(own).decode(), **PLAIN))


def as_bytes(value: Any) -> bytes:
    """JSON with every array's place behind it, and the arrays."""
    kept, size = [], 0

    def place(own: bytes) -> int:
        nonlocal size
        at, filled = size, own + bytes(-len(own) % 4)
        kept.append(filled)
        size += len(filled)
        return at

    text = _safe(json.dumps(value, default=place, **PLAIN)).encode()
    text += b" " * (-len(text) % 4)
    return len(text).to_bytes(4, "little") + text + b"".join(kept)


PLAIN: Any = {"ensure_ascii": True, "allow_nan": False, "separators": (",", ":")}


def _safe(text: str) -> str:
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
