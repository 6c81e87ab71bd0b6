"""Which checkpoints a pattern means: what is here by that very name, what it matches, or revisions on a hub."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instar.workflow.adopt import expanded, sources


def made(root: Path, *names: str) -> None:
    for name in names:
        (root / name).mkdir(parents=True)


@given(st.text("ab1[]{},*?!.@- ", min_size=1, max_size=8).filter(lambda t: t.strip(".") and t == t.strip()))
def test_what_is_here_by_its_very_name_wins(tmp_path_factory, name):
    root = tmp_path_factory.mktemp("x")
    made(root, f"{name}/checkpoint-1", f"{name}/checkpoint-20", "b/w-3", "1/w-4", f"q/{name}-5")
    wanted = [str(root / name / f"checkpoint-{step}") for step in (1, 20)]
    assert sources(f"{root}/{name}/checkpoint-1") == wanted[:1]
    assert sources(f"{root}/{name}/checkpoint-*") == sources(f"{root}/{name}/checkpoint-{{1,20}}") == wanted
    assert sources(f"{root}/q/{name}-5") == [str(root / "q" / f"{name}-5")]


def test_patterns_brackets_and_braces_mean_what_they_do_in_a_shell(tmp_path, monkeypatch):
    made(tmp_path, "r1/out[1]/c-1", "r2/out[1]/c-2", "out1/c-3", "s{a,b}-4", "sa-4", "sb-4")
    monkeypatch.chdir(tmp_path)
    assert sources("r*/out[1]/c-*") == ["r1/out[1]/c-1", "r2/out[1]/c-2"]
    assert sources("out[12]/c-*") == ["out1/c-3"]
    assert sources("r?/out[[]1]/c-?") == ["r1/out[1]/c-1", "r2/out[1]/c-2"]
    assert sources("s{a,b}-4") == ["s{a,b}-4"]
    assert sources("s[{]a,b}-*") == ["s{a,b}-4"] and expanded("s[{]a,b}") == ["s[{]a,b}"]
    assert sources("s{a,b}-[4]") == ["sa-4", "sb-4"]


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (
            "out[2]/c-*",
            "matches the pattern 'out[2]/c-*'; [ ] stands for one of the characters in it: write [[] for a bracket",
        ),
        (
            "m@v2/checkpnt-*",
            "matches the pattern 'm@v2/checkpnt-*'; m@v2 holds checkpoint-1, checkpoint-2; --checkpoints takes",
        ),
        ("m@v2/checkpnt-3", "matches 'm@v2/checkpnt-3'; m@v2 holds checkpoint-1, checkpoint-2"),
        ("m@v2/checkpoint-{1,7}", "matches 'm@v2/checkpoint-7'; m@v2 holds"),
        ("org/name@step*", "matches the pattern 'org/name@step*'"),
        ("none", "matches 'none'"),
        ("notes-1.txt", "matches 'notes-1.txt'"),
    ],
)
def test_what_matches_nothing_says_why(tmp_path, monkeypatch, pattern, said):
    made(tmp_path, "m@v2/checkpoint-1", "m@v2/checkpoint-2", "org/other")
    (tmp_path / "notes-1.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=re.escape(said)):
        sources(pattern)
    # A folder of the owner's name does not make a hub id a folder.
    assert sources("org/name@step{1,2}") == ["org/name@step1", "org/name@step2"]
