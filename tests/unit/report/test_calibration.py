"""The calibration's tables in docs/calibration.md are those of the shipped numbers. `INSTAR_WRITE=1` writes them anew."""

import os
from pathlib import Path

from instar.compare.calibrated import said, shipped
from instar.report.calibration import as_markdown, share

PAGE = Path(__file__).parents[3] / "docs" / "calibration.md"
BEGIN, END = "<!-- made by tests/unit/report/test_calibration.py -->\n", "<!-- so far -->\n"


def test_the_page_has_the_shipped_numbers():
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    wanted = f"{before}{BEGIN}\n{as_markdown(shipped())}\n{END}{after}"
    if os.environ.get("INSTAR_WRITE"):
        PAGE.write_text(wanted, encoding="utf-8")
        return
    assert text == wanted, "INSTAR_WRITE=1 pytest tests/unit/report/test_calibration.py writes it"


def test_every_answer_says_what_is_known_of_its_kind():
    pooled = shipped()["words"][-1]
    for word, count in pooled["words"].items():
        known = f"“{word}”, " in said(word) and f" of {count};" in said(word)
        assert known is (word != "undetermined"), said(word)
    assert f"right {pooled['right']['count']} of {pooled['right']['of']} times" in said("undetermined")


def test_a_share_stands_with_its_interval():
    assert share({"count": 0, "of": 0}) == "·"
    assert share({"count": 9, "of": 10, "share": 0.9, "low": 0.6, "high": 0.98}) == "9 of 10, 90 % [60, 98]"
