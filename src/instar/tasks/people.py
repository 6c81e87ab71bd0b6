"""Who may be somebody in an English sentence: capitalised words, the lists they stand in, and what stands before them.

*Mentions* are capitalised words, without the words that only open sentences ("After", "Yesterday") and without what follows
an article ("the TV"). Neighbours with only a comma, "and", "as well as", ", the baker, and" … between them are one *list*;
a name that comes back begins a new one ("Sue and Kim, Kim and Sue gave").
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from instar.tasks.words import TEST_NAMES, TRAIN_NAMES

# First names that are hardly ever anything else: no places (Paris, Jordan), months or plain words (Will, Grace, Mark).
_NAMES = """
Aaliyah Abigail Adele Aditya Adrian Agnes Ahmed Aisha Alan Albert Alejandro Alex Alexa Alexander Alexandra Alexis Alfred Ali
Alicia Alina Alison Allison Amanda Amelia Amir Amira Ana Andre Andy Angelica Angelo Anita Ann Anne Annie Antonio Anya Ari
Aria Ariana Ariel Arjun Arthur Asher Astrid Audrey Auntie Ava Barbara Beatrice Becky Bella Benny Beth Bethany Betty Beverly
Bianca Billy Bobby Brad Bradley Brenda Brent Brett Brianna Brooke Bruce Bruno Bryan Caleb Cameron Carla Carlos Carly Carmen
Carol Caroline Carolyn Carrie Carter Catherine Cathy Cecilia Chad Chen Chloe Chris Christian Christine Christopher Cindy
Claire Clara Claudia Colin Connor Cora Cory Craig Curtis Cynthia Dad Daddy Dana Danielle Danny Daphne Darius Debbie Deborah
Delilah Dennis Derek Devon Diana Diane Diego Dmitri Dolly Dominic Donald Donna Dora Doris Dorothy Douglas Dylan Ed Eddie
Edgar Edith Edward Edwin Eileen Elaine Eleanor Elena Eli Eliana Elias Elijah Elise Ella Ellen Ellie Elliot Emilia Emma
Enrique Erica Erik Ernest Esther Ethan Eugene Eva Evan Eve Evelyn Ezra Farah Fatima Felix Fernando Finn Fiona Fleming Fran
Frances Francis Franklin Freddie Freya Gabriel Gabriella Gavin Geoffrey Gerald Gina Giovanni Gloria Gordon Grandma Grandpa
Granny Greta Gwen Hailey Hamed Hana Hannah Harold Harriet Harrison Harvey Hassan Hazel Hector Heidi Helen Helena Herbert
Holly Howard Hugh Hugo Ian Ibrahim Igor Ines Ingrid Irene Irina Irving Isaac Isabel Isabella Isla Ivan Jackie Jaime Jake
Jamal Jamie Jan Janet Janice Jared Javier Jean Jed Jenna Jenny Jerome Jerry Jesse Jill Jimmy Jing Joan Joanna Joel Johanna
Johnny Jon Jonah Jonas Jorge Jose Josephine Joyce Juan Juanita Judith Judy Jules Julian Julie Juliet Justine Kai Kara Karim
Karl Kathleen Kathryn Kathy Katie Kayla Kenji Kim Kira Kristen Kristin Kurt Lara Laurie Layla Leah Lena Leo Leon Leonard
Leslie Lewis Liam Lila Lillian Lily Lina Ling Liz Lois Lorenzo Lorraine Louis Louise Luca Lucas Lucia Luis Luna Lydia Lynn
Mabel Mable Maddie Maggie Malik Marco Marcus Margaret Marie Marilyn Mario Marta Martha Marvin Mateo Maureen Maurice Maya Mei
Melanie Melody Mia Miguel Mila Mildred Miles Milly Mina Ming Miranda Miriam Mohamed Mohammed Molly Mom Mommy Mona Monica
Muhammad Mum Nadia Nancy Naomi Natalia Natalie Natasha Ned Neil Nelly Nia Nigel Nina Noah Noel Nora Norman Olga Olivia Omar
Owen Pablo Pam Pamela Patricia Patty Paula Pauline Pedro Peggy Penelope Percy Petra Phil Phoebe Phyllis Pierre Polly Priya
Quentin Quincy Quinn Rafael Raj Rajesh Ravi Raymond Rebekah Reginald Reilly Rhonda Ricardo Rick Ricky Riley Rita Rob Roberto
Robin Rodney Roland Roman Ronald Ronnie Rosa Rosie Ross Roy Ruben Ruby Rupert Russell Ruth Sabrina Saeed Samir Samuel Sandra
Sanjay Santa Santiago Sara Sasha Sebastian Serena Seth Shane Shannon Sharon Shawn Sheila Shelly Shirley Silvia Simone Sofia
Sonia Sophia Sophie Spencer Stacy Stan Stanley Stella Sterling Stuart Sue Susanna Suzanne Sven Sylvia Talia Tamara Tanya
Tara Taylor Ted Teresa Terry Theo Theodore Theresa Tia Tiana Tilly Tim Tina Todd Tommy Tracy Travis Trevor Trisha Troy Uma
Valerie Vanessa Vera Vernon Veronica Vicky Victor Vince Vincent Vivian Wally Walter Wanda Warren Wendy Wesley Wilfred
Winifred Xander Xavier Yara Yasmin Yolanda Yusuf Yvonne Zach Zachary Zara Zelda Zoe Zoey
"""
KNOWN = frozenset((*TRAIN_NAMES, *TEST_NAMES, *_NAMES.split()))
"""Surely somebody, wherever they stand."""

# Never names, in whatever place; compared in lower case.
_NEVER = """
a after afterward afterwards again all also although among an and another any around as at away back because before
behind beside besides best between both brothers but by classmates colleagues cousins coworkers curious despite down
during each eager earlier early either even eventually every everybody everyone excited finally first five following for
fortunately four friends from happily happy having he her here hers him his how however hungry i if in initially
inside instead it its just knowing last late lately later long luckily many maybe me meanwhile most mr mrs ms dr my near
neighbors neighbours neither next no nobody nor not nothing now of off old on once one only or our outside over perhaps
prof proud recently roommates seeing several she shortly siblings since sisters sitting six so some somebody someone
something sometimes somewhere soon st still students such suddenly surprisingly teammates ten that the their them then
there therefore these they thirsty this those though three through throughout thus tired to today together tomorrow
tonight too towards two under unfortunately until up upon us usually very walking we well were what when whenever where
wherever whether which while who whom whose why with within without working yesterday yet you young your
"""
_NOT_NAMES = frozenset(_NEVER.split())
# Not names unless they come back. April, May, June and August may be people; "in August" they are like any place.
_DATES = """
monday tuesday wednesday thursday friday saturday sunday january february march july september october november december
christmas easter halloween thanksgiving hanukkah ramadan diwali
"""
_CALENDAR = frozenset(_DATES.split())

KIN = (
    r"(?:friend|brother|sister|wife|husband|cousin|colleague|coworker|co-worker|neighbou?r|classmate|roommate|teammate|partner|"
    r"son|daughter|mother|father|mom|dad|boss|assistant|parent|sibling|student|other)"
)
_NEAR = 60
"""Characters before a word that may say what it is."""

_WORD = re.compile(r"(?<!\w[’'])(?<![\w-])[^\W\d_](?:[\w-]|[’'](?=\w))*[’']?")
_POSSESSIVE = re.compile(r"([’']s|(?<=s)[’'])$")
_ARTICLE = re.compile(r"\b(?:a|an|the|this|these|those|my|our|your|his|its|some|any|no|each|every)\s+$", re.IGNORECASE)
_TITLE = re.compile(
    r"\b(?:(?P<street>Lady|Lord|Father|Sister|Brother|President|King|Queen|Prince|Princess|St)|Mr|Mrs|Ms|Miss|Mister|Dr|Doctor|"
    r"Prof|Professor|Sir|Madam|Aunt|Auntie|Uncle|Captain|Coach|Officer|Grandma|Grandpa)\.?\s+$"
)
_CAPITALS = r"(?:the\s+)?(?-i:(?:[A-Z][\w’']*|St\.|Mt\.)\s){0,3}$"
_PLACE = re.compile(
    r"\b(?:in|at|to|into|from|near|of|on|through|around|via|inside|outside|toward|towards|during|for|last|next|every|this|early|late)\s+"
    r"(?:the\s+)?(?P<first>(?-i:(?:[A-Z][\w’']*|St\.|Mt\.)\s){0,3})$",
    re.IGNORECASE,
)
# "thanked Mary", "seeing Mary"; not "Excited Mary", "the wedding Mary …", "when it ended Mary …".
_VERB = (
    r"(?-i:(?!(?:arriv|end|happen|appear|land|depart|start|stopp|open|clos|rain)ed)[a-z]+ed)|"
    r"(?<!\bthe\s)(?<!\ba\s)(?<!\ban\s)(?<!\bthat\s)(?<!\bthis\s)(?<!\btheir\s)(?<!\bone\s)(?!(?:even|morn|dur)ing)\w+ing|saw|"
    r"met|told|found|left|heard|let|made|had|has|brought|took|gave|taught|drove|"
    r"sent|led|paid|sold|bought|fed|see|meet|tell|ask|help|join|visit|thank"
)
_SEEN = re.compile(rf"\b(?:{_VERB})\s+{_CAPITALS}", re.IGNORECASE)
# What stands before a list that is the object of something, and gives nothing: "thanks to Mary and John", "thanked Mary".
_OBJECT = re.compile(
    rf"\b(?:to|for|from|(?<!(?-i:Together ))(?<!(?-i:Along ))with|without|at|of|about|between|among|near|like|unlike|than|"
    rf"beside|besides|behind|around|towards?|not|except|(?:every(?:one|body)|all|none|nobody|no one|any(?:one|body)) but|"
    rf"{_VERB})\s+$",
    re.IGNORECASE,
)
_MODIFIER = re.compile(r"\b(?:only|both|just|even|also|neither|either|first|not only)\s+$", re.IGNORECASE)

_AND = (
    r"(?:and|or|nor|as well as|together with|along with|alongside|plus|with|but also|but not|not|rather than|instead of|"
    r"without|except|(?:accompanied|followed|joined|helped|assisted|aided|supported) by)"
)
# "Anna, the owner, Ben and …"; "Anna (still sleepy) and Ben"; and, where "and" follows, "Anna, tired as ever, and Ben".
_INSIDE = r"[^,.;:!?()A-Z]{1,60}"
_ASIDE = (
    rf"(?:,\s(?:the|a|an|his|her|their|our|who|whose)\b{_INSIDE}(?=,)|\s\([^()A-Z]{{1,60}}\)|"
    rf",\s{_INSIDE}(?=,\s?(?:&|and)\b))?"
)
_JOIN = re.compile(
    rf"{_ASIDE}(?:,|,?\s?(?:&|\b{_AND}\b))(?:,\s{_INSIDE},)?"
    r"(?:\s(?:also|finally|both|then|later|even|only|(?:his|her|their|the)\s(?:\w+\s)?\w+,?))?\s?"
)
_EITHER = re.compile(r"\b(?:or|but not|not|rather than|instead of|without|except)\b")


@dataclass(frozen=True)
class Mention:
    """One capitalised word of the prompt that may be somebody."""

    name: str
    start: int
    possessive: bool = False

    @property
    def stop(self) -> int:
        """The first character after the name, its 's not counted."""
        return self.start + len(self.name)


def mentions(prompt: str) -> list[Mention]:
    """Capitalised words that may be names."""
    found = []
    for word in _WORD.finditer(prompt):
        text = word.group()
        name = _POSSESSIVE.sub("", text).rstrip("’'")
        if text[0].isupper() and re.split(r"[’']", name.lower())[0] not in _NOT_NAMES:
            found.append(Mention(name, word.start(), bool(_POSSESSIVE.search(text))))
    counts = Counter(m.name for m in found)
    dropped = {m.name for m in found if _ARTICLE.search(before(prompt, m))}
    dropped |= {name for name, count in counts.items() if count == 1 and name.lower() in _CALENDAR}
    return [m for m in found if m.name not in dropped]


def lists(prompt: str, found: Sequence[Mention]) -> list[list[Mention]]:
    """Mentions with only a joining word between them; nothing is joined to what somebody owns."""
    chains: list[list[Mention]] = []
    for mention in found:
        last = chains[-1] if chains else []
        joined = last and not last[-1].possessive and _JOIN.fullmatch(prompt[last[-1].stop : mention.start])
        if joined and mention.name not in {m.name for m in last}:
            last.append(mention)
        else:
            chains.append([mention])
    return chains


def before(prompt: str, mention: Mention) -> str:
    """What stands shortly before a mention, without "only", "both" … that belong to it."""
    text = prompt[max(0, mention.start - _NEAR) : mention.start]
    while modifier := _MODIFIER.search(text):
        text = text[: modifier.start()]
    return text


def title(prompt: str, mention: Mention) -> str:
    """The "Mr. " before a name, or nothing."""
    found = _TITLE.search(before(prompt, mention))
    return found.group() if found else ""


def governor(prompt: str, mention: Mention) -> str:
    """The verb or preposition that a mention is the object of, or nothing."""
    found = _OBJECT.search(before(prompt, mention))
    return found.group().strip() if found else ""


def placed(prompt: str, mention: Mention) -> bool:
    """After "in", "at" …, also as the last word of several: "in New York"."""
    return bool(_PLACE.search(before(prompt, mention)))


def surely_somebody(prompt: str, mention: Mention) -> bool:
    """A first name or a title, and not "on Christmas Eve", "in King Street", "Ben's"."""
    text = before(prompt, mention)
    rank, place = _TITLE.search(text), _PLACE.search(text)
    titled = rank and not (rank["street"] and place)
    known = mention.name in KNOWN and not (place and place["first"])
    return not mention.possessive and bool(titled or known)


def seen(prompt: str, mention: Mention) -> bool:
    """After a verb that it is the object of, also as the last word of several: "watched Star Wars"."""
    return bool(_SEEN.search(before(prompt, mention)))


def opens(prompt: str, mention: Mention) -> bool:
    """The first word of a sentence, and nobody that is known."""
    starts = mention.start == 0 or bool(re.search(r"(?:^|[.!?;:—])[\"”’]?\s*[\"“]?$", before(prompt, mention)))
    return starts and mention.name not in KNOWN


def either(prompt: str, chain: Sequence[Mention]) -> str:
    """The "or", "not", "rather than" in a list, which do not say who of it acts; or nothing."""
    gaps = (re.sub(f"^{_ASIDE}", "", prompt[a.stop : b.start]) for a, b in pairwise(chain))
    found = _EITHER.search(" … ".join(gaps))
    return found.group() if found else ""
