"""Small tokenizers of the kinds that models have, made here from a few texts."""

from functools import cache

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

WORDS = ("Mary", "John", "Amy", "key", "ring", "lamp", "park", "house")
NUMBERS = tuple(f"{n:02d}" for n in range(1, 100))
TEXTS = (
    "The war lasted from the year {} to the year {}",
    "The {} is in the {}. The {}",
    "After John and Mary met, John gave a ring to Mary",
    "in 1815",
    "to the year {} it was {}: ({}) “{}” -{} '{} {}",
)


SPLIT = ("Rebe", "Rob", "cca", "kah", "ert", "Will", "iam")
"""What names of two tokens are made of: Rebecca, Rebekah, Robert (which begins as Rob), William."""


def _corpus() -> list[str]:
    return [text.replace("{}", word) for text in TEXTS for word in (*WORDS, *NUMBERS)] * 3


@cache
def byte_level() -> PreTrainedTokenizerFast:
    """Byte-level BPE, as GPT-2's: a word's token holds the space before it."""
    own = Tokenizer(models.BPE())
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    own.train_from_iterator(
        _corpus(), trainers.BpeTrainer(vocab_size=1200, initial_alphabet=alphabet, special_tokens=["<end>"])
    )
    return PreTrainedTokenizerFast(tokenizer_object=own, eos_token="<end>")


@cache
def pieces() -> PreTrainedTokenizerFast:
    """BPE over `▁`, as Llama 2's: the first word of a text gets a space too, and there is an unknown token."""
    own = Tokenizer(models.BPE(unk_token="<unk>"))
    own.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    own.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    own.train_from_iterator(_corpus(), trainers.BpeTrainer(vocab_size=900, special_tokens=["<unk>", "</s>"]))
    return PreTrainedTokenizerFast(tokenizer_object=own, eos_token="</s>", unk_token="<unk>")


@cache
def splitting(*names: str) -> PreTrainedTokenizerFast:
    """Whole words with the space before them, but for the names made of `SPLIT`; fewer than 97 tokens."""
    texts = "When and met , . gave a ring to had the key lamp in park The brought was Then " + " ".join(names)
    known = [w for word in dict.fromkeys(texts.split()) for w in (word, f" {word}")]
    pieces = ["<end>", *known, *SPLIT, *(f" {part}" for part in SPLIT)]
    own = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(dict.fromkeys(pieces))}, unk_token="<end>"))
    own.pre_tokenizer = pre_tokenizers.Split(Regex(rf" ?(?:{'|'.join(SPLIT)})| ?\w+| ?[.,]"), "isolated")
    own.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=own, eos_token="<end>")
