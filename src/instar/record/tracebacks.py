"""Why something failed, for whoever mends it: `tracebacks.txt` of a run directory.

Tracebacks name places of this machine, so the file is no result: it is not listed with them, and may be removed.
"""

from datetime import datetime
from pathlib import Path

from instar.record.contents import refuse_links

NAME = "tracebacks.txt"


def keep(root: Path, what: str, traceback: str) -> None:
    """Add one to its end."""
    refuse_links(root, root / NAME)
    with (root / NAME).open("a", encoding="utf-8") as stream:
        when = datetime.now().astimezone().isoformat(timespec="seconds")
        stream.write(f"{when} {what}\n{traceback.rstrip()}\n\n")
