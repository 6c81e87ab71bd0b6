"""A check's verdict in the terminal, as JUnit XML (a test case each number) and as SARIF 2.1.0 (a result each change)."""

import json
from typing import Any
from xml.etree import ElementTree

from instar import __version__
from instar.notebook import clean
from instar.progress import Screen

console = Screen()
RULES = {
    "choosing": "What a skill does has changed: log p(answer) among the candidates, nats.",
    "circuit": "The base's circuit of a skill does another share of it in the checkpoint.",
    "edges": "A skill is wired otherwise: scores of all edges, 1 − cosine.",
}
ENDS = {"unchanged": 0, "changed": 3, "undetermined": 4}
"""Exit codes; 1 is an error, 2 a wrong command line."""


def show_checked(found: dict[str, Any]) -> None:
    """A line each number, and the verdict."""
    console.print(f"{found['base']} → {found['checkpoint']}")
    for one in found["tests"]:
        console.print(f"  {one['said']}", soft_wrap=True)
    console.print(f"{found['verdict']}: {found['sentence']}", style="bold", soft_wrap=True)
    console.print(found["caveat"], style="dim", soft_wrap=True)


def junit(found: dict[str, Any]) -> str:
    """A test case each number: failed where it has changed, skipped where it is undetermined."""
    count = {verdict: sum(one["verdict"] == verdict for one in found["tests"]) for verdict in ENDS}
    about = {"name": "instar check", "tests": str(len(found["tests"])), "errors": "0"}
    about |= {"failures": str(count["changed"]), "skipped": str(count["undetermined"])}
    suite = ElementTree.Element("testsuite", about)
    for one in found["tests"]:
        named = {"classname": clean(f"instar.{one['skill']}.{one['counterfactual']}"), "name": one["statistic"]}
        case = ElementTree.SubElement(suite, "testcase", named)
        if one["verdict"] != "unchanged":
            kind = "failure" if one["verdict"] == "changed" else "skipped"
            ElementTree.SubElement(case, kind, {"message": clean(one["said"])}).text = clean(one["said"])
        ElementTree.SubElement(case, "system-out").text = clean(one["said"])
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def sarif(found: dict[str, Any]) -> str:
    """A result each number that has changed (error) or is undetermined (warning), at the checkpoint's name."""
    rules = [{"id": f"instar/{name}", "shortDescription": {"text": RULES[name]}} for name in RULES]
    driver = {"name": "instar", "version": __version__, "rules": rules}
    results = [_result(one, found["checkpoint"]) for one in found["tests"] if one["verdict"] != "unchanged"]
    value = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _result(one: dict[str, Any], checkpoint: str) -> dict[str, object]:
    place = {"physicalLocation": {"artifactLocation": {"uri": checkpoint}, "region": {"startLine": 1}}}
    level = "error" if one["verdict"] == "changed" else "warning"
    return {
        "ruleId": f"instar/{one['statistic']}",
        "level": level,
        "message": {"text": clean(one["said"])},
        "locations": [place],
        "partialFingerprints": {"instar": f"{one['skill']}/{one['counterfactual']}/{one['statistic']}"},
    }
