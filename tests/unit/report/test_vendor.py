"""The page's libraries are what their list says, with their licences, and hold nothing that ends a script element."""

import hashlib

from instar.report.page import LIBRARIES, VENDOR


def test_every_library_is_the_published_file():
    rows = [line.split("|") for line in (VENDOR / "README.md").read_text().splitlines() if ".js |" in line]
    told = {row[1].strip(): row[4].strip() for row in rows}
    assert set(told) == set(LIBRARIES)
    for name, digest in told.items():
        content = (VENDOR / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest, name
        assert b"</script" not in content.lower()
    assert all((VENDOR / f"{name}.LICENSE").read_text() for name in ("d3", "plot"))
