"""GGUF files that the test writes: the weights are what was written, as transformers' own loader reads them."""

import pickle
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import families
import ggufs
import vocabularies
from instar.models.accounts import read_by
from instar.models.load import load, load_tokenizer
from instar.record.config import RunConfig
from instar.workflow.adopt import sources

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<me>{% endif %}"
)
TEXT = "After John and Mary met, John gave a ring to"


def tokenizer():
    own = vocabularies.byte_level()
    own.chat_template = TEMPLATE
    return own


def tiny(row: str, **more):
    as_kept = {"max_position_embeddings": 1024, "n_positions": 1024, "n_inner": None} if row == "gpt2" else {}
    if row == "gemma2":
        as_kept = {"head_dim": 256, "query_pre_attn_scalar": 256}
    size = {"vocab_size": len(tokenizer()), "intermediate_size": 64, "pad_token_id": None}
    return families.tiny(row, dtype=torch.float32, **{**size, **as_kept, **more})


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    """A file that no test changes."""
    file = tmp_path_factory.mktemp("gguf") / "tiny.Q8_0.gguf"
    ggufs.write(file, tiny("llama", tie_word_embeddings=True), "Q8_0", tokenizer())
    return file


@pytest.mark.parametrize(
    ("row", "kind"),
    [("llama", "F32"), ("llama", "Q4_1"), ("gpt2", "Q8_0"), ("qwen2", "Q5_1"), ("gemma2", "F16")],
)
def test_weights_are_what_was_written_as_transformers_reads_them(tmp_path, capfd, row, kind):
    file = tmp_path / "model.gguf"
    written = ggufs.write(file, tiny(row), kind, tokenizer())
    capfd.readouterr()
    own = load(file)
    assert capfd.readouterr() == ("", "")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.float32).eval()
    state = own.module.state_dict()
    for name, value in theirs.state_dict().items():
        assert torch.equal(state[name], value)
    for name, value in written.items():
        assert np.array_equal(state[name].numpy(), value), name
    plain = tiny(row)
    plain.load_state_dict(
        {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in written.items()}, strict=False
    )
    tokens = torch.tensor([own.tokenizer(TEXT)["input_ids"]])
    with torch.no_grad():
        ours, other, made = (m(tokens).logits for m in (own.module, theirs, plain))
    assert torch.equal(ours, other)
    # The oracle that knows no GGUF: rotary pairs, transposed matrices and shifted norms are back where they were.
    assert (ours - made).abs().max() <= 1e-5 * made.abs().max()
    assert own.facts["dequantised_from"].startswith(f"{kind} (GGUF; tensors: ")


def test_tokenizer_and_template_are_the_file_s_whatever_lies_beside(llama, tmp_path, embedded):
    embedded.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{")
    file = tmp_path / "tiny.gguf"
    file.write_bytes(llama.read_bytes())
    own, theirs = load_tokenizer(str(file)), AutoTokenizer.from_pretrained(llama.parent, gguf_file=llama.name)
    chat = [{"role": "user", "content": "Who?"}]
    for make in (lambda t: t(TEXT)["input_ids"], lambda t: t.apply_chat_template(chat, add_generation_prompt=True)):
        assert make(own) == make(theirs)
    assert own(TEXT)["input_ids"] == tokenizer()(TEXT)["input_ids"]
    assert own.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == "<user>Who?<me>"
    assert load(file).weights == load(llama).weights


def test_it_is_saved_as_any_other_and_says_what_it_was(llama, tmp_path):
    model = load(llama)
    model.module.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    assert "quant_method" not in (tmp_path / "config.json").read_text()
    again = load(tmp_path)
    assert again.weights == model.weights and again.facts == model.facts
    assert "Q8_0 (GGUF; tensors: 15 Q8_0, 5 F32; sha256 " in model.facts["dequantised_from"]
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path)) is type(model.module)


def test_a_file_is_a_source_wherever_a_folder_is(llama, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    there = tmp_path / "there" / "step-7.gguf"
    there.parent.mkdir()
    there.write_bytes(llama.read_bytes())
    base = load("~/there/step-7.gguf")
    again = load(there.parent, like=base)
    assert again.weights == base.weights and again.tokenizer is base.tokenizer
    assert RunConfig.checked({"model": {"source": "~/there/step-7.gguf"}}, "").model.source == str(there)
    assert read_by(str(there)) == read_by(str(there.parent)) == read_by(str(llama)) != ""
    assert sources(str(tmp_path / "there" / "*")) == [str(there)]
    assert pickle.loads(pickle.dumps(base)).weights == base.weights  # noqa: S301 — our own
    (there.parent / "other.gguf").write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds 2 GGUF files \(other.gguf, step-7.gguf\): give the one"):
        load(there.parent)


def test_without_the_package_the_extra_is_named(llama, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    for read in (load, lambda file: load_tokenizer(str(file))):
        with pytest.raises(ValueError, match=r"tiny.Q8_0.gguf: .*pip install 'instar\[gguf\]'"):
            read(llama)


HUGE = struct.pack("<Q", 2**60)


def at(text: bytes, skip: int, new: bytes):
    """The bytes so far behind a text become others."""

    def change(file: bytes) -> bytes:
        place = file.index(text) + len(text) + skip
        return file[:place] + new + file[place + len(new) :]

    return change


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda b: b[:-20], r"goes beyond the file's [\d,]+ bytes: truncated"),
        (lambda b: b[: len(b) // 9], "truncated or damaged"),
        (lambda b: b[:10], "truncated or damaged"),
        (lambda b: b"", "is no GGUF file"),
        (lambda b: b"PK" + b[2:], "is no GGUF file: it does not begin with the letters"),
        (lambda b: b[:4] + struct.pack(">I", 3) + b[8:], "of version 50331648; versions 2 and 3"),
        (at(b"GGUF", 4, HUGE), "declares 1,152,921,504,606,846,976 tensors, and the most"),
        (at(b"GGUF", 12, HUGE), "976 settings, and the most"),
        (at(b"GGUF", 20, HUGE), "goes beyond the file's"),
        (at(b"tokenizer.ggml.tokens", 8, HUGE), "976 elements of a list"),
        (at(b"tokenizer.ggml.tokens", 4, struct.pack("<I", 9)), "of type 9, .* or a list of lists"),
        (at(b"llama.block_count", 4, struct.pack("<I", 2**31)), "layers.' is 2.14748e[+]09, and the most .* 512"),
        (at(b"llama.embedding_length", 4, struct.pack("<I", 2**31)), "'hidden_size' is 2.14748e[+]09, and the most"),
        (at(b"blk.0.attn_q.weight", 0, struct.pack("<I", 2**31)), "2,147,483,648 dimensions"),
        (at(b"blk.0.attn_q.weight", 4, HUGE), "goes beyond the file's"),
        (at(b"blk.0.attn_q.weight", 20, struct.pack("<I", 999)), "attn_q.weight' is of type number 999, which cannot"),
        (at(b"blk.0.attn_q.weight", 20, struct.pack("<I", 24)), "is of type I8, which cannot be made floats"),
        (lambda b: b.replace(b"blk.0.attn_q.weight", b"blk.0.attn_k.weight"), "attn_k.weight' stands twice"),
        (lambda b: b.replace(b"llama.", b"xlama.").replace(b"\5\0\0\0\0\0\0\0llama", b"\5\0\0\0\0\0\0\0xlama"), "xlama"),
    ],
)  # fmt: skip
def test_a_damaged_or_hostile_file_is_a_sentence(llama, tmp_path, change, why):
    file = tmp_path / "bad.gguf"
    file.write_bytes(change(llama.read_bytes()))
    with pytest.raises(ValueError, match=rf"bad\.gguf.*({why})"):
        load(file)


@pytest.mark.parametrize(
    ("row", "own", "settings", "why"),
    [
        ("gemma", {}, {}, "architecture gemma is not supported"),
        (
            "llama",
            {"attention_bias": True},
            {},
            r"8 of its tensors have no place in transformers' llama \(blk.0.attn_q.bias",
        ),
        (
            "llama",
            {},
            {"rope__scaling__type": "linear"},
            "reads it as another model: rope.scaling.type is 'linear' there",
        ),
        ("qwen2", {}, {"attention__sliding_window": 3}, "attention.sliding_window is 3 there and 0"),
        (
            "gemma2",
            {"query_pre_attn_scalar": 64, "head_dim": 64},
            {},
            "width that scores are scaled by is 64 there and 256",
        ),
        (
            "starcoder2",
            {"sliding_window": None},
            {"rope__freq_base": 999999.0},
            "rope.freq_base is 999999.0 there and 10000",
        ),
        ("llama", {}, {"expert_count": 8}, "expert_count is 8 there and 0"),
    ],
)
def test_what_transformers_would_read_as_another_model_is_refused(tmp_path, row, own, settings, why):
    file = tmp_path / "other.gguf"
    ggufs.write(file, tiny(row, **own), "F32", tokenizer(), **settings)
    with pytest.raises(ValueError, match=rf"other\.gguf.*{why}"):
        load(file)


def test_a_part_of_a_split_file_and_a_long_window_are_named(llama, tmp_path):
    part = tmp_path / "big-00001-of-00003.gguf"
    part.write_bytes(llama.read_bytes())
    for source in (part, tmp_path):
        with pytest.raises(ValueError, match=r"00003.gguf: is one part of several.*llama-gguf-split --merge"):
            load(source)
    more = {"attention__sliding_window": 2000, "context_length": 4096}
    ggufs.write(tmp_path / "long.gguf", tiny("qwen2"), "F32", tokenizer(), **more)
    assert "window of attention of 2000 tokens" in load(tmp_path / "long.gguf").facts["left_over"]
