"""The page in a real browser: it draws, the slider changes it, it asks nothing of a network, and foreign text stays text."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import expect, sync_playwright

from small_run import instar

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium found: browser tests not run (Debian: apt-get install chromium)"
)
HOSTILE = '</script><img src=x onerror="window.hacked=1"><b>x'


@pytest.fixture
def run_dir(finished) -> Path:
    return finished


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=flags)


class Watched:
    """A page, with everything it complained of and asked for."""

    def __init__(self, browser, path: Path):
        self.page = browser.new_page(viewport={"width": 1280, "height": 900})
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("body[data-ready=yes]")


@pytest.fixture
def opened(run_dir, browser):
    watched = Watched(browser, run_dir / "report" / "index.html")
    yield watched
    watched.page.close()


def report(run: Path) -> None:
    """The page alone: figures and animations are drawn elsewhere."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["report"] = {"gifs": False, "static": False}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    instar("report", run)


def drawn(page, plot: str):
    return page.evaluate(f"JSON.stringify(document.getElementById('{plot}').data.map(t => [t.x, t.y, t.z]))")


def axes(page, plot: str):
    return page.evaluate(
        f"(() => {{ const l = document.getElementById('{plot}').layout, d = document.getElementById('{plot}').data[0];"
        "return JSON.stringify([l.xaxis.range, l.yaxis.range, d.zmin, d.zmax]) })()"
    )


def test_it_opens_without_errors_or_requests(opened):
    assert opened.errors == []
    assert [r for r in opened.requests if not r.startswith(("file:", "data:", "blob:"))] == []
    plots = opened.page.locator(".plot")
    assert plots.count() >= 18
    for i in range(plots.count()):
        assert plots.nth(i).locator("svg.main-svg").count() > 0, plots.nth(i).get_attribute("id")


def test_no_control_of_the_page_makes_a_request(opened):
    """Every button, link and option is used; what a chart's own bar offers stays on this machine."""
    page, asked = opened.page, []
    page.on("popup", lambda popup: asked.append(popup.url))
    page.on("framenavigated", lambda frame: asked.append(frame.url))
    page.on("download", lambda download: download.cancel())
    for plot in page.locator(".js-plotly-plot").all():
        own = plot.evaluate("(p) => [p._context.showSendToCloud, p._context.plotlyServerURL]")
        assert own == [False, ""], plot.get_attribute("id")
    titles = set(page.evaluate("[...document.querySelectorAll('.modebar-btn')].map((b) => b.dataset.title)"))
    assert titles and not [
        t for t in titles if any(w in t.lower() for w in ("cloud", "share", "plotly", "studio", "upload"))
    ]
    controls = ".modebar-btn, button, summary, a"
    page.evaluate(f"document.querySelectorAll('{controls}').forEach((b) => b.dispatchEvent(new MouseEvent('click')))")
    for select in page.locator("select").all():
        for option in select.locator("option").all():
            select.select_option(option.get_attribute("value"))
    page.wait_for_timeout(500)
    assert asked == [] and page.locator("form, iframe, a[href^=http]").count() == 0
    assert [r for r in opened.requests if not r.startswith(("file:", "data:", "blob:"))] == []


def test_the_slider_changes_the_drawing_and_never_the_scales(opened):
    page = opened.page
    changing = ["stream-new", "layers-new", "heads-new", "slots-new", "example-new", "stream-old", "heads-old"]
    changing += ["patched-old-0", "patched-new-0", "patched-new-1", "scatter-new-0", "curve-old"]
    last = {plot: drawn(page, plot) for plot in changing}
    fixed = {plot: axes(page, plot) for plot in ("stream-new", "layers-new", "heads-new", "slots-new")}
    fixed |= {plot: axes(page, plot) for plot in ("patched-old-0", "patched-new-1", "scatter-new-0", "curve-old")}
    page.locator("#step").fill("0")
    assert page.locator("#step-label").inner_text() == "0"
    first = {plot: drawn(page, plot) for plot in changing}
    assert [plot for plot in changing if first[plot] == last[plot]] == []
    assert {plot: axes(page, plot) for plot in fixed} == fixed
    assert axes(page, "stream-new") == axes(page, "stream-old")
    assert opened.errors == []


def test_clicking_and_choosing_a_head_shows_its_attention(opened):
    page = opened.page
    before = drawn(page, "slots-new")
    other = "0.0" if page.locator("#head").input_value() != "0.0" else "1.1"
    page.locator("#head").select_option(other)
    assert drawn(page, "slots-new") != before
    area = page.locator("#heads-new .nsewdrag").first
    box = area.bounding_box()
    area.click(position={"x": box["width"] * 0.97, "y": box["height"] * 0.97})
    expect(page.locator("#head")).to_have_value("3.7")


def test_the_numbers_are_those_of_the_summary(opened, run_dir):
    summary = json.loads((run_dir / "summary.json").read_text())
    rows = opened.page.locator("#table tbody tr")
    assert rows.count() == 3
    opened.page.locator("details:has(#table) > summary").click()
    text = rows.nth(2).inner_text()
    for name in ("ioi2", "ioi3"):
        assert f"{100 * summary['tasks'][name]['accuracy'][2]:.1f} %" in text
    for i, name in enumerate(("ioi2", "ioi3")):
        beside, line = summary["tasks"][name]["baselines"], opened.page.locator("#baselines li").nth(i).inner_text()
        assert line.startswith(f"{name} without any circuit: {beside[0]['kind']}") and len(beside) == 4
        assert all(f"{100 * rule['accuracy']:.1f} %" in line and rule["kind"] in line for rule in beside)
        dashed = "document.getElementById('accuracy').data.filter(t => t.line.dash === 'dash').map(t => t.y[0])"
        assert opened.page.evaluate(dashed)[i] == beside[0]["accuracy"]


def test_every_site_scale_and_corruption_can_be_chosen(opened):
    page = opened.page
    page.locator("#step").fill("1")  # at the reference itself two of the scales are one
    for select, plot in (("site", "patched-new-1"), ("scale", "patched-new-1"), ("against", "scatter-new-0")):
        seen = {drawn(page, plot)}
        options = page.locator(f"#{select} option").evaluate_all("all => all.map(o => o.value)")
        for value in options:
            page.locator(f"#{select}").select_option(value)
            seen.add(drawn(page, plot))
        assert len(seen) >= len(options), select
    assert page.locator("#group option").all_text_contents() == ["all givers pooled", "giver1", "giver2"]
    page.locator("#group").select_option("giver2")
    assert "giver2" in page.locator("#curve-new .gtitle").text_content()
    assert opened.errors == []


def test_a_ratio_without_a_denominator_is_masked(opened, run_dir):
    """Three objects on the base: changing the first giver moves nothing, and no share of nothing is drawn."""
    import xarray as xr

    from instar.stats.scales import effect, usable

    both = [xr.load_dataset(run_dir / "measure" / "patching" / "ioi3" / f"step-00000{i}.nc") for i in (0, 8)]
    own, reference = (effect(d["clean"].values[0], d["corrupted"].values[0]) for d in both)
    opened.page.locator("#scale").select_option("ratio")
    opened.page.locator("#step").fill("0")
    shown = opened.page.evaluate("document.getElementById('patched-new-0').data[0].z.flat().every(v => v === null)")
    assert shown is (not usable(own, reference))
    noted = "masked" in opened.page.locator("#patched-new-0").inner_text()
    assert noted is shown


def test_a_circuit_that_was_not_measured_says_why(opened, run_dir):
    circuits = json.loads((run_dir / "summary.json").read_text())["circuits"]
    opened.page.locator("#step").fill("0")
    reasons = []
    for group in circuits["ioi3"]:
        opened.page.locator("#group").select_option(group)
        for role, task in (("old", "ioi2"), ("new", "ioi3")):
            own = circuits[task].get(group) or next(iter(circuits[task].values()))
            why = own["not_measured"][0]
            for place in (f"#curve-{role}", f"#graph-{role}"):
                shown = " ".join(opened.page.locator(place).inner_text().split())
                assert ("not measured: " in shown) is bool(why) and (why is None or why.split(" over ")[0] in shown)
            reasons.append(why)
    # In the base the first giver of three moves nothing.
    assert any(reasons) and not all(reasons)
    assert opened.errors == []


def test_edges_are_scored_exactly_at_both_ends(finished, tmp_path):
    import numpy as np
    import xarray as xr

    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    config["measure"] |= {"exact_ends": True, "stages": ["evaluate", "circuit"]}
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    instar("measure", run_dir, "--replace")
    for step, there in ((0, True), (4, False), (8, True)):
        data = xr.load_dataset(run_dir / "measure" / "circuit" / "ioi2" / f"step-00000{step}.nc")
        assert ("score_exact" in data) is there
    estimated, exact = data["score"].mean("pair").values[0], data["score_exact"].values[0]
    assert np.corrcoef(estimated, exact)[0, 1] > 0.5


@pytest.mark.parametrize("stages", [["evaluate", "patching", "circuit"], ["evaluate", "circuit"], ["evaluate"]])
def test_it_shows_what_was_measured_and_nothing_else(stages, run_dir, browser, tmp_path):
    some = tmp_path / "run"
    shutil.copytree(run_dir, some, ignore=shutil.ignore_patterns("checkpoints"))
    shutil.copytree(run_dir / "checkpoints", some / "checkpoints", ignore=shutil.ignore_patterns("*.safetensors"))
    config = yaml.safe_load((some / "config.yaml").read_text())
    config["measure"]["stages"] = stages
    (some / "config.yaml").write_text(yaml.safe_dump(config))
    for stage in (some / "measure").iterdir():
        if stage.is_dir() and stage.name not in stages:
            shutil.rmtree(stage)
    # Weights are gone: circuits that are there would be tested causally, and that fails.
    instar("compare", some, ok="circuit" not in stages)
    report(some)
    watched = Watched(browser, some / "report" / "index.html")
    assert watched.errors == []
    for section, stage, plot in (("patching", "patching", "patched-new-1"), ("circuits", "circuit", "graph-old")):
        assert watched.page.locator(f"#{section}").count() == (stage in stages)
        if stage in stages:
            assert watched.page.locator(f"#{plot} svg.main-svg").count() > 0
    watched.page.locator("#step").fill("0")
    if "circuit" in stages:
        watched.page.locator("#group").select_option("giver1")
    assert watched.errors == []
    watched.page.close()


def test_it_plays(opened):
    page = opened.page
    page.locator("#play").click()
    expect(page.locator("#step-label")).to_have_text("0")
    expect(page.locator("#step-label")).to_have_text("8")


def test_foreign_text_stays_text(run_dir, browser, tmp_path):
    """Prompts, wordings, tokens, model names and health notes are other people's words."""
    hostile = tmp_path / "run"
    shutil.copytree(run_dir, hostile)
    summary = json.loads((hostile / "summary.json").read_text())
    task = summary["tasks"]["ioi3"]
    task["by_wording"][HOSTILE] = next(iter(task["by_wording"].values()))
    task["said"][HOSTILE] = task["said"]["answer"]
    task["baselines"][0] |= {"kind": "best place", "says": HOSTILE}
    summary["model"] = HOSTILE
    summary["health"] = [{"kind": HOSTILE, "step": 0, "seed": 0, "text": HOSTILE}]
    for key in ("new", "old"):
        summary["changed"]["heads"][summary[key]][0]["head"] = HOSTILE
    (hostile / "summary.json").write_text(json.dumps(summary))
    import xarray as xr

    for file in (hostile / "measure" / "attention" / "ioi3").iterdir():
        data = xr.load_dataset(file, engine="h5netcdf")
        tokens = json.loads(data.attrs["tokens"])[0].split("\n")
        data.attrs["tokens"] = json.dumps(["\n".join([HOSTILE, *tokens[1:]])])
        data.to_netcdf(file, engine="h5netcdf")
    report(hostile)
    watched = Watched(browser, hostile / "report" / "index.html")
    assert watched.page.evaluate("window.hacked") is None
    assert watched.page.locator("img").count() == 0
    assert HOSTILE in watched.page.locator("h1").inner_text()
    assert watched.errors == []
    watched.page.close()


def shares(item) -> str:
    """As the page writes a number with its interval."""
    value, low, high = (f"{item[k]:.2f}".replace("-", "\u2212") for k in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def rows_of(page, table: str) -> dict[str, list[str]]:
    rows = page.locator(f"#{table} tbody tr").evaluate_all("all => all.map(r => [...r.cells].map(c => c.textContent))")
    return {row[0]: row[1:] for row in rows}


def test_the_verdict_and_both_shares_are_those_of_the_summary(opened, run_dir):
    page, found = opened.page, json.loads((run_dir / "summary.json").read_text())["verdict"]
    assert page.locator("#verdict-kind").inner_text().lower().endswith(found["kind"])
    assert page.locator("#verdict-text").inner_text() == found["text"]
    assert page.locator("#verdict-strip li").count() == len(found["series"])
    assert page.locator("#verdict-strip li.now").count() == 1
    assert len(rows_of(page, "evidence-table")) == len(found["evidence"])
    assert len(rows_of(page, "conditions-table")) == len(found["conditions"])
    table = rows_of(page, "graft-table")
    drawn_sets = page.evaluate("document.getElementById('graft-layers').data.map(t => [t.x, t.y])")
    for name in ("inside", "outside", "a0", "m3"):
        both = [found["evidence"][f"graft {name} {way}"] for way in ("into", "lost")]
        if both[0]["value"] is None:
            assert table[name][:2] == ["not measurable", "not measurable"]
            continue
        assert table[name][:2] == [shares(item) for item in both]
        for (names, values), item in zip(drawn_sets, both, strict=True):
            if name in names:
                assert values[names.index(name)] == pytest.approx(item["value"])
    assert opened.errors == []


def test_what_changed_is_drawn_and_every_role_can_be_chosen(opened):
    page = opened.page
    options = page.locator("#role option").evaluate_all("all => all.map(o => o.value)")
    assert {"name_mover", "induction", "to giver1", "s_inhibition giver2"} <= set(options)
    for role in options:
        page.locator("#role").select_option(role)
        page.locator("#step").fill("0")
        first, scale = drawn(page, "role-new"), axes(page, "role-new")
        page.locator("#step").fill("2")
        assert drawn(page, "role-new") != first, role
        assert axes(page, "role-new") == scale, role
    page.locator("#role").select_option("s_inhibition giver1")
    blank = page.evaluate("document.getElementById('role-new').data[0].z.map(row => row.every(v => v === null))")
    assert blank[-1] is True and "Name-movers" in page.locator("#role-movers").inner_text()
    assert opened.errors == []


def test_hostile_words_in_the_verdict_stay_words(run_dir, browser, tmp_path):
    hostile = tmp_path / "run"
    shutil.copytree(run_dir, hostile, ignore=shutil.ignore_patterns("*.safetensors"))
    summary = json.loads((hostile / "summary.json").read_text())
    summary["model"] = HOSTILE
    found = summary["verdict"]
    found |= {"text": HOSTILE, "would_change": HOSTILE, "missing": [HOSTILE], "kind": HOSTILE, "across_seeds": HOSTILE}
    found["series"][0] |= {"kind": HOSTILE, "missing": [HOSTILE]}
    found["conditions"][HOSTILE] = None
    for way in ("into", "lost"):
        found["evidence"][f"graft {HOSTILE} {way}"] = found["evidence"][f"graft inside {way}"]
    summary["diff"]["cells"][0]["a"] = summary["diff"]["cells"][0]["heads"]["kept"] = [HOSTILE]
    summary["diff"]["missing"] = [HOSTILE]
    summary["dynamics"]["events"] = [
        {"event": HOSTILE, "step": 4, "low": 1, "high": 8, "text": HOSTILE, "before_next": None, "agreement": None,
         "change": {"value": 1, "low": 0, "high": 2}}
    ]  # fmt: skip
    summary["controls"] = {HOSTILE: {"is": HOSTILE}}
    (hostile / "summary.json").write_text(json.dumps(summary))
    report(hostile)
    watched = Watched(browser, hostile / "report" / "index.html")
    assert watched.page.evaluate("window.hacked") is None
    assert watched.page.locator("img").count() == 0
    assert HOSTILE in watched.page.locator("#verdict-text").inner_text()
    assert HOSTILE in watched.page.locator("h1").inner_text()
    assert HOSTILE in watched.page.locator("#events").inner_text()
    assert watched.errors == []
    watched.page.close()


def test_a_run_without_causal_tests_says_so(run_dir, browser, tmp_path):
    some = tmp_path / "run"
    shutil.copytree(run_dir, some, ignore=shutil.ignore_patterns("*.safetensors"))
    summary = json.loads((some / "summary.json").read_text())
    summary |= {"verdict": None, "diff": None, "controls": {}}
    summary["dynamics"]["key"] = None
    (some / "summary.json").write_text(json.dumps(summary))
    shutil.rmtree(some / "measure" / "causal")
    shutil.rmtree(some / "measure" / "roles")
    report(some)
    watched = Watched(browser, some / "report" / "index.html")
    assert watched.page.locator("#verdict-kind").inner_text() == "No verdict"
    said = watched.page.locator("#changed-none").inner_text()
    assert "no checkpoint of this run has causal tests" in said and "Roles of heads were not measured" in said
    assert watched.page.locator("#grafting, #diff, #key, #roles").count() == 0
    watched.page.locator("#step").fill("0")
    assert watched.errors == []
    watched.page.close()
