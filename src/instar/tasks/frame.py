"""What stands around a prompt before the model reads it: a tokenizer's own marks, or the turns of a chat.

1. What a tokenizer puts before every text (beginning-of-text) is kept: the model was trained with it. What it puts after
   (end-of-text) is not: the answer is read at the prompt's own last token.
2. A chat is rendered by the model's own template up to where the assistant's turn begins, and the prompt is how that turn
   begins. The user's message is the caller's; there is no neutral one, so it is part of how a result was made.
"""

from typing import Any


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
        turns = [{"role": "user", "content": chat}]
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=True)[
            "input_ids"
        ]
        form = f"chat: the user says {chat!r} and the assistant's turn begins with the prompt"
        return Framed(tokenizer, list(ids), form, chat)
    before, after = marks(tokenizer)
    if after:
        return Framed(tokenizer, before, form_of(tokenizer))
    return tokenizer


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
