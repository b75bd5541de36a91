# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Links between Markdown files work on a code forge, and the site has every page in its place."""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "docs" / "docsite"))
import build
import pages

KNOWN = pages.known_files()
MARKDOWN = [name for name in KNOWN if name.endswith(".md") and name != "CHANGELOG.md"]


def tokens(text: str, kind: str):
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        yield from (child for child in token.children or [] if child.type == kind)


def anchors(text: str) -> set[str]:
    """What a forge calls the headings of a file."""
    parsed = MarkdownIt("commonmark").enable("table").parse(text)
    found: list[str] = []
    for token, inline in itertools.pairwise(parsed):
        if token.type == "heading_open":
            shown = "".join(child.content for child in inline.children or [])
            slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
            found.append(slug if slug not in found else f"{slug}-{found.count(slug)}")
    return set(found)


def dead(page: str, text: str) -> list[str]:
    """The links of a file that lead nowhere on a forge."""
    found = []
    links = [token.attrs["href"] for token in tokens(text, "link_open")]
    links += [token.attrs["src"] for token in tokens(text, "image")]
    for link in links:
        path, _mark, anchor = unquote(str(link)).partition("#")
        if "://" in path or path.startswith("mailto:"):
            continue
        target = (Path(page).parent / path) if path else Path(page)
        there = (ROOT / target).resolve().relative_to(ROOT)
        exists = str(there) in KNOWN or any(name.startswith(f"{there}/") for name in KNOWN)
        if not exists or (anchor and anchor not in anchors(text if not path else (ROOT / there).read_text())):
            found.append(link)
    return found


@pytest.mark.parametrize("page", MARKDOWN)
def test_links_lead_somewhere_on_a_forge(page):
    assert dead(page, (ROOT / page).read_text()) == []


@pytest.mark.parametrize("link", ["absent.md", "../roles/absent", "gate.md#absent", "#absent", "../.venv"])
def test_dead_links_are_found(link):
    assert dead("docs/edge.md", f"# Here\n\n[x]({link}) and [y](gate.md#the-rules) and [z](#here)\n") == [link]


@pytest.mark.parametrize(
    ("page", "link", "leads"),
    [
        ("docs/edge.md", "gate.md#the-rules", "gate#the-rules"),
        ("docs/handbook/README.md", "../upgrade.md", "upgrade"),
        ("docs/upgrade.md", "handbook/README.md", "handbook/index"),
        ("docs/edge.md", "../roles/edge", "roles/edge"),
        ("docs/edge.md", "../roles/_service", f"{pages.FORGE.replace('/blob/', '/tree/')}roles/_service"),
        ("docs/README.md", "../plugins/modules", "reference/index"),
        ("docs/acceptance.md", "../plugins/modules/llm_probe.py", "reference/llm_probe_module"),
        ("roles/edge/README.md", "../../docs/edge.md", "edge"),
        ("docs/awx.md", "../playbooks/vars/awx.yml", f"{pages.FORGE}playbooks/vars/awx.yml"),
        ("docs/README.md", "../README.md#use-it", f"{pages.FORGE}README.md#use-it"),
        ("docs/edge.md", "../roles/absent", None),
    ],
)
def test_a_link_leads_to_a_page_of_the_site_or_to_the_forge(page, link, leads):
    assert pages.target(page, link, KNOWN) == leads


def test_the_forge_is_the_repository_of_galaxy_yml():
    assert pages.FORGE == "https://github.com/llmfleet/serving/blob/main/"


def test_a_page_that_the_contents_do_not_name_comes_last_and_is_not_lost():
    texts = {
        "index": "# Fleet\n\n## Reference\n\n- [The gate](gate.md): its rules\n",
        "gate": "# Gate\n",
        "new": "# New\n",
    }
    build.navigation(texts, {"index": "docs/README.md"}, ["docs/README.md", "docs/gate.md", "docs/new.md"])
    assert ":caption: Reference\n\nThe gate </gate>\n" in texts["index"]
    assert ":caption: More\n\n/new\n" in texts["index"]


def test_a_folder_without_a_readme_gets_a_page_with_all_of_its_own():
    texts = {"index": "# Fleet\n", "runbooks/GpuLost": "# Lost\n", "runbooks/Hot": "# Hot\n"}
    build.navigation(texts, {"index": "docs/README.md"}, ["docs/README.md"])
    assert "/runbooks/GpuLost\n/runbooks/Hot\n" in texts["runbooks/index"]
    assert "- [](/runbooks/Hot.md)" in texts["runbooks/index"]
    assert "/runbooks/index\n" in texts["index"]


def test_a_folder_with_a_readme_has_its_pages_in_the_order_of_that():
    texts = {
        "index": "# Fleet\n",
        "handbook/index": "# Book\n\n[b](b.md)\n",
        "handbook/a": "# A\n",
        "handbook/b": "# B\n",
    }
    files = {"index": "docs/README.md", "handbook/index": "docs/handbook/README.md"}
    build.navigation(texts, files, ["docs/handbook/README.md", "docs/handbook/a.md", "docs/handbook/b.md"])
    assert "/handbook/b\n/handbook/a\n" in texts["handbook/index"]


def test_dead_links_of_the_site_are_found(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "index.html").write_text(
        '<h1 id="top"></h1><a href="sub/page.html#there"></a><a href="sub/page.html#gone"></a><a href="#top"></a>'
        '<a href="#gone"></a><a href="absent.html"></a><img src="absent.png"><a href="https://example.com/x#y"></a>'
    )
    (tmp_path / "sub" / "page.html").write_text('<span id="there"></span><a href="../index.html">back</a>')
    assert build.broken(tmp_path) == [
        "index.html: #gone",
        "index.html: absent.html",
        "index.html: absent.png",
        "index.html: sub/page.html#gone",
    ]
