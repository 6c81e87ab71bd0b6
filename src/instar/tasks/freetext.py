"""Who is introduced, who gives and who should receive, read from an IOI prompt in free wording.

1. Capitalised words that open sentences ("After", "Yesterday") are set aside; the rest are names if they occur twice,
   stand in a list ("John, Mary and Jim"), or are the answer.
2. The introduced names are those names in the order of their first mention.
3. The givers are the last list of names, if it has one name fewer than were introduced; otherwise all names that are
   mentioned again.
4. The answer's place is its place among the introduced. What does not fit is refused with the reason.
"""

import re
from dataclasses import dataclass

_WORD = re.compile(r"[^\W\d_][\w’'-]*")
_JOIN = re.compile(r"(,|,? and|,? &|, together with|, along with) ?$")
_PLACE = re.compile(r"\b(in|at|to|from|near|of|on|by)\s+(the\s+)?$", re.IGNORECASE)
_OPENERS = frozenset(
    [
        "A",
        "After",
        "Afterwards",
        "All",
        "Although",
        "An",
        "And",
        "As",
        "At",
        "Because",
        "Before",
        "Both",
        "But",
        "By",
        "During",
        "Each",
        "Early",
        "Earlier",
        "Eventually",
        "Every",
        "Everyone",
        "Finally",
        "First",
        "Following",
        "For",
        "From",
        "Having",
        "He",
        "Her",
        "Here",
        "His",
        "I",
        "If",
        "In",
        "Inside",
        "It",
        "Its",
        "Just",
        "Last",
        "Late",
        "Later",
        "Long",
        "Meanwhile",
        "My",
        "Next",
        "Now",
        "On",
        "Once",
        "One",
        "Our",
        "Outside",
        "Over",
        "Recently",
        "She",
        "Since",
        "So",
        "Some",
        "Someone",
        "Soon",
        "Suddenly",
        "That",
        "The",
        "Their",
        "Then",
        "There",
        "These",
        "They",
        "This",
        "Those",
        "Though",
        "Through",
        "To",
        "Today",
        "Together",
        "Tomorrow",
        "Tonight",
        "Two",
        "Three",
        "Four",
        "Five",
        "Until",
        "Upon",
        "We",
        "When",
        "Whenever",
        "Where",
        "While",
        "With",
        "Without",
        "Yesterday",
        "You",
        "Monday",
        "Tuesday",
        "Wednesday",
        "Thursday",
        "Friday",
        "Saturday",
        "Sunday",
        "January",
        "February",
        "March",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
        "Christmas",
        "Easter",
        "Halloween",
        "Thanksgiving",
    ]
)


class UnparsableError(ValueError):
    """The prompt is not N-object IOI as far as can be told; the message is the reason."""


@dataclass(frozen=True)
class Reading:
    """What was found in a prompt."""

    introduced: tuple[str, ...]
    givers: tuple[str, ...]
    place: int
    """The answer's place among the introduced, from 0."""


@dataclass(frozen=True)
class _Mention:
    name: str
    start: int
    stop: int


def read_ioi(prompt: str, answer: str) -> Reading:
    """The people of an IOI prompt.

    Raises:
        UnparsableError: with the reason.
    """
    chains = _chains(prompt, _mentions(prompt))
    names = _people(prompt, chains, answer)
    mentions = [m for chain in chains for m in chain if m.name in names]
    introduced = tuple(dict.fromkeys(m.name for m in mentions))
    if len(introduced) < 2:
        raise UnparsableError(f"fewer than two introduced names found: {list(introduced)}")
    if answer not in introduced:
        raise UnparsableError(f"the answer {answer!r} is not in the prompt")
    first = {name: next(m.start for m in mentions if m.name == name) for name in introduced}
    last = tuple(m.name for m in chains_of(chains, names)[-1] if m.start > first[m.name])
    again = tuple(dict.fromkeys(m.name for m in mentions if m.start > first[m.name]))
    givers = last if len(set(last)) == len(introduced) - 1 else again
    if answer in givers:
        raise UnparsableError(f"the answer {answer!r} is among the givers {list(givers)}")
    if len(givers) != len(introduced) - 1:
        raise UnparsableError(
            f"introduced {list(introduced)}, giving {list(givers)}: expected all introduced names but one to give"
        )
    return Reading(introduced, givers, introduced.index(answer))


def chains_of(chains: list[list[_Mention]], names: set[str]) -> list[list[_Mention]]:
    """The lists reduced to people, empty ones left out."""
    kept = [[m for m in chain if m.name in names] for chain in chains]
    return [chain for chain in kept if chain]


def _mentions(prompt: str) -> list[_Mention]:
    found = []
    for word in _WORD.finditer(prompt):
        if not word.group()[0].isupper():
            continue
        name = re.sub(r"[’']s?$", "", word.group())
        if name != word.group() and any(m.name == name for m in found):
            continue  # "John's ball" is about a ball
        found.append(_Mention(name, word.start(), word.start() + len(name)))
    counts = {m.name: sum(o.name == m.name for o in found) for m in found}
    return [m for m in found if m.name not in _OPENERS or (counts[m.name] > 1 and not _opens_sentence(prompt, m.start))]


def _opens_sentence(prompt: str, start: int) -> bool:
    return start == 0 or bool(re.search(r"[.!?;:]\s*[\"“]?$", prompt[:start]))


def _chains(prompt: str, mentions: list[_Mention]) -> list[list[_Mention]]:
    """Mentions grouped where only a comma or "and" stands between them."""
    chains: list[list[_Mention]] = []
    for mention in mentions:
        if chains and _JOIN.fullmatch(prompt[chains[-1][-1].stop : mention.start]):
            chains[-1].append(mention)
        else:
            chains.append([mention])
    return chains


def _people(prompt: str, chains: list[list[_Mention]], answer: str) -> set[str]:
    everyone = [m.name for chain in chains for m in chain]
    people = {name for name in everyone if everyone.count(name) > 1} | ({answer} & set(everyone))
    for chain in chains:
        # "In Paris, John and Mary …": the first of a list after a preposition is a place, unless it comes back.
        start = 1 if len(chain) > 1 and _PLACE.search(prompt[: chain[0].start]) and chain[0].name not in people else 0
        if len(chain) - start > 1:
            people |= {m.name for m in chain[start:]}
    return {name for name in people if name == answer or not _is_place(prompt, chains, name)}


def _is_place(prompt: str, chains: list[list[_Mention]], name: str) -> bool:
    """Always after "in", "at", … and never inside a list: Rome, not Mary."""
    return all(
        _PLACE.search(prompt[: m.start]) and (place == 0 or len(chain) == 1)
        for chain in chains
        for place, m in enumerate(chain)
        if m.name == name
    )
