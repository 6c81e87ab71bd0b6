"""How fast a page opens and follows its step bar, in headless Chromium: `python -m benchmarks.page RUN/report/index.html …`.

The first page named is what others are measured by: an earlier release's beside this one's, of the same run. Times are by the
browser's own clock: until text is painted, until everything is there, and a step of the bar with the first screen in view.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright
from rich.console import Console
from rich.table import Table

THROTTLE = 4
STEPS = """async () => {
  const bar = document.querySelector("#step"), found = [];
  for (let round = 0; round < 2; round++) for (let i = 0; i <= +bar.max; i++) {
    const from = performance.now();
    bar.value = i;
    bar.dispatchEvent(new Event("input"));
    await new Promise((next) => requestAnimationFrame(() => setTimeout(next)));
    found.push(performance.now() - from);
  }
  return found.sort((a, b) => a - b);
}"""


def opened(page: Page, path: Path) -> dict[str, float]:
    """Milliseconds of one opening, and of its steps."""
    page.goto(path.resolve().as_uri(), timeout=180_000)
    page.wait_for_selector("body[data-ready=yes]", timeout=180_000)
    ready = page.evaluate("performance.now()")
    painted = page.evaluate("(performance.getEntriesByName('first-contentful-paint')[0] || {}).startTime")
    steps = page.evaluate(STEPS)
    return {"text": painted, "all": ready, "step": steps[len(steps) // 2], "step, 95 %": steps[int(0.95 * len(steps))]}


def measured(path: Path, rate: int) -> dict[str, float]:
    """In a fresh browser, its processor slowed down `rate` times."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": rate})
        return opened(page, path)


def main() -> None:
    """A table on the terminal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="+", type=Path)
    table, first = Table(), {}
    rows: list[tuple[str, int, dict[str, Any]]] = []
    for path in parser.parse_args().pages:
        for rate in (1, THROTTLE):
            rows.append((str(path), rate, measured(path, rate) | {"MB": path.stat().st_size / 1e6}))
    for name in ("page", "slower", *rows[0][2]):
        table.add_column(name, justify="left" if name == "page" else "right")
    for path, rate, own in rows:
        base = first.setdefault(rate, own)
        cells = [f"{v:.3g}" + ("" if own is base else f" ({v / base[k]:.2g}×)") for k, v in own.items()]
        table.add_row(path, f"{rate}×", *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
