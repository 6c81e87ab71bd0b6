"""No foreign word is a command to a terminal: names, answers, paths, keys; in a pipe and where colours are asked for."""

import json
import os
import re
import subprocess

import pytest
import yaml

from instar.circuits.circuit import Circuit
from instar.circuits.graph import Graph
from instar.progress import Screen
from instar.report import answered, terminal
from small_run import INSTAR

EVIL = "\x1b]0;PWNED\x07\x1b[31mred\x9b5m\u202egnp [red]r[/red] [link=http://x]l[/link] :smile:"
SGR = re.compile("\x1b\\[[0-9;]*m")


def run(folder, *arguments: str, colours: bool) -> str:
    """What a command prints, and no character of it that a terminal would obey."""
    own = {"FORCE_COLOR": "1", "TERM": "xterm-256color"} if colours else {"NO_COLOR": "1"}
    done = subprocess.run(
        [*INSTAR, *arguments], capture_output=True, cwd=folder, env=os.environ | {"COLUMNS": "400"} | own
    )
    text = (done.stdout + done.stderr).decode()
    obeyed(SGR.sub("", text) if colours else text)
    assert "Traceback" not in text
    return text


def obeyed(text: str) -> None:
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text), ascii(text)


@pytest.fixture
def folder(tmp_path):
    """Data, a configuration and circuits with hostile words, in files with hostile names."""
    name = EVIL.replace("/", "|")
    rows = [{"prompt": f"A {EVIL} and Jo met, so Jo gave it to {k}", "answer": EVIL} for k in range(40)]
    (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows + rows))
    (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"train": {EVIL: 1}}))
    graph = Graph(2, 2, 2)
    for more in ("a", "b"):
        Circuit(graph, graph.names(graph.exists)[:6], how=EVIL).write(tmp_path / f"{name}{more}.json")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("colours", [False, True])
def test_commands_print_foreign_words_as_they_are_spelt(folder, colours):
    name = EVIL.replace("/", "|")
    audit = run(folder, "data", "audit", f"{name}.jsonl", "--test", f"{name}.jsonl", colours=colours)
    assert "\ufffd]0;PWNED" in audit and "[red]r[/red] [link=http://x]l[/link] :smile:" in SGR.sub("", audit)
    diff = run(folder, "diff", f"{name}a.json", f"{name}b.json", colours=colours)
    assert "\ufffd[31mred\ufffd5m" in diff
    for wrong in (
        ("run", f"{name}.yaml", "--out", "x"),
        (EVIL,),
    ):
        assert "error: " in run(folder, *wrong, colours=colours), wrong
    if not colours:
        found = json.loads(run(folder, "data", "audit", f"{name}.jsonl", "--json", colours=False))
        assert json.dumps(EVIL)[1:-1] in json.dumps(found)


@pytest.mark.parametrize("forced", [False, True])
def test_tables_and_links_are_no_commands(forced, monkeypatch):
    console = Screen(width=600, force_terminal=forced, color_system="truecolor" if forced else None)
    for module in (terminal, answered):
        monkeypatch.setattr(module, "console", console)
    with console.capture() as capture:
        terminal.show_screen(EVIL, [], [(EVIL, EVIL)])
        terminal.show_ending({EVIL: EVIL}, {EVIL: EVIL})
        console.print(EVIL, style="bold red")
    text = capture.get()
    obeyed(SGR.sub("", text) if forced else text)
    words = " ".join(SGR.sub("", text).split())
    assert words.count("[red]r[/red] [link=http://x]l[/link] :smile:") == 8
    assert bool(SGR.search(text)) is forced
