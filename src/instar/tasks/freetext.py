"""Who is introduced, who gives and who should receive, read from an N-object IOI prompt in free wording.

1. `instar.tasks.people` finds capitalised words and the lists they stand in.
2. Of the introduced all but one give, so every giver is named twice or more and only the answer may be named once:
   *people* are the answer and all that are named twice, but for places (Rome).
3. The *givers* are the last list that names again all people but the answer; "gives" is whatever they do.
4. The first mention of each person is `intro1`, `intro2`, … in their order, the givers' are `giver1`, …, all further ones
   `other1`, ….

What does not fit, or could be read in two ways, is refused with the reason: a wrong reading costs more than a lost row.
"""

import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

from instar.tasks.pair import Span
from instar.tasks.people import (
    KIN,
    KNOWN,
    Mention,
    either,
    governor,
    lists,
    mentions,
    opens,
    placed,
    seen,
    surely_somebody,
    title,
)

_PREPOSITIONS = """
about above across after against alongside among around at before behind below beside besides between beyond by for
from in inside into like near of off on onto opposite outside over past round than to toward towards under underneath unto
upon via with without
"""
_GIVE = """
asked bought brought called congratulated fed gave give given greeted hand handed helped hugged invited joined lent met
offered paid passed read sent served show showed sold surprised taught thanked threw told tossed visited wrote
"""
_VERBS = frozenset(_GIVE.split())
_ENDINGS = _VERBS | set(_PREPOSITIONS.split())
"""Words that a name may follow: prepositions, and verbs that have a person for their object."""
_INFINITIVE = re.compile(
    r"\b(?:able|about|agreed|began|chose|continued|decided|expected|failed|forgot|going|ha[ds]|happened|have|hoped|how|intended|"
    r"learned|liked?|loved?|managed|needed|order|planned|prepared|promised|ready|refused|remembered|seemed|started|tried|used|"
    r"wanted|wished) to$"
)
# "a picture of Mary", not "a slice of Mary".
_OF_SOMEBODY = re.compile(
    r"\b(?:ahead|afraid|behalf|because|care|drawing|fond|front|hands?|honou?r|instead|jealous|memory|painting|photo|photograph|"
    r"picture|portrait|proud|selfie|sketch|statue|thought|video) of$"
)
_SOMEBODY_ELSE = re.compile(
    r"\b(?<!-)(?:he|she|i|we|you|some(?:one|body)|every(?:one|body)|nobody|no one|one of (?:the|them)|him|me|us|"
    r"her (?=(?:an?|the|some|and)\b)|(?:to|for) (?:her|them) (?=(?:and|but|with)\b))\b(?!-)",
    re.IGNORECASE,
)
_GAVE = (
    r"(?:gave|gives?|handed|passed|offered|bought|sent|lent|brought|threw|tossed|wrote|showed|sold|made|presented|served|"
    r"delivered|donated|baked|read|told|waved|smiled)"
)
# "as the clown gave a balloon to", "thanked a clown who gave", not "so the two gave a balloon to".
_DETERMINED = r"(?:the(?! (?:two|pair|couple|duo|three|trio|four)\b)|an?|another|some|his|her|their) (?:\w+ ){1,2}"
_SOMETHING_ELSE = re.compile(
    rf"\b(?:as|while|when|until|before|after|because|since|so|but|and|,) ({_DETERMINED}{_GAVE})\b(?!.*\b(?:and|which) )|"
    rf"\b({_DETERMINED}who)\b"
)
_COMPANY = re.compile(
    rf",? (?:(?:and|or|as well as|plus|along with) (?:(?:he|she|they|i|we|you)\b|(?:\w+ )?\w+)|"
    rf"(?:together )?with (?:\w+ ){{0,3}}{KIN}s?\b)",
    re.IGNORECASE,
)
_PASSIVE = re.compile(r" (?:was|were|is|are|got|been|being) (?:\w+ ){1,2}by $")
_SUBJECT = re.compile(r"(?:\b(?:and|while|as|when|because|that|so|but|before|after|until|if)|[,;])\s+$")
# Before a word that is no known name, and may be one.
_BYSTANDER = re.compile(
    r"\b(?:while|when|because|(?<!such )as|with|(?:meet|invit|join|thank|call|greet|hugg|help|ask)(?:ing|ed)|met|told|"
    r"talk(?:ed|ing) to) $",
    re.IGNORECASE,
)
_TOLD_OF = re.compile(r", (?:an?|who|whose)\b")
_ADVERB = re.compile(r".+(?:ed|ing|ly|ful|ous|less|able|ible)$")
_SENTENCE_END = re.compile(
    r"(?<!\bSt)(?<!\bMt)(?<!\bDr)(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?:;|[.!?][\"”’)]?(?=\s+[\"“]?[A-Z]))\s+"
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
    mentions: tuple[Span, ...] = ()
    """Every mention of every person, in the order of the prompt."""


def read_ioi(prompt: str, answer: str) -> Reading:
    """The people of an IOI prompt.

    Raises:
        UnparsableError: with the reason.
    """
    text = re.sub(r"\s", " ", prompt)
    found = mentions(text)
    _check_answer(text, found, answer)
    _check_ending(text.strip())
    chains = lists(text, found)
    people = _people(text, found, chains, answer)
    named = [m for m in found if m.name in people]
    first = _introductions(named)
    _check_words(text, found, people)
    giving = _giving(text, chains, people - {answer}, first)
    _check_list(text, giving, answer)
    _check_strangers(text, chains, people, giving[0].start)
    introduced = tuple(sorted(first, key=lambda name: first[name].start))
    givers = tuple(m.name for m in giving)
    if set(givers) != people - {answer}:
        raise UnparsableError(
            f"introduced {list(introduced)}, last named {list(givers)}: expected all introduced names but one to give"
        )
    _check_clause(text.rstrip(), giving, found, people)
    slots = {first[name].start: f"intro{i}" for i, name in enumerate(introduced, 1)}
    slots |= {m.start: f"giver{i}" for i, m in enumerate(giving, 1)}
    others = (m.start for m in named if m.start not in slots)
    slots |= {start: f"other{i}" for i, start in enumerate(others, 1)}
    spans = tuple(Span(slots[m.start], m.start, m.stop) for m in named)
    return Reading(introduced, givers, introduced.index(answer), spans)


def _check_answer(prompt: str, found: list[Mention], answer: str) -> None:
    if " " in answer:
        raise UnparsableError(f"the answer {answer!r} is a name of several words")
    names = sorted({m.name for m in found})
    if len(names) < 2:
        raise UnparsableError(f"fewer than two names found: {names}")
    if answer not in names:
        there = re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", prompt)
        raise UnparsableError(f"the answer {answer!r} is not {'a name' if there else 'named'} in the prompt")


def _check_ending(prompt: str) -> None:
    """The next word is a name."""
    if re.search(r"[.!?…_]\s*[\"”]?$", prompt):
        raise UnparsableError("the prompt is a whole sentence: expected it to stop where the name would follow")
    last = prompt.split()[-1]
    if last.lower() not in _ENDINGS:
        raise UnparsableError(f"the prompt ends in {last!r}: expected a word that a name follows, such as to or for")
    if verb := _INFINITIVE.search(prompt[-40:]):
        raise UnparsableError(f"the prompt ends in {verb.group()!r}: a verb would follow, not a name")
    if last == "of" and not _OF_SOMEBODY.search(prompt[-40:]):
        raise UnparsableError(f"the prompt ends in {' '.join(prompt.split()[-2:])!r}: cannot tell that a name follows")


def _people(prompt: str, found: list[Mention], chains: list[list[Mention]], answer: str) -> set[str]:
    """The answer, and all that are named twice and are not places."""
    free = {m.name for m in found if not placed(prompt, m) and not seen(prompt, m)}
    free |= {m.name for chain in chains for m in chain[1:]}
    places = {m.name for m in found if placed(prompt, m)} - free - KNOWN
    twice = {name for name, count in Counter(m.name for m in found).items() if count > 1 and name not in places}
    if not twice:
        raise UnparsableError("nobody is named again: who gives must be introduced and then named again")
    return {answer} | twice


def _introductions(named: list[Mention]) -> dict[str, Mention]:
    """Where each person is first named, as somebody rather than as somebody's owner if that can be."""
    first: dict[str, Mention] = {}
    for mention in sorted(named, key=lambda m: m.possessive):
        first.setdefault(mention.name, mention)
    return first


def _giving(prompt: str, chains: list[list[Mention]], others: set[str], first: dict[str, Mention]) -> list[Mention]:
    """The last list that names `others` again and nobody else; without one, the last list of people."""
    people = [[m for m in chain if m.name in first] for chain in chains]
    for chain in reversed(people):
        for part in (chain, *_clauses(prompt, chain)):
            if part and {m.name for m in part} == others and all(m is not first[m.name] for m in part):
                return part
    return [chain for chain in people if chain][-1]


def _clauses(prompt: str, chain: list[Mention]) -> list[list[Mention]]:
    """What a list may be without its beginning, the end of a clause: "when they met Sue, Tom and Kim gave"."""
    word = governor(prompt, chain[0]) if chain else ""
    if word in ("", "With") or word.lower() in ("without", "like", "unlike", "not", "besides", "except"):
        return []
    cuts = (i for i in range(1, len(chain)) if prompt[chain[i - 1].stop : chain[i].start] in (", ", ", and ", ", but "))
    return [chain[i:] for i in cuts]


def _check_words(prompt: str, found: list[Mention], people: set[str]) -> None:
    """Names are one word."""
    for m in found:
        if m.name in people and (before := title(prompt, m)):
            raise UnparsableError(f"{before + m.name!r} is a name with a title, which is several words")
    for left, right in pairwise(found):
        if {left.name, right.name} & people and prompt[left.stop : right.start].isspace() and not left.possessive:
            if left.name not in people and (placed(prompt, left) or opens(prompt, left)):
                continue  # "In Paris John …", "Young John …"
            raise UnparsableError(f"{prompt[left.start : right.stop]!r} is a name of several words")


def _check_list(prompt: str, giving: list[Mention], answer: str) -> None:
    """The givers' list is who acts, and all who act."""
    names = [m.name for m in giving]
    if word := either(prompt, giving):
        raise UnparsableError(f"{word!r} among {names}: cannot tell who gives")
    if word := governor(prompt, giving[0]):
        raise UnparsableError(f"{names} follow {word!r}: cannot tell that they give")
    if answer in names:
        raise UnparsableError(f"the answer {answer!r} is among the givers {names}")
    ahead = re.search(r"\b((?:he|she|they|i|we|you) (?:and|or)) $", prompt[: giving[0].start][-40:], re.IGNORECASE)
    if ahead:
        raise UnparsableError(f"{ahead.group(1)!r} before {names}: cannot tell who gives")
    if any(m.possessive for m in giving):
        raise UnparsableError(f"what belongs to {names} acts, not they")
    if company := _COMPANY.match(prompt, giving[-1].stop):
        raise UnparsableError(f"{company.group().strip(' ,')!r} after {names}: cannot tell who gives")


def _check_strangers(prompt: str, chains: list[list[Mention]], people: set[str], until: int) -> None:
    """Nobody else is introduced."""
    for chain in chains:
        strangers = [m for m in chain if m.name not in people]
        for m in strangers:
            introduces = len(chain) > len(strangers) and not _leads(prompt, m, chain)
            if introduces or surely_somebody(prompt, m):
                raise UnparsableError(
                    f"{m.name!r} is named once and is not the answer: everybody else must be introduced and give"
                )
            if m.start < until and not m.possessive and _maybe_somebody(prompt, m):
                raise UnparsableError(f"{m.name!r} may be somebody who neither gives nor receives")


def _maybe_somebody(prompt: str, mention: Mention) -> bool:
    """No known name, and in the place of one: "while Zorg slept", "with Zorg", "Zorg, a stranger, came"."""
    adverb = opens(prompt, mention) and bool(_ADVERB.fullmatch(mention.name))
    told = not adverb and not placed(prompt, mention) and _TOLD_OF.match(prompt, mention.stop)
    return bool(told or _BYSTANDER.search(prompt[max(0, mention.start - 20) : mention.start]))


def _leads(prompt: str, mention: Mention, chain: list[Mention]) -> bool:
    """What a list of people only seems to begin with: "In Paris, John and Mary …", "Smiling, John and Mary …"."""
    if mention is not chain[0]:
        return False
    adverb = opens(prompt, mention) and bool(_ADVERB.fullmatch(mention.name))
    return placed(prompt, mention) or seen(prompt, mention) or adverb


def _check_clause(prompt: str, giving: list[Mention], found: list[Mention], people: set[str]) -> None:
    """The givers act up to the end of the prompt."""
    rest, names = prompt[giving[-1].stop :], [m.name for m in giving]
    passive = _PASSIVE.search(prompt[: giving[0].start][-60:])
    whom = [m.name for m in found if passive and m.stop == giving[0].start - len(passive.group())]
    if passive and whom:
        raise UnparsableError(f"{whom[0] + passive.group()!r} {names}: cannot tell what they give")
    if not passive and len(rest.split()) < 2 and rest.strip() not in _VERBS:
        raise UnparsableError(f"nothing is said of what {names} do")
    later = [m for m in found if m.start > giving[-1].start]
    if also := [m.name for m in later if m.name in people]:
        raise UnparsableError(f"{also[0]!r} is named again after the givers {names}")
    for m in later:
        if _SUBJECT.search(prompt[: m.start][-20:]):
            raise UnparsableError(f"{m.name!r} may be who gives, after {names}")
    if word := _SOMEBODY_ELSE.search(rest):
        raise UnparsableError(f"{word.group()!r} after {names}: cannot tell who gives")
    if len(names) == 1 and (word := re.search(r"\b(?:they|both)\b", rest)):
        raise UnparsableError(f"{word.group()!r} after {names}: cannot tell who gives")
    if other := _SOMETHING_ELSE.search(rest):
        raise UnparsableError(f"{(other.group(1) or other.group(2))!r} after {names}: cannot tell who gives")
    sentences = _SENTENCE_END.split(rest)
    if len(sentences) > 1 and not re.search(r"\b(?:they|the two|both|each)\b", sentences[-1], re.IGNORECASE):
        raise UnparsableError(f"the last sentence does not say that {names} give")
