"""What the language model is asked for: the system prompt, and a plan for every row.

A plan says who is introduced in which order, who gives, who receives, and with what scenery. Names and the receiver's
place are always the ones that the accepted rows and the requests in flight have least of, ties by the request's own
generator, so an obedient model writes balanced data and a stubborn one is pulled back (`instar.generate.judge` has the
quotas that bind it). Openings keep away from those of the held-out wordings.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from instar.tasks import words
from instar.tasks.library import listing

PROMPT_VERSION = 1
"""Counts up with every change of what is sent: a journal of another version is refused."""

OPENINGS = ("After", "When", "While", "Once", "Yesterday", "Today", "Because", "In the evening", "Last year", "Since",
            "At noon", "This week", "One day", "Although", "During the holidays", "Later that day")  # fmt: skip

_COUNTS = {2: "two", 3: "three", 4: "four", 5: "five"}


@dataclass(frozen=True)
class Plan:
    """One row that is asked for. `names` are in the order of introduction, `givers` in the order of giving."""

    names: tuple[str, ...]
    givers: tuple[str, ...]
    answer: str
    opening: str
    place: str
    thing: str

    @property
    def place_of_answer(self) -> int:
        """The answer's place among the introduced, from 0."""
        return self.names.index(self.answer)

    @classmethod
    def read(cls, value: dict[str, Any]) -> "Plan":
        """A plan from the journal."""
        return cls(**{**value, "names": tuple(value["names"]), "givers": tuple(value["givers"])})

    def line(self) -> str:
        """The plan as the model reads it."""
        return (
            f"introduce in this order: {listing(list(self.names))}; these give, in this order: "
            f"{listing(list(self.givers))}; the completion is: {self.answer}; open with: {self.opening!r}; "
            f"place: {self.place}; what is given: {self.thing}"
        )


@dataclass(frozen=True)
class Request:
    """One question to the model. The same index is the same question, however often it is sent."""

    index: int
    seed: int
    plans: tuple[Plan, ...]

    def as_dict(self) -> dict[str, Any]:
        """For the journal."""
        return {"seed": self.seed, "plans": [asdict(p) for p in self.plans]}

    @classmethod
    def read(cls, index: int, value: dict[str, Any]) -> "Request":
        """A request from the journal."""
        return cls(index, value["seed"], tuple(Plan.read(p) for p in value["plans"]))


@dataclass
class Uses:
    """How often each place of the answer, each answer and each introduced name is taken."""

    places: Counter[int]
    answers: Counter[str]
    introduced: Counter[str]

    @classmethod
    def none(cls) -> "Uses":
        """Nothing is taken yet."""
        return cls(Counter(), Counter(), Counter())

    def add(self, plan: Plan) -> None:
        """Count a plan."""
        self.places[plan.place_of_answer] += 1
        self.answers[plan.answer] += 1
        self.introduced.update(plan.names)


def deal(index: int, count: int, people: int, seed: int, uses: Uses) -> Request:
    """Request `index` for `count` rows of `people` names each. `uses` counts what is taken, and is added to."""
    rng = random.Random(f"{seed}/{index}")
    plans = []
    for _ in range(count):
        place = _least(range(people), uses.places, rng)[0]
        answer = _least(words.TRAIN_NAMES, uses.answers, rng)[0]
        others = [name for name in _least(words.TRAIN_NAMES, uses.introduced, rng) if name != answer][: people - 1]
        names = (*others[:place], answer, *others[place:])
        givers = tuple(rng.sample(others, len(others)))
        scenery = (rng.choice(OPENINGS), rng.choice(words.PLACES), rng.choice(words.OBJECTS))
        plans.append(Plan(names, givers, answer, *scenery))
        uses.add(plans[-1])
    return Request(index, rng.randrange(10**6), tuple(plans))


def _least(items: Sequence[Any], used: Counter[Any], rng: random.Random) -> list[Any]:
    """The items, least used first, equally used ones in random order."""
    return sorted(rng.sample(items, len(items)), key=lambda item: used[item])


def system_prompt(people: int) -> str:
    """What N-object indirect-object identification is, and what an answer looks like."""
    n, giving = _COUNTS[people], "one gives" if people == 2 else f"{_COUNTS[people - 1]} give"
    names = ["John", "Mary", "Jim", "Tom", "Bob"][:people]
    givers = names[1::-1] + names[3:] if people > 2 else names[:1]
    answer = next(name for name in names if name not in givers)
    return (
        f"You write data for {n}-object indirect-object identification (IOI). A prompt introduces {n} people by their "
        f"first names, once each and together. Then {giving} something away: the prompt names the givers again and "
        'breaks off at the word "to", where the name of the receiver would follow. The receiver is the one person who '
        "was introduced and does not give, and is never named a second time. The completion is that one name.\n"
        'Rules: plain English, one or two sentences, no more than 40 words. The prompt ends with the word "to", without '
        "the completion and without a full stop or dots. No other people, no titles, no pronouns for the people, no "
        "quotation marks. Use exactly the names, opening, place and thing that are asked for, and word the rest freely "
        "and differently each time.\n"
        'Answer with JSON only: {"rows": [{"prompt": "...", "completion": "..."}]}, one object for each prompt that is '
        "asked for. An example of a row, whose wording you do not repeat:\n"
        f'{{"prompt": "After {listing(names)} went to the store, {listing(givers)} gave a bottle of milk to", '
        f'"completion": "{answer}"}}'
    )


def question(request: Request) -> str:
    """The user's message; its seed makes two requests differ even where a server is deterministic."""
    count = len(request.plans)
    lines = [f"Seed: {request.seed}", f"Write {count} prompt{'' if count == 1 else 's'}."]
    return "\n".join(lines + [f"{i}. {plan.line()}" for i, plan in enumerate(request.plans, 1)])


def messages(request: Request, repair: tuple[str, str] | None = None) -> list[dict[str, str]]:
    """The conversation; `repair` is an answer that could not be read, and why."""
    people = len(request.plans[0].names)
    found = [{"role": "system", "content": system_prompt(people)}, {"role": "user", "content": question(request)}]
    if repair is not None:
        text, problem = repair
        again = f"That could not be read: {problem}. Send the same rows again as JSON only, in the form asked for."
        # Some chat templates refuse an empty turn.
        found += [{"role": "assistant", "content": text or "(empty)"}, {"role": "user", "content": again}]
    return found


RESPONSE_FORMAT = {
    "type": "json_schema",
    "json_schema": {
        "name": "ioi_rows",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {
                "rows": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"prompt": {"type": "string"}, "completion": {"type": "string"}},
                        "required": ["prompt", "completion"],
                        "additionalProperties": False,
                    },
                }
            },
            "required": ["rows"],
            "additionalProperties": False,
        },
    },
}
"""For servers with structured output; an object at the top, because some take nothing else."""
