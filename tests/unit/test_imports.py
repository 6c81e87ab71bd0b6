"""Imports go one way, files import each other in no circle, and the command line starts without torch."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "instar"
# What each room may import; a file at the top level is a room of its own. README has the rooms in words.
MAY_IMPORT: dict[str, set[str]] = {
    "progress": {"notebook"},
    "notebook": set(),
    "stats": set(),
    "circuits": {"notebook", "record"},
    "record": set(),
    "tasks": {"record", "stats"},
    "generate": {"tasks", "record", "progress"},
    "models": {"tasks", "record", "stats"},
    "measure": {"models", "tasks", "circuits", "stats", "progress"},
    "training": {"measure", "models", "tasks", "record"},
    "between": {"measure", "models", "tasks", "circuits", "stats", "progress"},
    "compare": {"record", "circuits", "stats", "notebook"},
    "report": {"record", "circuits", "stats", "progress", "notebook"},
    "workflow": {
        *("record", "tasks", "models", "training", "measure", "between", "compare", "report"),
        *("circuits", "stats", "notebook", "progress"),
    },
    "live": {"workflow", "compare", "measure", "training", "models", "tasks", "record", "progress"},
    "calibrate": {
        *("workflow", "compare", "between", "measure", "training", "models", "tasks", "record"),
        *("circuits", "stats"),
    },
    "cli": {
        *("calibrate", "workflow", "report", "compare", "generate", "models", "tasks", "record"),
        *("circuits", "progress", "notebook"),
    },
}
WITHOUT_TORCH = {"progress", "notebook", "stats", "circuits", "record", "generate", "compare", "report", "cli"}


def modules() -> dict[str, Path]:
    """Every module by its name, such as `instar.tasks.pair`."""
    names = {p: ".".join(("instar", *p.relative_to(SOURCE).with_suffix("").parts)) for p in SOURCE.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


def imported(path: Path) -> set[str]:
    """Whole names of what a file imports anywhere in it; `from instar.tasks import words` is `instar.tasks.words`."""
    every, found = modules(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= parts & every.keys() or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else name


INSIDE = {name: {n for n in imported(path) if n.startswith("instar.")} for name, path in modules().items()}


@pytest.mark.parametrize("name", sorted(MAY_IMPORT))
def test_a_room_imports_only_what_it_may(name):
    for module, targets in INSIDE.items():
        if room(module) == name:
            other = {t for t in targets if room(t) not in MAY_IMPORT[name] | {name}}
            assert not other, f"{module} imports {', '.join(sorted(other))}: {name} may not"


def test_the_table_is_of_these_rooms_and_of_no_upward_arrow():
    assert {room(module) for module in INSIDE} == {*MAY_IMPORT, "instar"}
    # No room is above and below another.
    assert len([*TopologicalSorter(MAY_IMPORT).static_order()]) == len(MAY_IMPORT)
    used = {name: {room(t) for m, targets in INSIDE.items() if room(m) == name for t in targets} for name in MAY_IMPORT}
    assert {name: MAY_IMPORT[name] - used[name] for name in MAY_IMPORT if MAY_IMPORT[name] - used[name]} == {}


def test_no_files_import_each_other_in_a_circle():
    """Imports inside functions count: they may save time, but must not dodge a circle."""
    try:
        list(TopologicalSorter(INSIDE).static_order())
    except CycleError as circle:
        pytest.fail(" → ".join(circle.args[1]))


def test_rooms_without_torch():
    for name, path in modules().items():
        if room(name) in WITHOUT_TORCH or name == "instar.workflow.opened":
            assert not {n for n in imported(path) if n.split(".")[0] in ("torch", "transformers")}, name


def test_help_imports_no_torch():
    code = (
        "import sys\nfrom instar.cli import app\ntry:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'transformers', 'xarray', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "demo" in done.stdout and done.stdout.strip().endswith("[]")
