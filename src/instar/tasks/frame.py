"""What stands around a prompt before the model reads it: a tokenizer's own marks, or the turns of a chat.

1. What a tokenizer puts before every text (beginning-of-text) is kept: the model was trained with it. What it puts after
   (end-of-text) is not: the answer is read at the prompt's own last token.
2. A chat is rendered by the model's own template up to where the assistant's turn begins, and the prompt is how that turn
   begins. The user's message is the caller's; there is no neutral one, so it is part of how a result was made.
"""

import json
from functools import lru_cache
from typing import Any

from instar.record.apart import apart
from instar.record.foreign import reading

LONGEST = 2**18
"""Characters of a chat template, and of what it makes."""


class Framed:
    """A tokenizer that puts certain tokens before every prompt and none after; else as the one it is made of."""

    chat: str | None = None
    """The user's message, where it is a chat."""

    def __init__(self, tokenizer: Any, before: list[int], form: str, chat: str | None = None):
        self.own, self.before, self.form, self.chat = tokenizer, before, form, chat

    def __call__(self, text: Any, add_special_tokens: bool = True, **how: Any) -> Any:
        """As a tokenizer does; what was put before has no place in the text, (0, 0), as marks have."""
        found = self.own(text, add_special_tokens=False, **how)
        if add_special_tokens:
            fillers: dict[str, list[Any]] = {
                "input_ids": self.before,
                "attention_mask": [1] * len(self.before),
                "token_type_ids": [0] * len(self.before),
                "offset_mapping": [(0, 0)] * len(self.before),
            }
            for name, values in found.items():
                filler = fillers[name]
                found[name] = filler + values if isinstance(text, str) else [filler + row for row in values]
        return found

    def __len__(self) -> int:
        return len(self.own)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)


def framed(tokenizer: Any, chat: str | None = None) -> Any:
    """The tokenizer, or one that frames what it is given.

    Raises:
        ValueError: for a chat with a tokenizer that has no chat template.
    """
    if chat is not None:
        if not tokenizer.chat_template:
            raise ValueError(
                "model.chat is set and this tokenizer has no chat template; leave model.chat out, or give the template to "
                "the tokenizer"
            )
        ids = tokenizer(_rendered(tokenizer, chat), add_special_tokens=False)["input_ids"]
        form = f"chat: the user says {chat!r} and the assistant's turn begins with the prompt"
        return Framed(tokenizer, list(ids), form, chat)
    before, after = marks(tokenizer)
    if after:
        return Framed(tokenizer, before, form_of(tokenizer))
    return tokenizer


def _rendered(tokenizer: Any, chat: str) -> str:
    """The user's message in the model's template, as `apply_chat_template` renders it: apart, since a template computes.

    Raises:
        ValueError: for a template that is too long, does not end, makes too much, or is wrong.
    """
    with reading(f"{tokenizer.name_or_path}: its chat template"):
        template = tokenizer.get_chat_template()
        if len(template) > LONGEST:
            raise ValueError(f"{len(template):,} characters, and the most that are rendered are {LONGEST:,}")
        given = {
            **{name: str(token) for name, token in tokenizer.special_tokens_map.items()},
            "conversations": [[{"role": "user", "content": chat}]],
            "chat_template": template,
            "add_generation_prompt": True,
        }
        return _made(json.dumps(given))
    raise AssertionError  # for type checkers: `reading` swallows nothing


@lru_cache(maxsize=64)
def _made(given: str) -> str:
    """A series has one template: rendered once."""
    texts, _ = apart("transformers.utils.chat_template_utils:render_jinja_template", json.loads(given), LONGEST)
    return str(texts[0])


def form_of(tokenizer: Any) -> str:
    """In words, what a prompt is read as."""
    if isinstance(tokenizer, Framed):
        return tokenizer.form
    before, _ = marks(tokenizer)
    return f"plain text after {''.join(tokenizer.convert_ids_to_tokens(before))}" if before else "plain text"


def marks(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The tokens that a tokenizer puts before and after every text."""
    plain, marked = (tokenizer("to", add_special_tokens=special)["input_ids"] for special in (False, True))
    extra = len(marked) - len(plain)
    for start in range(extra + 1):
        if marked[start : start + len(plain)] == plain:
            return marked[:start], marked[start + len(plain) :]
    raise ValueError(
        "this tokenizer reads a text differently with its special tokens than without; instar cannot frame it"
    )
