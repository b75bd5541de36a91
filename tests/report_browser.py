"""The report in a real browser: for its tests, and for the pictures in docs/ (`python tests/report_browser.py`)."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import sys
import tempfile
import typing as t
from collections.abc import Iterator
from pathlib import Path

import report_fleet
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from ansible_collections.llmfleet.serving.plugins.filter.fleet_report import fleet_report
from testbed.engine import ensure_chromium

# Every text that is shown, with its colour and the first ground behind it that is not transparent.
_TEXTS = """
const seen = new Map();
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const text = walker.currentNode.nodeValue.trim(), element = walker.currentNode.parentElement;
  if (!text || !element.checkVisibility({contentVisibilityAuto: true, visibilityProperty: true})) continue;
  const style = getComputedStyle(element);
  const colour = element instanceof SVGElement ? style.fill : style.color;
  let ground = 'rgb(255, 255, 255)';
  for (let above = element; above; above = above.parentElement) {
    const own = getComputedStyle(above).backgroundColor;
    if (own !== 'rgba(0, 0, 0, 0)') { ground = own; break; }
  }
  seen.set(colour + ground, [colour, ground, text.slice(0, 60)]);
}
return [...seen.values()];
"""


class Browser:
    """One window of a headless browser."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def show(self, path: Path, width: int, height: int = 900) -> None:
        """Load a file in a window of that size, and forget what was logged before."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        for log in ("browser", "performance"):
            self.driver.get_log(log)
        self.driver.get(path.as_uri())

    def run(self, script: str, *arguments: t.Any) -> t.Any:
        return self.driver.execute_script(script, *arguments)

    def complaints(self) -> list[str]:
        """What the console says."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """The addresses that were asked for since `show`."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [one["params"]["request"]["url"] for one in events if one["method"] == "Network.requestWillBeSent"]

    def texts(self) -> list[tuple[str, str, str]]:
        return [tuple(one) for one in self.run(_TEXTS)]

    def visible(self) -> str:
        """What can be read."""
        return str(self.run("return document.body.innerText"))

    def choose(self, language: str) -> None:
        self.driver.find_element("css selector", f'label[for="{language}"]').click()

    def unfold(self) -> None:
        self.run("document.querySelectorAll('details').forEach(one => { one.open = true; })")

    def overflow(self) -> int:
        """Pixels by which the page is wider than its window."""
        return int(self.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth"))

    def pdf(self) -> bytes:
        options = {"preferCSSPageSize": True, "printBackground": True}
        return base64.b64decode(self.driver.execute_cdp_cmd("Page.printToPDF", options)["data"])

    def picture(self, height: int) -> bytes:
        """The uppermost part of the page as PNG."""
        clip = {"x": 0, "y": 0, "width": self.run("return innerWidth"), "height": height, "scale": 1}
        options = {"format": "png", "clip": clip, "captureBeyondViewport": True}
        return base64.b64decode(self.driver.execute_cdp_cmd("Page.captureScreenshot", options)["data"])


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A browser, installed if it is missing, which ends with the block."""
    chromium, driver = ensure_chromium()
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.add_argument("--headless=new")
    options.add_argument("--disable-dev-shm-usage")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    window = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield Browser(window)
    finally:
        window.quit()


def main() -> None:
    docs = Path(__file__).parents[1] / "docs"
    with browser() as window, tempfile.TemporaryDirectory() as folder:
        for size, height in ((2, 2150), (64, 1500)):
            page = Path(folder) / "report.html"
            page.write_text(fleet_report(report_fleet.fleet(size), **report_fleet.OPTIONS)["html"], encoding="utf-8")
            window.show(page, 1280)
            (docs / f"report-{size}.png").write_bytes(window.picture(height))


if __name__ == "__main__":
    sys.exit(main())
