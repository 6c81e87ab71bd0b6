"""Who is introduced, who gives and who should receive, read from an N-object IOI prompt in free wording.

1. *Candidates* are capitalised words, without the words that only open sentences ("After", "Yesterday") and without what
   follows an article ("the TV"). Neighbours with only a comma, "and", "as well as" … between them are one *list*; a name
   that comes back begins a new one ("Sue and Kim, Kim and Sue gave").
2. Of the introduced all but one give, so every giver is named twice or more and only the answer may be named once:
   *people* are the answer and all that are named twice, but for what always follows "in", "at", … (Rome).
3. The *givers* are the last list of people that have been named before. They must be all people but the answer.
4. The first mention of each person is `intro1`, `intro2`, … in their order, the givers' are `giver1`, …, all further ones
   `other1`, ….

What does not fit, or could be read in two ways, is refused with the reason: a wrong reading costs more than a lost row.
"""

import re
from dataclasses import dataclass
from itertools import pairwise

from instar.tasks.pair import Span
from instar.tasks.words import TEST_NAMES, TRAIN_NAMES

KNOWN = frozenset(TRAIN_NAMES + TEST_NAMES)
"""Surely somebody, wherever they stand."""

_WORD = re.compile(r"(?<!\w[’'])(?<![\w-])[^\W\d_](?:[\w-]|[’'](?=\w))*[’']?")
_POSSESSIVE = re.compile(r"([’']s|(?<=s)[’'])$")
_KIN = (
    "friend|brother|sister|wife|husband|cousin|colleague|coworker|co-worker|neighbou?r|classmate|roommate|teammate|partner|"
    "son|daughter|mother|father|mom|dad|boss|assistant"
)
_JOIN = re.compile(
    r"(?:,|,? ?(?:&|\b(?:and|as well as|together with|along with|alongside|plus|accompanied by|with)\b))"
    rf"(?: (?:also|finally|both|(?:his|her|their) (?:\w+ )?(?:{_KIN}),?))? ?"
)
_PLACE = re.compile(
    r"\b(?:in|at|to|into|from|near|of|on|through|around|via|inside|outside|toward|towards|during|for|until|since|before|"
    r"after|last|next|every|this)\s+(?:the\s+)?(?-i:[A-Z][\w’']* ){0,2}$",
    re.IGNORECASE,
)
_ARTICLE = re.compile(r"\b(?:a|an|the|this|these|those|my|our|your|his|its|some|any|no|each|every)\s+$", re.IGNORECASE)
_TITLE = re.compile(
    r"\b(?:Mr|Mrs|Ms|Miss|Mister|Dr|Doctor|Prof|Professor|Sir|Madam|Lady|Lord|Aunt|Auntie|Uncle|Captain|Coach|Father|Sister|"
    r"Brother|Officer|President|King|Queen|Prince|Princess|Grandma|Grandpa|St)\.?\s+$"
)
# What stands before a list that is the object of something, and gives nothing: "thanks to Mary and John", "thanked Mary".
_OBJECT = re.compile(
    r"\b(?:to|for|from|with|without|at|of|about|between|among|near|like|than|beside|behind|around|towards?|not|\w+ed|(?!evening|morning)\w+ing|saw|"
    r"met|told|found|left|heard|let|made|had|has|brought|took|gave|taught|drove|sent|led|paid|sold|bought|fed|"
    r"see|meet|tell|ask|help|join|visit|thank|or|nor|only)\s+$",
    re.IGNORECASE,
)
_SOMEBODY_ELSE = re.compile(r"\b(?:he|she|i|we|you|someone|somebody)\b", re.IGNORECASE)
_SUBJECT = re.compile(r"(?:\b(?:and|while|as|when|because|that|so|but|before|after|until|if)|[,;])\s+$")
_ADVERB = re.compile(r".+(?:ed|ing|ly)$")

# Never names, in whatever place; compared in lower case.
_NEVER = """
a after afterward afterwards again all also although among an and another any around as at away back because before
behind beside besides best between both brothers but by classmates colleagues cousins coworkers despite down during
each earlier early either even eventually every everybody everyone excited finally first five following for
fortunately four friends from happily happy having he her here hers him his how however hungry i if in initially
inside instead it its just knowing last late lately later long luckily many maybe me meanwhile most my near neighbors
neighbours neither next no nobody nor not nothing now of off old on once one only or our outside over perhaps recently
roommates seeing several she shortly siblings since sisters sitting six so some somebody someone something sometimes
somewhere soon still students such suddenly surprisingly teammates ten that the their them then there therefore these
they this those though three through throughout thus tired to today together tomorrow tonight too towards two under
unfortunately until up upon us usually very walking we well were what when whenever where wherever whether which while
who whom whose why with within without working yesterday yet you young your
"""
_NOT_NAMES = frozenset(_NEVER.split())
# Names only where they come back in lists: "In August" is a month, "August and Mary" may be people.
_DATES = """
monday tuesday wednesday thursday friday saturday sunday january february march april june july august september
october november december christmas easter halloween thanksgiving hanukkah ramadan diwali
"""
_CALENDAR = frozenset(_DATES.split())


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


@dataclass(frozen=True)
class _Mention:
    name: str
    start: int
    possessive: bool = False

    @property
    def stop(self) -> int:
        return self.start + len(self.name)


def read_ioi(prompt: str, answer: str) -> Reading:
    """The people of an IOI prompt.

    Raises:
        UnparsableError: with the reason.
    """
    candidates = _candidates(prompt, answer)
    lists = _lists(prompt, candidates)
    people = _people(prompt, candidates, lists, answer)
    mentions = [m for m in candidates if m.name in people]
    first = _introductions(mentions)
    giving = _giving(lists, people, first)
    givers = tuple(m.name for m in giving)
    if answer in givers:
        raise UnparsableError(f"the answer {answer!r} is among the givers {list(givers)}")
    _check_names(prompt, mentions, candidates, lists, people)
    introduced = tuple(sorted(first, key=lambda name: first[name].start))
    if len(introduced) < 2:
        raise UnparsableError(f"fewer than two introduced names found: {list(introduced)}")
    if set(givers) != set(introduced) - {answer}:
        raise UnparsableError(
            f"introduced {list(introduced)}, giving {list(givers)}: expected all introduced names but one to give"
        )
    _check_clause(prompt, giving, candidates, people)
    slots = {first[name].start: f"intro{i}" for i, name in enumerate(introduced, 1)}
    slots |= {m.start: f"giver{i}" for i, m in enumerate(giving, 1)}
    others = (m.start for m in mentions if m.start not in slots)
    slots |= {start: f"other{i}" for i, start in enumerate(others, 1)}
    spans = tuple(Span(slots[m.start], m.start, m.stop) for m in mentions)
    return Reading(introduced, givers, introduced.index(answer), spans)


def _candidates(prompt: str, answer: str) -> list[_Mention]:
    """Capitalised words that may be names."""
    found = []
    for word in _WORD.finditer(prompt):
        text = word.group()
        name = _POSSESSIVE.sub("", text).rstrip("’'")
        if not text[0].isupper() or re.split(r"[’']", name.lower())[0] in _NOT_NAMES - {answer.lower()}:
            continue
        found.append(_Mention(name, word.start(), bool(_POSSESSIVE.search(text))))
    after_article = {m.name for m in found if _ARTICLE.search(prompt[: m.start])}
    once = {m.name for m in found if m.name.lower() in _CALENDAR and sum(o.name == m.name for o in found) == 1}
    return [m for m in found if m.name not in after_article | (once - {answer})]


def _lists(prompt: str, mentions: list[_Mention]) -> list[list[_Mention]]:
    """Mentions with only a joining word between them; nothing is joined to what somebody owns."""
    lists: list[list[_Mention]] = []
    for mention in mentions:
        last = lists[-1] if lists else []
        joined = last and not last[-1].possessive and _JOIN.fullmatch(prompt[last[-1].stop : mention.start])
        if joined and mention.name not in {m.name for m in last}:
            last.append(mention)
        else:
            lists.append([mention])
    return lists


def _people(prompt: str, candidates: list[_Mention], lists: list[list[_Mention]], answer: str) -> set[str]:
    """The answer, and all that are named twice and are not places."""
    everyone = [m.name for m in candidates]
    if answer not in everyone:
        raise UnparsableError(
            f"the answer {answer!r} is not named in the prompt"
            if len(set(everyone)) > 1
            else f"fewer than two introduced names found: {sorted(set(everyone))}"
        )
    listed = {m.name for chain in lists for m in chain[1:]} | {
        chain[0].name for chain in lists if len(chain) > 1 and not _PLACE.search(prompt[: chain[0].start])
    }
    placed = {m.name for m in candidates} - {m.name for m in candidates if not _PLACE.search(prompt[: m.start])}
    twice = {name for name in everyone if everyone.count(name) > 1}
    return {answer} | {name for name in twice if name in listed or name not in placed}


def _introductions(mentions: list[_Mention]) -> dict[str, _Mention]:
    """Where each person is first named, as somebody rather than as somebody's owner if that can be."""
    first: dict[str, _Mention] = {}
    for mention in sorted(mentions, key=lambda m: m.possessive):
        first.setdefault(mention.name, mention)
    return first


def _giving(lists: list[list[_Mention]], people: set[str], first: dict[str, _Mention]) -> list[_Mention]:
    """The last list of people, without those who are introduced in it."""
    chains = [[m for m in chain if m.name in people] for chain in lists]
    last = [chain for chain in chains if chain][-1]
    return [m for m in last if m is not first[m.name]]


def _check_names(
    prompt: str, mentions: list[_Mention], candidates: list[_Mention], lists: list[list[_Mention]], people: set[str]
) -> None:
    """Names are one word, and nobody else is introduced."""
    for m in mentions:
        if title := _TITLE.search(prompt[: m.start]):
            raise UnparsableError(f"{title.group()}{m.name!r}: a name with a title is several words")
    for left, right in pairwise(candidates):
        if {left.name, right.name} & people and prompt[left.stop : right.start].isspace() and not left.possessive:
            if left.name not in people and (_PLACE.search(prompt[: left.start]) or _opens(prompt, left)):
                continue  # "In Paris John …", "Young John …"
            raise UnparsableError(f"'{left.name} {right.name}' is a name of several words")
    for chain in lists:
        strangers = [m for m in chain if m.name not in people]
        for m in strangers:
            introduces = len(chain) > len(strangers) and not _leads(prompt, m, chain)
            if introduces or (m.name in KNOWN and not m.possessive):
                raise UnparsableError(f"{m.name!r} is named and neither gives nor receives")


def _opens(prompt: str, mention: _Mention) -> bool:
    """The first word of a sentence, and nobody that is known."""
    starts = mention.start == 0 or bool(re.search(r"[.!?;:][\"”’]?\s*[\"“]?$", prompt[: mention.start]))
    return starts and mention.name not in KNOWN


def _leads(prompt: str, mention: _Mention, chain: list[_Mention]) -> bool:
    """What a list of people only seems to begin with: "In Paris, John and Mary …", "Smiling, John and Mary …"."""
    if mention is not chain[0]:
        return False
    adverb = _opens(prompt, mention) and bool(_ADVERB.fullmatch(mention.name))
    return bool(_PLACE.search(prompt[: mention.start])) or adverb


def _check_clause(prompt: str, giving: list[_Mention], candidates: list[_Mention], people: set[str]) -> None:
    """The givers are who acts up to the end of the prompt."""
    before, rest = prompt[: giving[0].start], prompt[giving[-1].stop :]
    names = [m.name for m in giving]
    if any(m.possessive for m in giving):
        raise UnparsableError(f"what belongs to {names} acts, not they")
    if verb := _OBJECT.search(before):
        raise UnparsableError(f"{names} follow {verb.group().strip()!r}: cannot tell that they give")
    later = [m for m in candidates if m.start > giving[-1].start]
    if also := [m.name for m in later if m.name in people]:
        raise UnparsableError(f"{also[0]!r} is named again after the givers {names}")
    for m in later:
        if _SUBJECT.search(prompt[: m.start]):
            raise UnparsableError(f"{m.name!r} may be who gives, after {names}")
    if word := _SOMEBODY_ELSE.search(rest):
        raise UnparsableError(f"{word.group()!r} after {names}: cannot tell who gives")
    if len(names) == 1 and (word := re.search(r"\b(?:they|both)\b", rest)):
        raise UnparsableError(f"{word.group()!r} after {names}: cannot tell who gives")
    if re.search(r"[.!?…_]\s*[\"”]?\s*$", prompt):
        raise UnparsableError("the prompt is a whole sentence: expected it to stop where the name would follow")
