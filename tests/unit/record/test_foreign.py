"""Foreign text: bounded, told in one sentence with the file's name, and never believed for what it looks like."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instar.record.apart import apart
from instar.record.config import RunConfig
from instar.record.foreign import DEPTH, SENTENCE, bytes_of, json_of, json_text, reading, shown, yaml_of
from instar.record.names import as_file_name, file_name

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON)
def test_json_is_read_as_json(value):
    assert json_text(json.dumps(value), "x") == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000 + "]" * 100_000, f"nested deeper than {DEPTH}"),
        ("[" * (DEPTH + 1) + "]" * (DEPTH + 1), f"nested deeper than {DEPTH}"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "key 'c' stands twice"),
        ("{", "cannot be read as json"),
        ("1" * 5000, "4300 digits"),
    ],
)
def test_json_that_is_refused_names_the_file(tmp_path, text, said):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=said) as refused:
        json_of(path)
    assert str(refused.value).startswith(str(path))


def test_as_deep_as_allowed_is_read():
    assert json_text("[" * DEPTH + "]" * DEPTH, "x")


def test_a_file_larger_than_the_limit_is_not_read(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    assert bytes_of(path, 5) == b"12345"
    with pytest.raises(ValueError, match="x: larger than 4 bytes"):
        bytes_of(path, 4)


class PanicException(BaseException):
    pass


@pytest.mark.parametrize(
    "error", [KeyError("k"), RecursionError(), MemoryError(), TypeError("t"), Exception("e"), PanicException("p")]
)
def test_whatever_goes_wrong_is_a_sentence_with_the_file_s_name(error):
    with pytest.raises(ValueError, match="^here/x.json"), reading("here/x.json", "a thing"):
        raise error


def test_sentences_that_name_the_file_pass_and_interruptions_are_no_errors():
    with pytest.raises(ValueError, match="^in here/x: no$"), reading("here/x"):
        raise ValueError("in here/x: no")
    with pytest.raises(FileNotFoundError, match="^here/x: gone$"), reading("here/x"):
        raise FileNotFoundError("gone")
    with pytest.raises(KeyboardInterrupt), reading("here/x"):
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="^here/x: ") as long, reading("here/x"):
        raise ValueError("\x1b]0;owned\x07" * 10_000_000)
    assert len(str(long.value)) < SENTENCE + 10 and "\x1b" not in str(long.value)


@given(JSON)
def test_what_is_shown_is_short_and_harmless(value):
    assert len(shown([value] * 100)) < 210 and shown(value).isprintable()


BOMB = "a: &a [x, x]\n" + "".join(f"{n}: &{n} [*{p}, *{p}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, r"line 2: \*a repeats another part \(an alias\)"),
        ("train: {steps: 010}", "'010' is 8 to YAML .as octal.: write 8"),
        ("train: {steps: 1:30}", "'1:30' is 90 to YAML"),
        ("train: {learning_rate: 1:30.5}", "'1:30.5' is 90.5 to YAML"),
        ("train: {steps: yes}", "train.steps: .*are no numbers"),
        ("train: {checkpoints: true}", "train.checkpoints: .*are no numbers"),
        ("model: a\nmodel: b", "line 2: key 'model' stands twice"),
        ("train: {seeds: [0, 0]}", "train.seeds: .*0 stands twice"),
        ("train: {seeds: [-1]}", "must lie between 0 and 4294967295"),
        ("train: {seeds: [true]}", "train.seeds: .*are no numbers"),
        (f"train: {{seeds: [{10**20}]}}", "must lie between 0 and 4294967295"),
        ("measure: {stages: [evaluate, evaluate]}", "'evaluate' stands twice"),
        ("compare: {controls: [old, old]}", "'old' stands twice"),
        ("train: {learning_rate: .inf}", "learning_rate: Input should be a finite number"),
        ("train: {lora: {alpha: .nan}}", "alpha: Input should be a finite number"),
        ("train: {steps: 99999999999}", "less than or equal to 10000000"),
        ("train: {steps: 10000000, checkpoints: 1}", "more than 100,000: keep fewer"),
        ("series: {checkpoints: x-*}\ntrain: abc", "train: Input should be a valid dictionary"),
        ('train: {"a\\e]0;P": 1}', "train.a\ufffd]0;P: unknown key"),
        ("a: " + "[" * 100 + "]" * 100, f"nested deeper than {DEPTH}"),
        (f"train: {{seeds: {['x'] * 1000}}}", r"and 99\d more faults"),
    ],
)
def test_a_configuration_that_is_not_what_it_looks_like_is_refused(tmp_path, text, said):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=said) as refused:
        RunConfig.read(path)
    assert len(str(refused.value)) < 3000 and "\x1b" not in str(refused.value) and "run.yaml" in str(refused.value)


def test_plain_yaml_is_read_as_before(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("a: 1_000\nb: -0\nc: 0x10\nd: 1.5\ne: '010'\nf: no\ng: [null, {h: 2024-01-01}]\n")
    found = yaml_of(path)
    assert [found[k] for k in "abcdef"] == [1000, 0, 16, 1.5, "010", False]


@pytest.mark.parametrize("name", ["ioi3", "my-data_1.2", "ä", "x" * 100])
def test_names_that_files_may_have(name):
    assert file_name(name, "task") == name == as_file_name(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".x", "a/b", "x/../../E", "a b", "a\n", "x" * 101, "\u4e00" * 90, 5, None]
)
def test_names_that_files_may_not_have(name):
    with pytest.raises(ValueError, match="its name becomes part of a file's name"):
        file_name(name, "task")


@given(st.text())
def test_any_text_can_be_made_a_file_s_name(text):
    name = as_file_name(text)
    assert file_name(name, "task") == name


def test_a_function_apart_gives_its_answer_or_its_complaint():
    found = apart("instar.record.apart:matches", {"patterns": ["a.*"], "names": ["ab", "b"]}, 100)
    assert found == 1
    with pytest.raises(ValueError, match="error: missing"):
        apart("instar.record.apart:matches", {"patterns": ["("], "names": ["ab"]}, 100)
    with pytest.raises(ValueError, match="makes more than 5 characters"):
        apart("instar.record.apart:matches", {"patterns": ["a"], "names": ["a"]}, 5)
