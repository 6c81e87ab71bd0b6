"""What a finished run prints: about a screenful, with both shares of a graft, and foreign text as it is."""

import pytest

from instar.circuits.circuit import Circuit
from instar.circuits.graph import Graph
from instar.compare.chance import beside
from instar.compare.diff import diff
from instar.progress import Screen
from instar.report import answered, terminal
from instar.stats.intervals import Interval
from instar.workflow.screen import Screened


def interval(value, low, high):
    return {"value": value, "low": low, "high": high}


def series(steps):
    count = len(steps)
    values = {name: [0.5] * count for name in ("accuracy", "accuracy_low", "accuracy_high", "logit_diff")}
    return {"steps": steps, **values}


@pytest.fixture
def summary():
    steps = [0, 1, 2, 4, 8, 16, 32, 64, 128]
    text = "The old circuit was rewired: of the inside, inside<qk> brings 0.31 [0.21, 0.42]. " + "Numbers. " * 120
    conditions = {"gain": True}
    rows = [
        {"step": s, "kind": k, "text": text, "conditions": conditions, "missing": []}
        for s, k in ((8, "undetermined"), (32, "undetermined"), (128, "rewired"))
    ]
    booked = {"booked": interval(0.6, 0.4, 0.8), "share": interval(0.46, 0.3, 0.6)}
    layers = [
        {
            "name": "a3",
            **booked,
            "into": interval(0.31, 0.21, 0.42),
            "lost": interval(0.12, -0.001, 0.2),
            "direct": 0.1,
        },
        {"name": "m1", **booked, "into": interval(None, None, None), "lost": None, "direct": None},
    ]
    moved = {"layer": 1, "part": "mlp", "before": 0.1, "after": 0.9, "change": 0.8, "low": 0.5, "high": 1.1}
    head = {"head": "a0.h[bold]1", "change": -0.5, "low": -0.7, "high": -0.3, "before": 0.5, "after": 0.0}
    control = {"is": "more of the old task", "two": {"accuracy": 1.0}, "three": {"accuracy": 0.25}}
    return {
        "old": "two", "new": "three", "tasks": {"two": series(steps), "three": series(steps)},
        "changed": {
            "layers": {"two": [moved | {"moved": False}], "three": [moved | {"moved": True}]},
            "heads": {"two": [], "three": [head | {"moved": True}]},
        },
        "circuits": {"two": {"giver1": {"size": [18, None]}}, "three": None},
        "health": [{"seed": 0, "step": 4, "kind": "odd", "text": "[red]x[/red]"}], "failed": [], "checkpoints": [],
        "controls": {"old": control, "no": None},
        "dynamics": {"key": {"layers": layers}},
        "verdict": rows[-1], "instar": "0.3.0",
    }  # fmt: skip


@pytest.fixture
def printed(monkeypatch):
    def show(summary, width=110):
        console = Screen(width=width, force_terminal=False)
        for module in (terminal, answered):
            monkeypatch.setattr(module, "console", console)
        with console.capture() as capture:
            terminal.show_summary(summary)
        return capture.get()

    return show


def test_accuracy_stands_beside_what_needs_no_circuit(summary, printed):
    assert "without any circuit" not in printed(summary)  # a summary of before there was any
    own = {"pairs": 60, "learnt_on": "rows trained on"}
    place = own | {
        "kind": "best place",
        "says": "place 2",
        "accuracy": 0.55,
        "low": 0.43,
        "high": 0.67,
        "trained_on": 2944,
    }
    chance = own | {
        "kind": "chance",
        "says": "any candidate",
        "accuracy": 1 / 3,
        "low": 1 / 3,
        "high": 1 / 3,
        "trained_on": 0,
    }
    word = place | {"kind": "commonest answer", "says": "[red]Jim", "accuracy": 0.0, "low": 0.0, "high": 0.06}
    summary["tasks"]["three"]["baselines"] = [place, chance, word]
    summary["tasks"]["two"]["baselines"] = [chance]
    text = " ".join(printed(summary).split())
    assert (
        "three without any circuit: best place (place 2) 55.0% [43.0, 67.0], chance 33.3%, commonest answer ([red]Jim) 0.0% "
        "[0.0, 6.0]; from 2,944 rows trained on, the best on them first"
    ) in text
    assert "two without any circuit: chance 33.3%; no rows to learn others from" in text


def test_an_earlier_verdict_is_printed_with_key_layers_and_controls(summary, printed):
    text = printed(summary)
    assert "Verdict of instar 0.3.0, step 128: rewired" in text
    assert "inside<qk> brings 0.31 [0.21, 0.42]" in text
    assert "[red]x[/red]" in text and "a0.h[bold]1 -0.50 [-0.70, -0.30]" in text
    rows = {line.split()[0]: " ".join(line.split()) for line in text.splitlines() if line[:3] in ("a3 ", "m1 ")}
    assert rows["a3"] == "a3 0.46 [0.30, 0.60] 0.31 [0.21, 0.42] 0.12 [-0.00, 0.20]"
    assert rows["m1"] == "m1 0.46 [0.30, 0.60] – not grafted"
    assert "control fine-tunings, more of the old task: two 100.0%, three 25.0%" in text
    assert "two 18 → none" in text


def test_it_is_about_a_screenful(summary, printed):
    lines = printed(summary).splitlines()
    assert len(lines) <= 36
    rows = [line.split()[0] for line in lines if "%" in line and "[50.0, 50.0]" in line]
    assert rows == 2 * rows[: terminal.SHOWN] and len(rows) == 2 * terminal.SHOWN
    assert rows[0] == "0" and rows[-1] == "128"


def test_naming_and_choosing_stand_beside_accuracy_and_are_absent_where_they_were_not_measured(summary, printed):
    own, count = summary["tasks"]["three"], 9
    for name, value in (("choice_accuracy", 0.25), ("naming", -1.5), ("choosing", None)):
        own |= {f"{name}{end}": [value] * count for end in ("", "_low", "_high")}
    parts = {"log_probability": (1.76, 1.5, 2.0), "naming": (1.41, 1.2, 1.6), "choosing": (None, None, None)}
    own |= {"gain": {k: interval(*v) for k, v in parts.items()}, "choosing_undefined": 7, "pairs": 60}
    text = printed(summary)
    assert "-1.50 [-1.50, -1.50]" in text and "25.0% [25.0, 25.0]" in text
    row = [line.split() for line in text.splitlines() if line.split()[:1] == ["128"]]
    assert row[0][-4:] == ["–", "–", "–", "+0.50"] and row[1][-2:] == ["–", "+0.50"]
    said = "log p(answer) +1.76 [+1.50, +2.00] nats = naming a name +1.41 [+1.20, +1.60] + choosing it not defined"
    assert said in " ".join(text.split())
    assert "7 of 60 pairs have fewer than two candidates" in text
    assert "two, step 0" not in text


@pytest.mark.parametrize("gone", [{"verdict": None, "dynamics": {"key": None}, "controls": {}}, None])
def test_a_run_without_causal_tests_says_so(gone, summary, printed):
    without = {k: v for k, v in summary.items() if k not in ("verdict", "dynamics", "controls")} | (gone or {})
    text = printed(without)
    assert "No answer: no checkpoint was tested for reuse" in text
    assert "direct contribution to three" in text


def test_two_circuits_side_by_side_are_whole_at_80_columns(monkeypatch):
    graph = Graph(12, 12, 12)
    a, b = (Circuit(graph, graph.names(graph.exists)[start : start + 2000]) for start in (0, 1000))
    console = Screen(width=80, force_terminal=False)
    for module in (terminal, answered):
        monkeypatch.setattr(module, "console", console)
    with console.capture() as capture:
        terminal.show_diff("a.json", "b.json", diff(a, b), beside(a, b), "no floors")
    text = capture.get()
    rows = [row.split() for row in text.splitlines() if row.strip()]
    assert "…" not in text.split("nodes gained")[0] and max(map(len, text.splitlines())) <= 80
    assert ["in", "A", "in", "B", "in", "both", "only", "A", "only", "B"] in rows
    assert ["edges", "2,000", "2,000", "1,000", "1,000", "1,000"] in rows
    assert any(row[:2] == ["edges", "0.33"] and row[2].startswith("(0.03,") for row in rows)


@pytest.mark.parametrize("width", [80, 100, 160])
def test_tables_of_numbers_are_whole_at_any_width(summary, monkeypatch, width):
    share, nats = Interval(1.0, 0.981, 1.0), Interval(-0.75, -10.25, -0.125)
    rule = {"kind": "commonest answer", "says": " Mary", "accuracy": 0.333, "low": 0.3, "high": 0.4}
    names = ["ioi2", "greater_than_of_three_numbers_in_free_wording"]
    wordings = {"number one " * 9: 0, "two": 1}
    own = {
        f"{name}{end}": value
        for name, of in (("accuracy", share), ("choice_accuracy", share), ("naming", nats), ("named", share))
        for end, value in (("", of.value), ("_low", of.low), ("_high", of.high))
    }
    found = [Screened(name, share, share, 9, "", (rule,), nats, nats, dict.fromkeys(wordings, own)) for name in names]
    found.append(Screened("ioi9", None, None, 0, "no nine names are one token each"))
    for name, of in (("choice_accuracy", share), ("naming", nats), ("choosing", nats)):
        three = summary["tasks"]["three"]
        three |= {f"{name}{end}": [x] * 9 for end, x in (("", of.value), ("_low", of.low), ("_high", of.high))}
    console = Screen(width=width, force_terminal=False)
    for module in (terminal, answered):
        monkeypatch.setattr(module, "console", console)
    with console.capture() as capture:
        terminal.show_screen("model", found, [], by_wording=True)
        terminal.show_accuracy(summary)
    text = capture.get()
    assert "…" not in text and max(map(len, text.splitlines())) <= width
    words = text.split()
    for what in ("accuracy", "choice", "naming", "choosing", "standing", "mastered", "commonest", "step", "two"):
        assert what in words, what
    shown = " ".join(words)
    # Each of both tasks has its four numbers with their bounds, beside or below them.
    assert shown.count("100.0]") >= 4 and shown.count("-0.12]") >= 4 and shown.count("[98.1,") == shown.count("100.0]")
    assert "ioi9: not tried: no nine names are one token each" in shown
    assert all(text.count(name) for name in ("ioi2", "128", "logit")) and "33.3%" in text
    assert width < 160 or "100.0% [98.1, 100.0]" in text
