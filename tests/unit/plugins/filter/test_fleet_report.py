# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What was found becomes a page, JSON and JUnit, in which nobody can hide a script or find a secret."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest
import report_fleet
from ansible.errors import AnsibleFilterError

from ansible_collections.llmfleet.serving.plugins.filter.fleet_report import FilterModule, fleet_report
from ansible_collections.llmfleet.serving.plugins.plugin_utils._report_page import WORDS

EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}{% raw %}"
ADDRESSES = {"src", "href", "action", "data", "srcset", "poster"}


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def report(found, **options):
    return fleet_report(found, **{**report_fleet.OPTIONS, **options})


def test_it_is_a_filter():
    assert FilterModule().filters() == {"fleet_report": fleet_report}


@pytest.mark.parametrize("size", [1, 2, 64])
def test_every_host_is_in_all_three(size):
    out = report(report_fleet.fleet(size))
    page = Page(out["html"])
    for name in report_fleet.fleet(size):
        assert name in page.text
        assert f'name="{name}"' in out["junit"]
    assert [host["name"] for host in json.loads(out["json"])["hosts"]] == list(report_fleet.fleet(size))
    assert len(out["reasons"]) == {1: 0, 2: 0, 64: 4}[size]


def test_a_model_tells_how_long_it_took_where_that_is_known():
    found = report_fleet.fleet(2)
    (one,), (other,) = (host["records"]["models"] for host in found.values())
    one["seconds"], other["seconds"] = 338.4, None
    out = report(found)
    assert [host["models"][0]["seconds"] for host in json.loads(out["json"])["hosts"]] == [338.4, None]
    assert Page(out["html"]).text.count("338 s") == 1


def hostile(value):
    """The same, each text of it with an attack at its end; what is no free text stays."""
    if isinstance(value, dict):
        return {
            key: one if key in ("rule", "severity", "outcome", "verdict", "name", "written", "since") else hostile(one)
            for key, one in value.items()
        }
    if isinstance(value, list):
        return [hostile(one) for one in value]
    return value + EVIL if isinstance(value, str) else value


def test_nothing_that_a_host_says_is_markup():
    found = hostile(report_fleet.refused(report_fleet.host("gpu01")))
    found["records"]["models"][0]["name"] += EVIL
    found["answers"]["services"][0].update(name="deepseek-r1", answer=f"The sky <b>is</b> blue. {EVIL}")
    out = report(
        {
            f"gpu01{EVIL}": found,
            f"gpu02{EVIL}": {"unreachable": True, "msg": EVIL},
            f"gpu03{EVIL}": {"failed": True, "msg": EVIL},
        },
        title=f"Fleet {EVIL}",
        stack=EVIL,
    )
    page = Page(out["html"])
    assert not page.tags & {"script", "img", "iframe", "object", "embed", "form", "base", "b" + "ody onload"}
    assert not [name for name, _value in page.attributes if name.startswith("on")]
    assert all((value or "").startswith(("#", "data:,")) for name, value in page.attributes if name in ADDRESSES)
    # And it is all there to be read.
    assert page.text.count("<script>alert(1)</script>") > 50
    assert "The sky <b>is</b> blue." in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert "49{%" not in page.text


def test_the_page_forbids_scripts_and_requests():
    html = report(report_fleet.fleet(2))["html"]
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in html
    assert "url(" not in html
    assert "@import" not in html


def test_no_secret_in_any_form():
    found = report_fleet.fleet(3)
    found["gpu03"]["msg"] = f"ssh: password={report_fleet.CANARY}"
    out = report(found)
    assert report_fleet.CANARY not in json.dumps(out)
    assert "api_key=(hidden)" in Page(out["html"]).text.replace("\n", "")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_both_languages_are_in_the_page(language):
    html = report(report_fleet.fleet(2), language=language)["html"]
    assert f'<html lang="{language}">' in html
    assert f'id="{language}" checked' in html
    page = Page(html)
    assert "The fleet is as it should be." in page.text
    assert "机群状态符合要求。" in page.text


def test_no_word_is_without_use_or_translation():
    html = report({**report_fleet.fleet(12), "gpu13": {"failed": True, "msg": "no"}})["html"]
    assert all(english and chinese for english, chinese in WORDS.values())
    assert "机群状态不符合要求。" in html


def test_nothing_new_gives_the_earlier_report_back(tmp_path):
    before = report(report_fleet.fleet(12))
    (tmp_path / "report.json").write_text(before["json"])
    found = report_fleet.fleet(12)
    found["gpu01"]["answers"] = {}
    later = {"generated": "2026-12-01T00:00:00Z", "previous": str(tmp_path / "report.json")}
    again = report(found, **later)
    assert again == before
    forced = report(found, **later, again=True)
    assert forced["document"]["generated"] == "2026-12-01T00:00:00Z"
    assert forced["document"]["changes"] == {"since": "2026-11-30T02:30:00Z", "items": []}
    assert "Nothing has changed." in forced["html"]


def test_what_is_new_is_said_once_for_all_hosts(tmp_path):
    (tmp_path / "report.json").write_text(report(report_fleet.fleet(12))["json"])
    found = report_fleet.fleet(12)
    for host in found.values():
        if "gate" in host:
            host["gate"]["facts"]["driver_version"] = "580.95.05"
    out = report(found, previous=str(tmp_path / "report.json"), generated="2026-12-01T00:00:00Z")
    assert len(out["document"]["changes"]["items"]) == 11
    assert Page(out["html"]).text.count("gpu01, gpu02, gpu04, gpu05, gpu06, gpu07, … (11)") == 1


def test_no_earlier_report_is_none(tmp_path):
    assert report(report_fleet.fleet(1), previous=str(tmp_path / "none"))["document"]["changes"]["since"] is None


@pytest.mark.parametrize("content", ["nonsense", None])
def test_an_earlier_report_that_is_none_is_an_error(tmp_path, content):
    path = tmp_path / "report.json"
    if content:
        path.write_text(content)
    else:
        path.mkdir()
    with pytest.raises(AnsibleFilterError, match=r"report\.json (is no report of version 1|cannot be read)"):
        report(report_fleet.fleet(1), previous=str(path))


def test_a_host_that_has_dropped_out_is_silent():
    out = report({"gpu01": {}})
    assert out["reasons"] == ["gpu01: It did not answer: It dropped out before it was asked."]
