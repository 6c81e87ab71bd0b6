"""Tokenizers that put marks around a text, and chats: where the answer is read, and what the result says of it."""

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

import instar
from instar.models.load import load
from instar.models.organism import FOLDER
from instar.tasks.batch import tokenize
from instar.tasks.frame import Framed, form_of, framed, marks

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def marked(before: str = "", after: str = ""):
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    end = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{before} $A {after}".strip(), special_tokens=[(end, tokenizer.eos_token_id)]
    )
    return tokenizer, end


def test_a_plain_tokenizer_is_left_alone(embedded):
    assert framed(embedded.tokenizer) is embedded.tokenizer
    assert form_of(embedded.tokenizer) == "plain text" and marks(embedded.tokenizer) == ([], [])


@pytest.mark.parametrize(("before", "after"), [(True, False), (False, True), (True, True)])
def test_marks_before_stay_and_marks_after_go(before, after):
    tokenizer, end = marked(*(AutoTokenizer.from_pretrained(FOLDER).eos_token if on else "" for on in (before, after)))
    assert marks(tokenizer) == ([tokenizer.eos_token_id] * before, [tokenizer.eos_token_id] * after)
    used = framed(tokenizer)
    assert isinstance(used, Framed) is after
    pairs = instar.ioi(3).pairs(4)
    plain = tokenize(pairs, AutoTokenizer.from_pretrained(FOLDER))
    batch = tokenize(pairs, used)
    assert (batch.end == plain.end + before).all(), "the answer is read at the prompt's own last token"
    width = plain.clean.shape[1]
    assert (batch.clean[:, before : before + width] == plain.clean)[plain.mask].all()
    # Slots move with their words; a mark belongs to none of them.
    assert (batch.slots[:, before : before + width] == plain.slots).all()
    if before:
        assert {batch.slot_names[i] for i in batch.slots[:, 0].tolist()} == {"opening"}
        assert form_of(used) == f"plain text after {end}"


def test_a_chat_is_the_template_up_to_the_assistant_s_turn(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    with pytest.raises(ValueError, match="no chat template"):
        framed(tokenizer, "Go on.")
    tokenizer.chat_template = TEMPLATE
    used = framed(tokenizer, "Go on.")
    before = tokenizer("<|user|>Go on.<|assistant|>")["input_ids"]
    assert used("John met Mary")["input_ids"] == before + tokenizer("John met Mary")["input_ids"]
    both = used(["John met Mary", "They met"], return_offsets_mapping=True)
    assert both["offset_mapping"][1][: len(before)] == [(0, 0)] * len(before)
    assert both["offset_mapping"][0][len(before)] == (0, 4)
    assert "Go on." in form_of(used) and len(used) == len(tokenizer) and used.eos_token_id == tokenizer.eos_token_id


def test_a_model_read_as_a_chat_says_so(tmp_path):
    load("embedded").module.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path)
    model, plain = load(tmp_path, chat="Go on."), load(tmp_path)
    found, beside = (instar.evaluate(m, instar.ioi(2).batch(m, n=8)) for m in (model, plain))
    assert found.attrs["prompts"].startswith("chat: the user says 'Go on.'") and beside.attrs["prompts"] == "plain text"
    assert (found["logit_diff"].values != beside["logit_diff"].values).all()
    tuned = load(tmp_path, like=model)
    assert tuned.tokenizer is model.tokenizer
