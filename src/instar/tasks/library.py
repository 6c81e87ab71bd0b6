"""The tasks that instar brings: N-object indirect-object identification, and its neighbours.

N-object IOI (after arXiv 2211.00593, which has N = 2): N people are introduced, N−1 of them give something, the answer
is the one who does not. Its corruptions:

- `giver1` … `giver{N-1}`: that giver becomes the answer name, so the name that left becomes right;
- `answer`: the introduced answer becomes a fresh name, which becomes right;
- `abc`: all 2N−1 mentions become distinct fresh names, and nothing is right.

The others are the candidates of the experiment that instar grew from: who holds the ball, who is in the room, who buys
more, and IOI with a receiver introduced apart. A user's own tasks come from a Python file or data (`custom`).
"""

import difflib
import itertools
from functools import partial

from instar.record.config import DataConfig
from instar.record.names import at_home
from instar.tasks import words
from instar.tasks.custom import is_custom, load_task
from instar.tasks.task import Corruption, Dealer, Scene, Task


def listing(names: list[str]) -> str:
    """`["A", "B", "C"]` as "A, B and C"."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _holes(stem: str, count: int) -> list[str]:
    return [f"{stem}{i + 1}" for i in range(count)]


def _ioi_scene(dealer: Dealer, n: int) -> Scene:
    introductions, givers = _holes("intro", n), _holes("giver", n - 1)
    template = dealer.template().format(
        names=listing([f"{{{h}}}" for h in introductions]),
        givers=listing([f"{{{h}}}" for h in givers]),
        place="{place}",
        object="{object}",
    )
    answer, *others = dealer.people(n)
    place = dealer.deal("answer place", range(n))
    order = dealer.deal(("giver order", place), itertools.permutations(range(n - 1)))
    introduced = [*others[:place], answer, *others[place:]]
    giving = [others[i] for i in order]
    fill = {**dict(zip(introductions, introduced, strict=True)), **dict(zip(givers, giving, strict=True))}
    corruptions = {hole: Corruption({hole: answer}, right=fill[hole]) for hole in givers}
    spare = [name for name in dealer.names if name not in introduced]
    fresh = dealer.rng.sample(spare, 2 * n - 1)
    corruptions["answer"] = Corruption({introductions[place]: fresh[0]}, right=fresh[0])
    corruptions["abc"] = Corruption(dict(zip(introductions + givers, fresh, strict=True)), right=None)
    return Scene(template, {**fill, **dealer.scenery()}, answer, tuple(others), corruptions, place)


def ioi(n: int = 2) -> Task:
    """N-object indirect-object identification, N from 2 to 5."""
    if not 2 <= n <= 5:
        raise ValueError(f"ioi(n) has n from 2 to 5, got {n}")
    givers = tuple(_holes("giver", n - 1))
    people = ["John", "Mary", "Jim", "Tom", "Bob"][:n]
    example = (
        f"After {listing(people)} went to the store, {listing(people[1::-1] + people[3:])} gave a bottle of milk to"
    )
    easier = (f"ioi{n - 1}",) if n > 2 else ()
    scene, kinds = partial(_ioi_scene, n=n), (*givers, "answer", "abc")
    return Task(
        f"ioi{n}", example, scene, kinds, easier, 3 * n - 1, wordings=words.TEMPLATES, more=words.MORE_TEMPLATES
    )


def _fresh_scene(dealer: Dealer) -> Scene:
    """Two introduced together, a third elsewhere; the two give, the third receives."""
    answer, first, second = dealer.people(3)
    place = dealer.deal("order", range(2))
    givers = [first, second] if place else [second, first]
    fill = {"intro1": first, "intro2": second, "intro3": answer, "giver1": givers[0], "giver2": givers[1]}
    template = (
        "After {intro1} and {intro2} went to the {place}, {intro3} stayed at the house. "
        "{giver1} and {giver2} gave a {object} to"
    )
    corruptions = {hole: Corruption({hole: answer}, right=fill[hole]) for hole in ("giver1", "giver2")}
    return Scene(template, {**fill, **dealer.scenery()}, answer, (first, second), corruptions, 2)


def _ball_scene(dealer: Dealer, n: int) -> Scene:
    """A ball goes from hand to hand; the last holder has it."""
    answer, fresh, *others = dealer.people(n + 1)
    holders = [*others, answer]
    passes = "".join(f" {{from{i}}} passes the ball to {{to{i}}}." for i in range(1, n))
    fill = {"holder": holders[0]}
    for i in range(1, n):
        fill |= {f"from{i}": holders[i - 1], f"to{i}": holders[i]}
    last = f"to{n - 1}"
    template = "Today {holder} has a ball." + passes + " The ball is now in the hand of"
    return Scene(template, fill, answer, tuple(others), {last: Corruption({last: fresh}, right=fresh)}, n - 1)


# Who comes in, who goes out: the wording of each kind, with its holes, and how many people it takes.
_ROOMS = {
    "room2": ("In the morning {in1} and {in2} come into the room. {out1} went out of the room.", 2),
    "room3": (
        "In the morning {in1}, {in2} and {in3} come into the room. {out1} went out of the room. {out2} went out of the room.",
        3,
    ),
    "room3_joint": (
        "In the morning {in1}, {in2} and {in3} come into the room. {out1} and {out2} went out of the room.",
        3,
    ),
    "room2_noise": (
        "In the morning {in1} and {in2} come into the room. {out1} went out of the room. {noise} went out of the room.",
        2,
    ),
    "room2_steps": (
        "In the morning {in1} comes into the room. {in2} comes into the room. {out1} went out of the room.",
        2,
    ),
}


def _room_scene(dealer: Dealer, kind: str) -> Scene:
    template, n = _ROOMS[kind]
    answer, *rest = dealer.people(n + (kind == "room2_noise"))
    others = rest[: n - 1]
    place = dealer.deal("place in room", range(n))
    entering = [*others[:place], answer, *others[place:]]
    leaving = list(others)
    if dealer.deal(("who leaves first", place), range(2)):
        leaving.reverse()
    fill = dict(zip(_holes("in", n), entering, strict=True)) | dict(zip(_holes("out", n - 1), leaving, strict=True))
    if kind == "room2_noise":
        fill["noise"] = rest[-1]
    corruptions = {hole: Corruption({hole: answer}, right=fill[hole]) for hole in _holes("out", n - 1)}
    return Scene(template + " The person in the room is", fill, answer, tuple(others), corruptions, place)


def _buys_scene(dealer: Dealer) -> Scene:
    """Two people buy; the corruption makes the other one buy more."""
    answer, other = dealer.people(2)
    first = dealer.deal("who is first", range(2))
    low, middle, high = sorted(dealer.rng.sample(("1", "2", "3", "5", "10"), 3), key=int)
    buyers = [other, answer] if first else [answer, other]
    amounts = [low, middle] if first else [middle, low]
    fill = {"buyer1": buyers[0], "amount1": amounts[0], "buyer2": buyers[1], "amount2": amounts[1]}
    less = "amount1" if first else "amount2"
    template = (
        "Today {buyer1} buys {amount1} bottles of milk. {buyer2} buys {amount2} bottles of milk. "
        "The person who buys more bottles of milk is"
    )
    return Scene(template, fill, answer, (other,), {"amount": Corruption({less: high}, right=other)}, first)


def _room(kind: str, example: str) -> Task:
    n = _ROOMS[kind][1]
    easier = () if kind == "room2" else ("room2",)
    return Task(kind, example, partial(_room_scene, kind=kind), tuple(_holes("out", n - 1)), easier, 3)


TASKS: dict[str, Task] = {
    **{f"ioi{n}": ioi(n) for n in (2, 3, 4, 5)},
    "ioi2_fresh": Task(
        "ioi2_fresh",
        "After John and Mary went to the store, Jim stayed at the house. Mary and John gave a bottle of milk to",
        _fresh_scene,
        ("giver1", "giver2"),
        ("ioi2",),
        3,
    ),
    "ball2": Task(
        "ball2",
        "Today John has a ball. John passes the ball to Mary. The ball is now in the hand of",
        partial(_ball_scene, n=2),
        ("to1",),
        people=3,
    ),
    "ball3": Task(
        "ball3",
        "Today John has a ball. John passes the ball to Mary. Mary passes the ball to Jim. The ball is now in the hand of",
        partial(_ball_scene, n=3),
        ("to2",),
        ("ball2",),
        4,
    ),
    "room2": _room(
        "room2",
        "In the morning John and Mary come into the room. John went out of the room. The person in the room is",
    ),
    "room3": _room(
        "room3",
        "In the morning John, Mary and Jim come into the room. Jim went out of the room. John went out of the room. "
        "The person in the room is",
    ),
    "room3_joint": _room(
        "room3_joint",
        "In the morning John, Mary and Jim come into the room. John and Jim went out of the room. "
        "The person in the room is",
    ),
    "room2_noise": _room(
        "room2_noise",
        "In the morning John and Mary come into the room. John went out of the room. Jim went out of the room. "
        "The person in the room is",
    ),
    "room2_steps": _room(
        "room2_steps",
        "In the morning John comes into the room. Mary comes into the room. John went out of the room. "
        "The person in the room is",
    ),
    "buys": Task(
        "buys",
        "Today John buys 1 bottles of milk. Mary buys 10 bottles of milk. The person who buys more bottles of milk is",
        _buys_scene,
        ("amount",),
    ),
}


def task(name: str, data: DataConfig | None = None) -> Task:
    """A task by name: one of the library, a Python file (`my.py` or `my.py:NAME`), or data (`my.json`, `folder#test`).

    Args:
        data: what a run says of its data: the columns of a user's file, and how much of it is held out.

    Raises:
        ValueError: naming the nearest known task.
    """
    if name in TASKS:
        return TASKS[name]
    if is_custom(name := at_home(name)):
        return load_task(name, data)
    near = difflib.get_close_matches(name, TASKS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"no task {name!r}.{hint} Known: {', '.join(TASKS)}; or a path to a .py file or to data.")
