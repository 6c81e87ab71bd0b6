"""The page in a real browser: it answers, drawings follow the step, it asks nothing of a network, foreign text stays text."""

import json
import re
import shutil
import threading
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import xarray as xr
import yaml
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

from instar.circuits.selection import of_size
from instar.report.watch import Watched as Served
from small_run import instar

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium found: browser tests not run (Debian: apt-get install chromium)"
)
HOSTILE = '</script><img src=x onerror="window.hacked=1"><b>x'
FORMULA = "=1+1"


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=flags)


class Watched:
    """A page, with everything it complained of and asked for."""

    def __init__(self, browser, path: Path, state: str = "", **options):
        self.page = browser.new_page(**({"viewport": {"width": 1280, "height": 800}} | options))
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.goto(path.as_uri() + state)
        self.page.wait_for_selector("body[data-ready=yes]")

    def to_the_end(self) -> None:
        """Scroll through, so that every panel is drawn."""
        for panel in self.page.locator(".panel").all():
            panel.scroll_into_view_if_needed()
        self.page.wait_for_timeout(100)

    def step(self, index: int) -> None:
        """Move the bar, and wait until what is seen is drawn."""
        self.page.locator("#step").fill(str(index))
        self.page.evaluate("new Promise((f) => requestAnimationFrame(() => requestAnimationFrame(f)))")

    def asked(self) -> list[str]:
        """Requests to anywhere else."""
        return [r for r in self.requests if not r.startswith(("file:", "data:", "blob:"))]


@pytest.fixture
def opened(finished, browser):
    watched = Watched(browser, finished / "report" / "index.html")
    yield watched
    watched.page.close()


def report(run: Path) -> None:
    """The page alone: figures and animations are drawn elsewhere."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["report"] = {"gifs": False, "static": False}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    instar("report", run)


def typographic(text: str) -> str:
    """A rule's sentence with the page's minus and thin space."""
    return re.sub(r"(\d)\s?%", "\\1\u202f%", re.sub(r"(^|[\s\[(+])-(?=\d)", "\\1\u2212", text))


def edges(page, panel: str = "#circuit") -> dict[str, set[str]]:
    """What is drawn of a circuit, by kind."""
    rows = page.locator(f"{panel} path.edge").evaluate_all("all => all.map(e => [e.dataset.edge, e.classList[1]])")
    return {kind: {name for name, own in rows if own == kind} for kind in ("here", "kept", "gained", "lost")}


def drawn(page, panel: str) -> str:
    return page.locator(f"#{panel} .drawing").first.inner_html()


def test_it_opens_draws_everything_and_asks_for_nothing(opened):
    opened.to_the_end()
    assert opened.errors == [] and opened.asked() == []
    panels = opened.page.locator(".panel")
    assert panels.count() >= 20
    empty = "all => all.filter(p => !p.querySelector('.drawing').firstChild).map(p => p.id)"
    assert panels.evaluate_all(empty) == []


def test_the_first_screen_answers_without_scrolling(opened, finished):
    summary = json.loads((finished / "summary.json").read_text())
    page = opened.page
    for own in ("#headline", "#learnt", "#chips", "#step", "#circuit svg.circuit", "#accuracy svg", "#ribbon"):
        box = page.locator(own).first.bounding_box()
        assert box is not None and box["y"] < 800, own
    assert page.locator("#headline").inner_text() == typographic(summary["answer"]["headline"])
    learnt = page.locator("#learnt").inner_text()
    for name in ("ioi2", "ioi3"):
        task = summary["tasks"][name]
        ends = [f"{100 * task['accuracy'][i]:.1f}\u202f%" for i in (0, -1)]
        assert f"{ends[0]} → {ends[1]}" in learnt and name in learnt
    page.locator("#chips button").filter(has_text="ruled out").click()
    told = page.locator("#chips .all:not([hidden]) li").all_inner_texts()
    assert told == [typographic(text) for text in summary["answer"]["ruled_out"]]


def test_no_control_of_the_page_makes_a_request(opened):
    page, asked = opened.page, []
    opened.to_the_end()
    page.on("popup", lambda popup: asked.append(popup.url))
    page.on("framenavigated", lambda frame: asked.append(frame.url.split("#")[0]))
    page.on("download", lambda download: download.cancel())
    page.evaluate(
        "document.querySelectorAll('.more').forEach((more) => { more.click();"
        "for (let i = 0; i < document.querySelectorAll('.menu [role=menuitem]').length; i++)"
        "{ document.querySelectorAll('.menu [role=menuitem]')[i].click(); more.click(); } })"
    )
    page.evaluate("document.querySelectorAll('button, summary, a').forEach((b) => b.click())")
    page.keyboard.press("Escape")
    for select in page.locator("select").all():
        for value in select.locator("option").evaluate_all("all => all.map(o => o.value)"):
            select.select_option(value, force=True)
    page.wait_for_timeout(400)
    here = page.url.split("#")[0]
    assert set(asked) <= {here} and page.locator("iframe, a[href^=http]").count() == 0
    assert page.locator("form").count() == 0
    assert opened.asked() == [] and opened.errors == []


def test_every_drawing_follows_the_step(opened):
    opened.to_the_end()
    page = opened.page
    follow = ["circuit", "both", "faithfulness", "gaze", "direct", "stream", "patched", "scatter", "groups"]
    scales = {}
    for panel in follow:
        page.locator(f"#{panel}").scroll_into_view_if_needed()
        opened.step(2)
        last, scales[panel] = drawn(page, panel), page.locator(f"#{panel} .mapkey").all_inner_texts()
        opened.step(0)
        assert drawn(page, panel) != last, panel
        assert page.locator(f"#{panel} .mapkey").all_inner_texts() == scales[panel], panel
    # Of drawings over steps a line moves, and nothing else.
    page.locator("#accuracy").scroll_into_view_if_needed()
    places = []
    for index in (0, 2):
        opened.step(index)
        places.append(float(page.locator("#accuracy .cursor").get_attribute("x1") or "nan"))
    assert places[1] > places[0] + 20
    assert opened.errors == []


def test_the_drawn_difference_is_that_of_circuits_of_equal_size(opened, finished):
    page = opened.page
    group = page.locator("#hero-controls select").nth(1).input_value()
    n = int(page.locator("#hero-controls output").inner_text())
    pages = [xr.load_dataset(finished / "measure" / "circuit" / "ioi3" / f"step-00000{i}.nc") for i in (0, 8)]
    then, now = (set(of_size(own, n, group).edges) for own in pages)
    assert edges(page) == {"here": set(), "kept": then & now, "gained": now - then, "lost": then - now}
    said = page.locator("#circuit .finding").inner_text()
    assert f"{len(then & now)} kept" in said and f"{len(now - then)} gained and {len(then - now)} lost" in said
    page.locator("#vs").select_option("other")
    other = set(of_size(xr.load_dataset(finished / "measure" / "circuit" / "ioi2" / "step-000008.nc"), n).edges)
    expect(page.locator("#circuit .finding")).to_contain_text("ioi2's circuit at step 8")
    assert edges(page)["kept"] == other & now


def test_a_circuit_says_how_faithful_exactly_it_is(opened, finished):
    page = opened.page
    page.locator("#hero-controls select").nth(0).select_option("0.85")
    group = page.locator("#hero-controls select").nth(1).input_value()
    data = xr.load_dataset(finished / "measure" / "circuit" / "ioi3" / "step-000008.nc").sel(group=group)
    count = sum(map(len, (edges(page)["kept"], edges(page)["gained"])))
    index = data["kept"].values.tolist().index(count)
    value, low, high = (float(data[k].values[index]) for k in ("faithfulness", "low", "high"))
    assert value >= 0.85
    expect(page.locator("#circuit .finding")).to_contain_text(f"keep {value:.2f} [{low:.2f}, {high:.2f}] of the effect")


def test_a_circuit_that_was_not_measured_says_why(opened, finished):
    circuits = json.loads((finished / "summary.json").read_text())["circuits"]["ioi3"]
    opened.step(0)
    reasons = []
    for group, own in circuits.items():
        opened.page.locator("#hero-controls select").nth(1).select_option(group)
        shown, why = opened.page.locator("#circuit .finding").inner_text(), own["not_measured"][0]
        reasons.append(why)
        if why:
            opened.page.wait_for_timeout(50)
            assert why.split(" over ")[0] in opened.page.locator("#circuit .finding").inner_text(), shown
    # In the base the first giver of three moves nothing.
    assert any(reasons) and not all(reasons)
    assert opened.errors == []


def test_a_view_is_in_the_address_and_the_back_button_works(opened, finished, browser):
    page = opened.page
    page.locator("#task").select_option("old")
    page.locator("#vs").select_option("previous")
    opened.step(1)
    page.wait_for_timeout(400)
    state = page.url.partition("#")[2]
    assert "task=old" in state and "vs=previous" in state and "step=4" in state
    again = Watched(browser, finished / "report" / "index.html", f"#{state}")
    assert again.page.locator("#now").inner_text() == "4" and again.page.locator("#task").input_value() == "old"
    assert edges(again.page) == edges(page)
    again.page.close()
    page.go_back()
    expect(page.locator("#vs")).to_have_value("base")
    wrong = Watched(browser, finished / "report" / "index.html", "#step=banana&task=%00&vs=77&head=<b>&n=-3&%E0%A4%A=1")
    assert wrong.errors == [] and wrong.page.locator("#now").inner_text() == "8"
    wrong.page.close()


def test_it_is_used_by_keys_alone(opened):
    page = opened.page
    opened.to_the_end()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#now").inner_text() == "4"
    assert page.locator("#step").get_attribute("aria-valuetext").startswith("step 4, ioi3 ")
    page.keyboard.press("o")
    assert page.locator("#task").input_value() == "old"
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("Escape")
    stops = "a[href],button,input,select,textarea,summary,[tabindex]"
    count = "all => all.filter(e => e.tabIndex >= 0 && !e.disabled && e.getClientRects().length).length"
    assert page.locator(stops).evaluate_all(count) <= 40
    # Every node of the circuit is reached by arrows.
    page.locator("#circuit").scroll_into_view_if_needed()
    page.wait_for_timeout(200)
    page.locator("#circuit [data-node][tabindex='0']").focus()
    seen = set()
    for key in ["ArrowUp"] * 6 + (["ArrowRight"] * 9 + ["ArrowDown"] + ["ArrowLeft"] * 9 + ["ArrowDown"]) * 3:
        page.keyboard.press(key)
        seen.add(page.evaluate("document.activeElement.dataset.node"))
    assert len({name for name in seen if name and ".h" in name}) >= 24
    page.keyboard.press("p")
    assert "pins=" in page.url or page.evaluate("new Promise((f) => setTimeout(() => f(location.hash), 300))")


def test_a_link_leads_to_its_place_though_nothing_above_it_was_drawn(finished, browser):
    watched = Watched(browser, finished / "report" / "index.html", "#at=repeat")
    watched.page.wait_for_timeout(300)
    assert 0 <= watched.page.locator("#repeat").bounding_box()["y"] < 800
    watched.page.evaluate("scrollTo(0, 0)")
    watched.page.keyboard.press("3")
    watched.page.wait_for_timeout(1500)
    assert 0 <= watched.page.locator("#section-heads").bounding_box()["y"] < 200
    watched.page.close()


def test_it_plays(opened):
    opened.page.locator("#play").click()
    expect(opened.page.locator("#now")).to_have_text("0")
    expect(opened.page.locator("#now")).to_have_text("8")
    expect(opened.page.locator("#play")).to_have_text("▶")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_accessible(finished, browser, scheme):
    watched = Watched(browser, finished / "report" / "index.html", color_scheme=scheme)
    watched.to_the_end()
    found = Axe().run(watched.page)
    assert found.violations_count == 0, found.generate_report()
    watched.page.close()


def test_prompts_are_searched_filtered_and_chosen(opened, finished):
    page = opened.page
    rows = [json.loads(line) for line in (finished / "data" / "ioi3.giver1.jsonl").read_text().splitlines()]
    page.locator("#prompts-table").scroll_into_view_if_needed()
    name = rows[0]["answer"]
    page.locator("#prompts-table input[type=search]").fill(name)
    holding = [row for row in rows if name in row["clean"] + row["answer"]]
    expect(page.locator("#prompts-table .finding")).to_contain_text(f"{len(holding)} prompts of {len(rows)}")
    page.locator("#prompts-table select").first.select_option("wrong")
    data = xr.load_dataset(finished / "measure" / "evaluate" / "ioi3" / "step-000008.nc")
    wrong = [row for row, right in zip(rows, data["accuracy"].values, strict=True) if not right and row in holding]
    expect(page.locator("#prompts-table .finding")).to_contain_text(f"{len(wrong)} prompt")
    page.locator("#prompts-table input[type=search]").fill("")
    page.locator("#prompts-table select").first.select_option("all")
    third = page.locator("#prompts-table tbody tr").nth(2)
    text = third.locator("td").nth(1).inner_text()
    third.click()
    assert text.strip() in page.locator("#sentence").inner_text()


def test_a_panel_is_taken_along(opened, tmp_path):
    page = opened.page
    taken = {}
    for item in ("SVG, 3.3 inches", "CSV"):
        page.locator("#accuracy .more").click()
        with page.expect_download() as download:
            page.locator(".menu [role=menuitem]").get_by_text(item, exact=True).click()
        taken[item] = tmp_path / download.value.suggested_filename
        download.value.save_as(taken[item])
    drawing = ET.parse(taken["SVG, 3.3 inches"]).getroot()
    svg = "{http://www.w3.org/2000/svg}"
    assert drawing.get("width") == "3.3in" and "var(" not in taken["SVG, 3.3 inches"].read_text()
    words = {"".join(node.itertext()) for node in drawing.iter(f"{svg}text")}
    assert "fine-tuning step" in words and drawing.find(f"{svg}desc") is not None
    lines = taken["CSV"].read_text().splitlines()
    assert (
        lines[0]
        == "step,ioi3 accuracy,ioi3 accuracy low,ioi3 accuracy high,ioi2 accuracy,ioi2 accuracy low,ioi2 accuracy high"
    )
    assert len(lines) == 4 and float(lines[3].split(",")[0]) == 8


@pytest.mark.parametrize("size", [(390, 844), (800, 600)])
def test_nothing_is_wider_than_the_screen(finished, browser, size):
    watched = Watched(
        browser, finished / "report" / "index.html", viewport=dict(zip(("width", "height"), size, strict=True))
    )
    watched.to_the_end()
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert watched.errors == []
    watched.page.close()


def test_it_prints_on_few_pages(finished, browser, tmp_path):
    watched = Watched(browser, finished / "report" / "index.html")
    watched.to_the_end()
    printed = watched.page.pdf(format="A4")
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) <= 10
    watched.page.close()


@pytest.mark.parametrize("stages", [["evaluate", "patching", "circuit"], ["evaluate", "circuit"], ["evaluate"]])
def test_it_shows_what_was_measured_and_nothing_else(stages, finished, browser, tmp_path):
    some = tmp_path / "run"
    shutil.copytree(finished, some, ignore=shutil.ignore_patterns("checkpoints"))
    shutil.copytree(finished / "checkpoints", some / "checkpoints", ignore=shutil.ignore_patterns("*.safetensors"))
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
    watched.to_the_end()
    for section, stage in (
        ("section-patching", "patching"),
        ("section-circuit", "circuit"),
        ("section-heads", "attention"),
    ):
        assert watched.page.locator(f"#{section}").count() == (stage in stages), section
    assert ("Circuits were not measured" in watched.page.locator("#circuit").inner_text()) is ("circuit" not in stages)
    watched.step(0)
    assert watched.errors == []
    watched.page.close()


def test_edges_are_scored_exactly_at_both_ends(finished, tmp_path):
    import numpy as np

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


def test_foreign_text_stays_text(finished, browser, tmp_path):
    """Prompts, wordings, tokens, names and what rules wrote are other people's words."""
    hostile = tmp_path / "run"
    shutil.copytree(finished, hostile, ignore=shutil.ignore_patterns("*.safetensors"))
    summary = json.loads((hostile / "summary.json").read_text())
    summary["model"] = HOSTILE
    summary["health"] = [{"kind": HOSTILE, "step": 0, "seed": 0, "text": HOSTILE}]
    summary["tasks"]["ioi3"]["baselines"][0] |= {"kind": HOSTILE, "says": HOSTILE}
    for name in ("ruled_out", "mixed", "open"):
        summary["answer"][name] = [HOSTILE]
    summary["answer"] |= {"headline": HOSTILE, "caveat": HOSTILE}
    summary["answer"]["written"]["nodes"][0]["node"] = HOSTILE
    for own in summary["answer"]["reuse"].values():
        own |= {"word": HOSTILE, "floor_is": HOSTILE}
    summary["changed"]["heads"]["ioi3"][0]["head"] = HOSTILE
    summary["diff"]["cells"][0]["a"] = HOSTILE
    summary["dynamics"]["events"] = [
        {"event": HOSTILE, "step": 4, "low": 1, "high": 8, "text": HOSTILE, "before_next": None, "agreement": None,
         "change": {"value": 1, "low": 0, "high": 2}}
    ]  # fmt: skip
    summary["controls"] = {HOSTILE: {"is": HOSTILE}}
    (hostile / "summary.json").write_text(json.dumps(summary))
    pairs = hostile / "data" / "ioi3.giver1.jsonl"
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    rows[0] |= {"clean": FORMULA + HOSTILE, "answer": HOSTILE, "wording": HOSTILE}
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for file in (hostile / "measure" / "attention" / "ioi3").iterdir():
        data = xr.load_dataset(file, engine="h5netcdf")
        tokens = json.loads(data.attrs["tokens"])[0].split("\n")
        data.attrs["tokens"] = json.dumps(["\n".join([HOSTILE, *tokens[1:]])])
        data.to_netcdf(file, engine="h5netcdf")
    report(hostile)
    watched = Watched(browser, hostile / "report" / "index.html")
    watched.to_the_end()
    page = watched.page
    for index in (0, 1, 2):
        watched.step(index)
    assert page.evaluate("window.hacked") is None and page.locator("img").count() == 0
    for place in ("#headline", "#facts", "#chips", "#sentence", "#tokens", "#events", "#overlap"):
        assert HOSTILE[:20] in page.locator(place).first.inner_text(), place
    page.locator("#prompts-table .more").click()
    with page.expect_download() as download:
        page.locator(".menu [role=menuitem]").get_by_text("CSV", exact=True).click()
    download.value.save_as(tmp_path / "prompts.csv")
    assert not re.search(r"(^|,)\"?=", (tmp_path / "prompts.csv").read_text())
    assert watched.errors == []
    page.close()


def test_a_run_without_causal_tests_says_so(finished, browser, tmp_path):
    some = tmp_path / "run"
    shutil.copytree(finished, some, ignore=shutil.ignore_patterns("*.safetensors"))
    summary = json.loads((some / "summary.json").read_text())
    summary |= {"causal": None, "answer": None, "diff": None, "controls": {}}
    summary["dynamics"]["key"] = None
    (some / "summary.json").write_text(json.dumps(summary))
    for stage in ("causal", "roles"):
        shutil.rmtree(some / "measure" / stage)
    report(some)
    watched = Watched(browser, some / "report" / "index.html")
    watched.to_the_end()
    assert "no checkpoint was tested" in watched.page.locator("#headline").inner_text()
    assert watched.page.locator("#grafts, #overlap, #parts, #roles, #section-written").count() == 0
    watched.step(0)
    assert watched.errors == []
    watched.page.close()


def test_several_runs_stand_side_by_side(finished, browser, tmp_path):
    first, other = tmp_path / "one", tmp_path / "two"
    for run in (first, other):
        shutil.copytree(finished, run, ignore=shutil.ignore_patterns("*.safetensors"))
    summary = json.loads((other / "summary.json").read_text())
    summary["answer"] |= {"kind": "extended", "headline": HOSTILE}
    (other / "summary.json").write_text(json.dumps(summary))
    for file in (other / "measure" / "evaluate" / "ioi3").glob("*.nc"):
        data = xr.load_dataset(file, engine="h5netcdf")
        data["choosing"] = data["choosing"] + 0.25
        data.to_netcdf(file, engine="h5netcdf")
    said = instar("report", first, other).stdout
    assert str(first / "report" / "beside.html") in said.replace("\n", "")
    watched = Watched(browser, first / "report" / "beside.html")
    watched.to_the_end()
    page = watched.page
    assert (
        page.locator("#headline").inner_text().startswith("2 runs: one ")
        and "two extended" in page.locator("h1").inner_text()
    )
    assert HOSTILE[:20] in page.locator("#answers").inner_text() and page.locator("img").count() == 0
    page.locator("#differences .more").click()
    page.locator(".menu [role=menuitem]").get_by_text("Table", exact=True).click()
    row = page.locator("#differences tbody tr").filter(has_text="ioi3").locator("td")
    row.first.wait_for()
    row = row.all_inner_texts()
    assert row[1] == "0.00 [0.00, 0.00]" and row[3] == "0.25 [0.25, 0.25]"
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert watched.errors == [] and watched.asked() == []
    page.close()
    assert "is named twice" in instar("report", first, first, ok=False).stderr.replace("\n", " ")
    summary["new"] = "ioi4"
    summary["tasks"]["ioi4"] = summary["tasks"]["ioi3"]
    (other / "summary.json").write_text(json.dumps(summary))
    assert "goes from ioi2 to ioi4" in instar("report", first, other, ok=False).stderr.replace("\n", " ")


def test_a_panel_stands_in_a_page_of_its_own(finished, browser, opened):
    names = ("circuit", "behaviour", "ledger")
    instar("report", finished, *(own for name in names for own in ("--panel", name)), "--format", "html", "--step", 4)
    for name in names:
        file = finished / "report" / "figures" / f"{name}-both.html"
        assert file.stat().st_size <= 300_000
        alone = Watched(browser, file, viewport={"width": 700, "height": 500})
        alone.to_the_end()
        assert alone.page.locator("#now").inner_text() == "4"
        assert alone.page.locator(".panel svg").count() >= 1 and alone.errors == [] and alone.asked() == []
        if name == "circuit":
            opened.step(1)
            assert edges(alone.page) == edges(opened.page) and edges(alone.page)["kept"]
        alone.page.close()


def test_a_watched_page_comes_anew_in_the_same_view(finished, browser, tmp_path):
    file = tmp_path / "index.html"
    with Served(file) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page()
        page.goto(server.address)
        expect(page.locator("#told")).to_contain_text("Nothing is measured yet")
        shutil.copy(finished / "report" / "index.html", file)
        frame = page.frame_locator("#page")
        frame.locator("body[data-ready=yes]").wait_for()
        frame.locator("#vs").select_option("previous")
        new = file.with_suffix(".new")
        new.write_text(file.read_text().replace("<footer>", "<footer>made anew ", 1))
        new.replace(file)
        expect(frame.locator("footer")).to_contain_text("made anew")
        frame.locator("body[data-ready=yes]").wait_for()
        assert frame.locator("#vs").input_value() == "previous"
        server.shutdown()
        server.server_close()
        expect(page.locator("#told")).to_contain_text("has ended", timeout=15_000)
        page.close()
