"""How long work took is noted line by line, and no line harms the others."""

import json

import pytest

from instar.record.times import NAME, timed, times


def test_what_ended_is_noted_with_the_last_time_of_what_was_done_again(tmp_path):
    for _ in range(2):
        with timed(tmp_path, "circuit", "ioi2", "seed 0", 8):
            sum(range(1000))
    with pytest.raises(KeyError), timed(tmp_path, "report"):
        raise KeyError
    (only,) = times(tmp_path)
    assert only.work == ("circuit", "ioi2", "seed 0", 8) and 0 <= only.seconds < 60
    lines = [json.loads(line) for line in (tmp_path / NAME).read_text().splitlines()]
    assert len(lines) == 2 and lines[1]["seconds"] == only.seconds


NAN = '{"stage": "x", "seconds": NaN, "cpu": 0}'
LIST = '{"stage": ["x"], "seconds": 1, "cpu": 1}'


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"stage": "x"}', '{"stage": "x", "seconds": "y", "cpu": 0}', "[" * 9999, NAN, LIST]
)
def test_a_line_that_is_none_is_passed_over(tmp_path, line):
    with timed(tmp_path, "lens"):
        pass
    with (tmp_path / NAME).open("a") as stream:
        stream.write(f"{line}\n")
    with timed(tmp_path, "attention"):
        pass
    assert [took.stage for took in times(tmp_path)] == ["lens", "attention"]


def test_where_nothing_is_noted_there_is_nothing_and_a_link_is_refused(tmp_path):
    assert times(tmp_path) == []
    (tmp_path / "elsewhere").write_text("")
    (tmp_path / NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is a link"), timed(tmp_path, "lens"):
        pass
    assert (tmp_path / "elsewhere").read_text() == ""
