"""The report's page in a real browser: with 2 and 64 hosts, in both languages, on a desk, in a hand and on paper."""

from __future__ import annotations

import re

import pytest
import report_browser
import report_fleet

from ansible_collections.llmfleet.serving.plugins.filter.fleet_report import fleet_report
from ansible_collections.llmfleet.serving.plugins.module_utils._report_chart import contrast

pytestmark = pytest.mark.bed

SIZES = [2, 64]
DESK, HAND = 1280, 390


@pytest.fixture(scope="module")
def window():
    with report_browser.browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """page(2): the file with the report of so many hosts, which has something of everything."""
    folder = tmp_path_factory.mktemp("report")
    for size in SIZES:
        (folder / "before.json").write_text(fleet_report(report_fleet.fleet(size - 1), **report_fleet.OPTIONS)["json"])
        found = report_fleet.fleet(size)
        found["gpu01"] = report_fleet.refused(found["gpu01"])
        found["gpu02"]["answers"]["services"][0]["answer"] = "<script>document.title = 'changed'</script>" + "x" * 300
        options = {**report_fleet.OPTIONS, "previous": str(folder / "before.json")}
        (folder / f"{size}.html").write_text(fleet_report(found, **options)["html"], encoding="utf-8")
    return lambda size: folder / f"{size}.html"


def rgb(colour: str) -> str:
    """`rgb(1, 2, 3)` as `#010203`."""
    return "#" + "".join(f"{int(channel):02x}" for channel in re.findall(r"\d+", colour)[:3])


@pytest.mark.parametrize("size", SIZES)
def test_it_loads_without_a_complaint_and_asks_nobody(window, page, size):
    window.show(page(size), DESK)
    window.unfold()
    assert [address for address in window.requests() if not address.startswith(("file:", "data:"))] == []
    assert window.complaints() == []
    assert window.driver.title == "Fleet report"
    assert window.run("return document.querySelectorAll('details.host').length") == size
    assert window.run("return document.scripts.length") == 0


def test_the_browser_would_refuse_a_request_and_the_test_would_see_it(window, page, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text(page(2).read_text().replace("<main>", '<main><img src="http://127.0.0.1:9/x.png">'))
    window.show(bad, DESK)
    assert window.complaints()


@pytest.mark.parametrize("size", SIZES)
def test_the_language_is_switched_in_the_page(window, page, size):
    window.show(page(size), DESK)
    assert "The fleet is not as it should be." in window.visible()
    assert not re.search("[一-鿿]", window.visible().replace("中文", ""))
    window.choose("zh")
    shown = window.visible()
    assert "机群状态不符合要求。" in shown
    assert "The fleet is not as it should be." not in shown
    assert "路并发" in window.run("return document.querySelector('svg').textContent")
    window.choose("en")
    assert "The fleet is not as it should be." in window.visible()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_all_text_has_contrast(window, page, size, language):
    window.show(page(size), DESK)
    window.choose(language)
    window.unfold()
    texts = window.texts()
    assert len(texts) > 10
    faint = [(text, colour, ground) for colour, ground, text in texts if contrast(rgb(colour), rgb(ground)) < 4.5]
    assert faint == []


@pytest.mark.parametrize("width", [DESK, HAND])
@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_wider_than_the_window(window, page, size, width):
    window.show(page(size), width)
    window.unfold()
    for language in ("en", "zh"):
        window.choose(language)
        assert window.overflow() <= 0


def test_a_silent_host_is_a_red_row_with_words(window, page):
    window.show(page(64), DESK)
    row = "document.querySelector('tr.silent')"
    assert "no answer" in window.run(f"return {row}.innerText")
    assert "No route to host" in window.run(f"return {row}.innerText")
    red, green, blue = (
        int(channel)
        for channel in re.findall(
            r"\d+", window.run(f"return getComputedStyle({row}.querySelector('.chip')).backgroundColor")
        )[:3]
    )
    assert red > 2 * max(green, blue)


@pytest.mark.parametrize("size", SIZES)
def test_it_is_printed_whole_on_a4(window, page, size):
    window.show(page(size), DESK)
    pdf = window.pdf()
    assert pdf.startswith(b"%PDF-")
    pages = len(re.findall(rb"/Type\s*/Page\b", pdf))
    boxes = {tuple(round(float(edge)) for edge in box.split()) for box in re.findall(rb"/MediaBox \[([^\]]+)\]", pdf)}
    assert boxes == {(0, 0, 595, 842)} or boxes == {(0, 0, 594, 842)}
    # What is folded on the screen takes its room on paper.
    assert pages > size
