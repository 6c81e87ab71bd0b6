"""The embedded models: small models that have mastered 2-object IOI and not 3-object, and the recipe that makes them."""

from pathlib import Path

_WEIGHTS = Path(__file__).parent / "weights"
NAME = "embedded"
FOLDERS = {
    NAME: _WEIGHTS / "gpt2",
    "embedded-llama": _WEIGHTS / "llama",
    "embedded-shallow": _WEIGHTS / "shallow",
}
"""What `instar.load` knows by name: a GPT-2 and a Llama whose circuits are layers deep, and release 0.3's shallow GPT-2."""
FOLDER = FOLDERS[NAME]
