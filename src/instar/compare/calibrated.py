"""How often the answer was right on planted truths, and how often it cried wolf: what the software was calibrated with.

`calibrated.json` beside this file is written by `instar calibrate` (`instar.calibrate.matrix`) and read here, so that every
answer says what is known of its kind.
"""

from functools import cache
from pathlib import Path
from typing import Any

from instar.record.files import read_json

SHIPPED = Path(__file__).parent / "calibrated.json"


@cache
def shipped() -> dict[str, Any]:
    """The calibration that comes with the software."""
    return read_json(SHIPPED)


def said(word: str) -> str:
    """How often answers of this word were right where the truth was planted, and false alarms: one sentence."""
    *rows, whole = shipped()["words"]
    pooled, alarms = whole["right"], shipped()["nothing changed"]["any"]
    if not pooled["of"]:
        return "How often the words are right is not known."
    told = whole["words"].get(word, 0)
    right = sum(row["words"].get(word, 0) for row in rows if row["base"] is None and row["truth"] == word)
    mine = f"; where it said “{word}”, {right} of {told}" if told and word != "undetermined" else ""
    return (
        f"On planted fine-tunings of small models the answer was right {pooled['count']} of {pooled['of']} times that it "
        f"decided{mine}; false alarms {alarms['count']} of {alarms['of']} (at most {alarms['high']:.0%}) where nothing had "
        "changed."
    )
