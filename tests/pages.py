"""Parts of docs/ that are made from the code: a stale one fails, and `INSTAR_WRITE=1 pytest FILE` writes it anew."""

import os
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def is_up_to_date(page: str, mark: str, text: str, made_by: str) -> None:
    """That `page` has `text` between `<!-- mark -->` and `<!-- /mark -->`."""
    path, begin, end = DOCS / page, f"<!-- {mark} -->", f"<!-- /{mark} -->"
    before, rest = path.read_text(encoding="utf-8").split(begin)
    old, after = rest.split(end)
    if os.environ.get("INSTAR_WRITE"):
        path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")
        return
    name = Path(made_by).relative_to(DOCS.parent)
    assert old.strip() == text, f"docs/{page} is stale: INSTAR_WRITE=1 pytest {name}"
