"""The models that truths are planted in: embedded ones, and a second seed of one."""

from dataclasses import replace
from pathlib import Path

from instar.calibrate import BASES, SECOND
from instar.models.accounts import content
from instar.models.load import Model, load
from instar.models.organism import FOLDERS
from instar.models.organism.recipe import RECIPES, make


def base_of(name: str, out: Path) -> Model:
    """An embedded model, or the second seed of its recipe, which is made in `OUT/bases` if it is not there (15 minutes)."""
    return load(str(_folder(name, out)))


def weights_of(name: str, out: Path) -> str:
    """The sha256 of a base's weights."""
    return content(_folder(name, out) / "model.safetensors")


def _folder(name: str, out: Path) -> Path:
    if name in FOLDERS:
        return FOLDERS[name]
    if name != SECOND:
        raise ValueError(f"no base {name!r} to plant in; there are {', '.join(BASES)}")
    folder = out / "bases" / name
    if not (folder / "model.safetensors").exists():
        make(folder, replace(RECIPES["gpt2"], seed=2))
    return folder
