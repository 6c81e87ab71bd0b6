"""Every reader of foreign bytes, given thousands of damaged files: each is read, or refused in words that name the file.

Mutants are the same in every run: bits are flipped, ends cut off, parts of JSON and YAML replaced by something odd.
"""

import copy
import gzip
import json
import random
import resource
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

import instar
from instar.circuits.circuit import Circuit
from instar.circuits.graph import Graph
from instar.models.load import load_tokenizer
from instar.models.read import Source, read
from instar.record.config import RunConfig
from instar.tasks.frame import framed
from instar.tasks.library import task
from saved import adapter

MOST = 2**30
"""Bytes that no mutant may add to what this process has held at most."""
DEEP = "[" * 50_000 + "]" * 50_000
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1.5, 10**9, 10**30, float("inf"), float("nan"), "", "x", "../../x", "\x1b]0;P\x07\x00"),
    *([], {}, [[[]]], {"a": 1}, [5], "y" * 5000, [None] * 3),
)
"""What may stand in the place of anything."""


def flipped(raw: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """With one bit changed, or without the end, or with a piece twice."""
    rng = random.Random(seed)
    for number in range(count):
        at, more = rng.randrange(len(raw)), rng.randrange(1, 40)
        if number % 4 == 3:
            yield raw[:at]
        elif number % 4 == 2:
            yield raw[:at] + raw[max(0, at - more) :]
        else:
            yield raw[:at] + bytes([raw[at] ^ 1 << rng.randrange(8)]) + raw[at + 1 :]


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every part of a JSON value."""
    yield way
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*way, key))


def replaced(value: Any, way: tuple[Any, ...], new: Any) -> Any:
    if not way:
        return new
    own = copy.copy(value)
    own[way[0]] = replaced(own[way[0]], way[1:], new)
    return own


def swapped(value: Any, count: int) -> Iterator[Any]:
    """With one of its parts replaced by something odd."""
    every = [(way, odd) for way in places(value) for odd in ODD]
    for way, odd in random.Random(1).sample(every, min(count, len(every))):
        yield replaced(value, way, odd)


def as_json(value: Any, count: int) -> Iterator[bytes]:
    raw = json.dumps(value).encode()
    yield from flipped(raw, count // 2)
    yield from (json.dumps(v).encode() for v in swapped(value, count // 2))
    yield from (b"", b"{", DEEP.encode(), b"null", b"[]", b"{}", b'{"a":1,"a":2}', b"\xff\xfe\x00", b"1" * 5000)


def all_hold(file: Path, named: Path, mutants: Iterator[bytes], reads: Callable[[], Any]) -> int:
    """How many were refused, each in words that name the file (or the folder it is in)."""
    before, refused, count = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0, 0
    for count, raw in enumerate(mutants, 1):  # noqa: B007 — counted
        file.write_bytes(raw)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                reads()
        except BaseException as error:
            refused, said = refused + 1, str(error)
            if not isinstance(error, ValueError | OSError) or str(named) not in said or len(said) > 20_000:
                pytest.fail(f"{type(error).__name__}: {said[:2000]}\n{raw[:300]!r}")
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert held * 1024 < MOST, f"{held:,} kB"
    assert count >= 3 and refused, "some of these are no such files"
    return count


ROWS = [
    {
        "prompt": f"After {a} and Bob went to the shop, Bob gave milk to",
        "corrupted": f"After {a} and Bob went to the shop, {a} gave milk to",
        "answer": a,
        "foils": ["Bob"],
        "counterfactual": "giver1",
        "place": 0,
        "spans": [{"slot": "a", "start": 6, "stop": 9}],
        "split": split,
    }
    for a, split in (("Ann", "train"), ("Amy", "test"))
]
CSV = 'prompt,corrupted,answer,foils\nAfter A and B,After A and C,x,y\n"q, r",s,t,u\n'


def test_configurations(tmp_path):
    file, value = tmp_path / "run.yaml", json.loads(json.dumps(RunConfig().model_dump(mode="json")))
    raw = yaml.safe_dump(value, sort_keys=False).encode()

    def mutants():
        yield from flipped(raw, 250)
        yield from (yaml.safe_dump(v, sort_keys=False).encode() for v in swapped(value, 250))
        yield from (DEEP.encode(), b"a: &a [x]\nb: *a", b"\x00", b"? [a]\n: b", b"!!python/object:os.system x")

    assert all_hold(file, file, mutants(), lambda: RunConfig.read(file)) > 500


@pytest.mark.parametrize("name", ["x.json", "x.jsonl", "x.csv", "x.tsv", "x.jsonl.gz"])
def test_tables_of_text(tmp_path, name):
    file, lines = tmp_path / name, "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    plain = {"x.csv": CSV, "x.tsv": CSV.replace(",", "\t")}.get(name, "").encode() or lines

    def mutants():
        if name == "x.json":
            yield from as_json(ROWS, 500)
        elif name == "x.jsonl.gz":
            yield from flipped(gzip.compress(lines, mtime=0), 300)
        else:
            yield from flipped(plain, 300)
        if name == "x.jsonl":
            yield from (json.dumps(v).encode() for v in swapped(ROWS[0], 300))

    assert all_hold(file, file, mutants(), lambda: task(str(file))) >= 300


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow"])
def test_columns(tmp_path, name):
    file, table = tmp_path / name, pa.Table.from_pylist(ROWS)
    if name == "x.parquet":
        pq.write_table(table, file)
    else:
        with pa.OSFile(str(file), "wb") as stream, pa.ipc.new_stream(stream, table.schema) as writer:
            writer.write_table(table)
    assert all_hold(file, file, flipped(file.read_bytes(), 12), lambda: task(str(file))) == 12


@pytest.mark.parametrize("name", ["state.json", "dataset_dict.json"])
def test_folders_of_datasets(tmp_path, name):
    table, folder = pa.Table.from_pylist(ROWS), tmp_path / "data"
    inside = folder if name == "state.json" else folder / "train"
    inside.mkdir(parents=True)
    with pa.OSFile(str(inside / "a.arrow"), "wb") as stream, pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    state = {"_data_files": [{"filename": "a.arrow"}], "_split": "train"}
    (inside / "state.json").write_text(json.dumps(state))
    value = state if name == "state.json" else {"splits": ["train"]}
    assert all_hold(folder / name, folder, as_json(value, 120), lambda: task(str(folder))) > 90


def test_circuits(tmp_path):
    file, graph = tmp_path / "c.json", Graph(2, 2, 1)
    value = json.loads(Circuit(graph, graph.names(graph.exists)[:9], (0.5,) * 9).to_json())
    assert all_hold(file, file, as_json(value, 600), lambda: Circuit.read(file)) > 590


# Models


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A small model with a tokenizer, an adapter on it and a difference from it."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    words = load_tokenizer("embedded")
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(words), n_positions=32, n_embd=8, n_layer=2, n_head=2))
    model.save_pretrained(root / "base")
    words.save_pretrained(root / "base")
    adapter(root / "adapter", base=copy.deepcopy(model))
    difference = root / "difference"
    difference.mkdir()
    model.config.save_pretrained(difference)
    own = load_file(root / "base" / "model.safetensors")
    save_file({n: torch.zeros_like(v).half() for n, v in own.items()}, difference / "difference.safetensors")
    (difference / "instar-delta.json").write_text('{"base": "../base", "dtype": "float16"}')
    return root


@pytest.mark.parametrize(
    ("folder", "name", "count"),
    [
        ("base", "config.json", 160),
        ("base", "generation_config.json", 40),
        ("difference", "instar-delta.json", 60),
        ("adapter", "adapter_config.json", 90),
    ],
)
def test_settings_of_models(tiny, folder, name, count, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    file = tiny / folder / name
    kept = file.read_bytes()
    try:
        assert all_hold(file, tiny / folder, as_json(json.loads(kept), count), lambda: read(Source(str(tiny / folder))))
    finally:
        file.write_bytes(kept)


@pytest.mark.parametrize(
    ("folder", "name"),
    [("base", "model.safetensors"), ("adapter", "adapter_model.safetensors"), ("difference", "difference.safetensors")],
)
def test_weights(tiny, folder, name):
    file = tiny / folder / name
    kept = file.read_bytes()
    size = 8 + int.from_bytes(kept[:8], "little")
    mutants = (head + kept[size:] for head in flipped(kept[:size], 40))
    try:
        assert all_hold(file, tiny / folder, mutants, lambda: read(Source(str(tiny / folder)))) == 40
    finally:
        file.write_bytes(kept)


@pytest.mark.parametrize(("name", "count"), [("tokenizer.json", 40), ("tokenizer_config.json", 50)])
def test_tokenizers(tiny, name, count):
    file = tiny / "base" / name
    kept = file.read_bytes()
    try:
        assert all_hold(
            file, tiny / "base", as_json(json.loads(kept), count), lambda: load_tokenizer(str(tiny / "base"))
        )
    finally:
        file.write_bytes(kept)


PLAIN = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{{ eos_token }}"


def test_a_chat_is_rendered_as_transformers_renders_it(tiny):
    tokenizer = load_tokenizer(str(tiny / "base"))
    tokenizer.chat_template = PLAIN
    turns = [{"role": "user", "content": "Go on."}]
    wanted = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert framed(tokenizer, "Go on.").before == list(wanted)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ 'a' * 9999999999 }}", "asks for more than"),
        ("{{ 'a' * 300000 }}", "makes more than"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{% for", "TemplateSyntaxError"),
        ("x" * 300_000, "300,000 characters"),
    ],
)
def test_chat_templates_that_are_refused(tiny, template, said):
    tokenizer = load_tokenizer(str(tiny / "base"))
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=f"its chat template: .*{said}"):
        framed(tokenizer, "Go on.")


def test_what_computes_without_end_is_ended(tiny, monkeypatch):
    """The limit is the other process's own, so it is asked for by its module."""
    tokenizer = load_tokenizer(str(tiny / "base"))
    tokenizer.chat_template = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(ValueError, match="its chat template: it takes more than 10 seconds"):
        framed(tokenizer, "Go on.")


def test_bases_in_a_circle_and_patterns_without_end(tiny):
    file = tiny / "adapter" / "adapter_config.json"
    kept = file.read_text()
    try:
        file.write_text(json.dumps(json.loads(kept) | {"base_model_name_or_path": "."}))
        with pytest.raises(ValueError, match="its base is .*adapter, which is itself"):
            instar.load(tiny / "adapter")
        file.write_text(json.dumps(json.loads(kept) | {"target_modules": "(.*)*(.*)*(.*)*(.*)*x$"}))
        with pytest.raises(ValueError, match=r"adapter_config.json: its pattern .* takes more than 10 seconds"):
            instar.load(tiny / "adapter")
    finally:
        file.write_text(kept)
