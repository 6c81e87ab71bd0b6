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
    own = shipped()
    rows = [row for row in own["words"] if row["kind"] is not None and row["base"] is None]
    told, right = (
        sum(row["words"].get(word, 0) for row in rows if truth in (None, row["truth"])) for truth in (None, word)
    )
    pooled, alarms = own["words"][-1]["right"], own["nothing changed"]["any"]
    mine = f"; where it said “{word}”, {right} of {told}" if told and word != "undetermined" else ""
    if not pooled["of"]:
        return "How often the words are right is not known."
    return (
        f"On planted fine-tunings of small models the answer was right {pooled['count']} of {pooled['of']} times that it "
        f"decided{mine}; false alarms {alarms['count']} of {alarms['of']} where nothing had changed."
    )
