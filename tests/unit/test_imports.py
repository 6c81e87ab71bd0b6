"""Imports go one way, and the command line starts without torch."""

import ast
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "instar"
# A module may import from its own room or from a lower one.
ROOMS = [
    {"config", "progress", "stats", "notebook", "circuits"},
    {"store"},
    {"tasks"},
    {"generate"},
    {"models"},
    {"health", "train", "measure"},
    {"stages"},
    {"sweep", "adopt"},
    {"compare"},
    {"calibrate"},
    {"screen"},
    {"report", "run"},
    {"pipeline"},
    {"live"},
    {"cli"},
]
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
WITHOUT_TORCH = {
    "config",
    "store",
    "progress",
    "compare",
    "report",
    "cli",
    "health",
    "stats",
    "circuits",
    "notebook",
    "run",
    "generate",
}


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def modules():
    return [p for p in SOURCE.rglob("*.py") if p != SOURCE / "__init__.py"]


def test_imports_go_one_way():
    for path in modules():
        for name in imported(path):
            if name.startswith("instar."):
                target = name.split(".")[1]
                assert LEVEL[target] <= LEVEL[room(path)], (
                    f"{path.relative_to(SOURCE)} imports {name}, which is above it"
                )


def test_compare_and_report_read_only_what_the_store_returns():
    for path in modules():
        if room(path) in WITHOUT_TORCH:
            assert not {n for n in imported(path) if n.split(".")[0] in ("torch", "transformers")}, path
        if room(path) in ("compare", "report"):
            allowed = {"compare", "report", "store", "config", "progress", "stats", "circuits", "notebook"}
            assert {n.split(".")[1] for n in imported(path) if n.startswith("instar.")} <= allowed, path


def test_help_imports_no_torch():
    code = (
        "import sys\nfrom instar.cli import app\ntry:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'transformers', 'xarray', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "demo" in done.stdout and done.stdout.strip().endswith("[]")
