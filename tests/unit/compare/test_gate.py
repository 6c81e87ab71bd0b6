"""The gate's numbers and verdicts, on arrays whose answer is known."""

import numpy as np
import pytest

from instar.compare.gate import STATISTICS, Numbers, judged
from instar.record.config.gate import GateConfig

ALLOWED = {"choosing": 0.05, "circuit": 0.05, "edges": 0.01}


def numbers(choosing=0.0, circuit=0.0, edges=0.0, noise=0.02, pairs=40) -> Numbers:
    """A base whose circuit does 0.9 of b − c = 4, and a checkpoint that differs by so much."""
    draw = np.random.default_rng(0)
    clean, corrupted = 2 + 0.1 * draw.normal(size=(2, pairs)), -2 + 0.1 * draw.normal(size=(2, pairs))
    kept = corrupted + np.array([[0.9], [0.9 + circuit]]) * (clean - corrupted) + noise * draw.normal(size=(2, pairs))
    told = -0.1 + noise * draw.normal(size=(2, pairs)) + np.array([[0.0], [choosing]])
    one, other = np.array([1.0, 0, 0, 0]), np.array([0, 1.0, 0, 0])
    angle = np.arccos(1 - edges)
    pages = np.stack([np.tile(one, (pairs, 1)), np.tile(np.cos(angle) * one + np.sin(angle) * other, (pairs, 1))])
    pages = pages + noise / 10 * draw.normal(size=pages.shape)
    return Numbers("skill", "giver1", told, clean, corrupted, kept, np.arange(pairs), pages, 7)


def verdicts(own: Numbers, shared: bool = True, **config) -> dict[str, str]:
    found = judged([own], GateConfig(allowed=ALLOWED, **config), shared)
    return {one.statistic: one.verdict for one in found}


def test_nothing_is_nothing_and_says_what_would_have_been_seen():
    found = judged([numbers()], GateConfig(allowed=ALLOWED), True)
    assert [one.verdict for one in found] == ["unchanged"] * 3
    assert all(one.allowed < one.detectable < one.allowed + 0.1 for one in found)


@pytest.mark.parametrize("name", STATISTICS)
def test_each_number_is_seen_by_itself(name):
    size = {"choosing": -0.3, "circuit": -0.3, "edges": 0.2}[name]
    found = {one.statistic: one for one in judged([numbers(**{name: size})], GateConfig(allowed=ALLOWED), True)}
    assert {n for n, one in found.items() if one.verdict == "changed"} == {name}
    assert found[name].change.value == pytest.approx(size, abs=0.02)


def test_what_would_be_seen_is_seen_in_four_of_five_cases():
    """Of changes as large as is said, whatever the draw of prompts; and nothing is, of what is allowed."""
    seen, false = [], []
    detectable = next(one.detectable for one in judged([numbers(noise=0.2)], GateConfig(allowed=ALLOWED), True))
    for seed in range(200):
        draw = np.random.default_rng(seed)
        for size, of in ((detectable, seen), (ALLOWED["choosing"], false)):
            own = numbers(noise=0.2)
            own.choosing[:] = 0.2 * draw.normal(size=own.choosing.shape) + np.array([[0.0], [size]])
            of.append(judged([own], GateConfig(allowed=ALLOWED), True)[0].verdict == "changed")
    assert 0.65 < np.mean(seen) < 0.92
    assert np.mean(false) < 0.05


def test_a_skill_that_is_gone_has_no_circuit_left():
    own = numbers()
    own.clean[1] = own.corrupted[1]
    assert verdicts(own)["circuit"] == "changed"


def test_without_shared_coordinates_only_what_it_does_is_judged():
    assert verdicts(numbers(edges=0.5), shared=False) == {
        "choosing": "unchanged",
        "circuit": "undetermined",
        "edges": "undetermined",
    }


def test_what_was_to_be_seen_and_cannot_be_is_undetermined():
    assert verdicts(numbers(noise=0.5), detect={"choosing": 0.06})["choosing"] == "undetermined"
    assert verdicts(numbers(noise=0.5), detect={"choosing": 5.0})["choosing"] == "unchanged"


def test_a_gates_file_is_read_strictly(tmp_path):
    file = tmp_path / "gate.yaml"
    file.write_text("skills: ioi2,greater_than\nallowed: {circuit: 0.2}\n")
    assert GateConfig.read(file).skills == ("ioi2", "greater_than")
    file.write_text("skils: [ioi2]\n")
    with pytest.raises(ValueError, match=r"gate\.yaml.*skils"):
        GateConfig.read(file)
    file.write_text("allowed: {speed: 1}\n")
    with pytest.raises(ValueError, match=r"gate\.yaml"):
        GateConfig.read(file)
