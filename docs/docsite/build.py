# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the site in .cache/site: `./dev site`. `./dev site linkcheck` asks the addresses elsewhere instead."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pages

SITE = pages.ROOT / ".cache" / "site"
SOURCE = SITE / "source"
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s:]+)\)")


def toctree(names: dict[str, str], caption: str = "") -> str:
    """Pages, by what they are called, as a part of the navigation."""
    head = ":hidden:\n:maxdepth: 1\n" + (f":caption: {caption}\n" if caption else "")
    lines = (f"{title} </{name}>\n" if title else f"/{name}\n" for name, title in names.items())
    return f"\n```{{toctree}}\n{head}\n" + "".join(lines) + "```\n"


def named(text: str, page: str, known: list[str]) -> dict[str, str]:
    """The pages that a text links to, in its order, with what it calls them."""
    targets = ((pages.target(page, link, known), title) for title, link in LINK.findall(text))
    return {name: title for name, title in targets if name and "#" not in name and "://" not in name}


def navigation(texts: dict[str, str], files: dict[str, str], known: list[str]) -> None:
    """Order the pages as the links of the contents have them; what none of them names comes last."""
    for folder in sorted({name.split("/")[0] for name in texts if "/" in name}):
        index = f"{folder}/index"
        inside = dict.fromkeys((name for name in texts if name.startswith(f"{folder}/") and name != index), "")
        if index in files:
            order = {name: "" for name in named(texts[index], files[index], known) if name in inside}
        else:
            order = {}
            texts[index] = f"# {folder.capitalize()}\n\n" + "".join(f"- [](/{name}.md)\n" for name in inside)
        texts[index] += toctree(order | inside)
    left = dict.fromkeys((name for name in texts if "/" not in name or name.endswith("/index")), "")
    del left["index"]
    for chapter in re.split(r"(?m)^## ", texts["index"])[1:]:
        names = named(chapter, files["index"], known)
        texts["index"] += toctree(names, chapter.splitlines()[0])
        left = {name: "" for name in left if name not in names}
    if left:
        texts["index"] += toctree(left, "More")


def gather() -> None:
    """Put the Markdown of the tree together as one folder of pages."""
    known = pages.known_files()
    files = {name: path for path in known if path.endswith(".md") and (name := pages.docname(path))}
    texts = {name: (pages.ROOT / path).read_text(encoding="utf-8") for name, path in files.items()}
    for name in [name for name in texts if name.startswith("roles/")]:
        role = name.removeprefix("roles/")
        texts[name] += f"\n[All variables, with their types and defaults](/reference/{role}_role.rst)\n"
    navigation(texts, files, known)
    shutil.rmtree(SOURCE, ignore_errors=True)
    for name, text in texts.items():
        (SOURCE / name).parent.mkdir(parents=True, exist_ok=True)
        (SOURCE / f"{name}.md").write_text(text, encoding="utf-8")
    (SOURCE / "changelog.md").unlink()
    shutil.copy(pages.ROOT / "CHANGELOG.rst", SOURCE / "changelog.rst")
    for path in known:
        if path.startswith("docs/") and not path.startswith("docs/docsite/") and not path.endswith(".md"):
            shutil.copy(pages.ROOT / path, SOURCE / path.removeprefix("docs/"))


def refer() -> None:
    """Have antsibull-docs write the reference, of a collection that lacks the internal roles."""
    collection = SITE / "collections" / "ansible_collections" / "llmfleet" / "serving"
    shutil.rmtree(SITE / "collections", ignore_errors=True)
    (collection / "roles").mkdir(parents=True)
    roles = [f"roles/{path.name}" for path in (pages.ROOT / "roles").iterdir() if not path.name.startswith("_")]
    for name in ("galaxy.yml", "meta", "plugins", "docs", "changelogs", *roles):
        (collection / name).symlink_to(pages.ROOT / name)
    target = SOURCE / "reference"
    target.mkdir(mode=0o755)
    command = ["antsibull-docs", "collection", "--use-current", "--squash-hierarchy", "--fail-on-error"]
    env = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(SITE / "collections")}
    subprocess.run([*command, "--dest-dir", str(target), "llmfleet.serving"], env=env, check=True)
    index = target / "index.rst"
    text = index.read_text().replace("Llmfleet.Serving\n======", "Modules, roles and plugins\n================")
    index.write_text(re.sub(r"(?m)^    ([a-z]\w*)_([a-z]+)$", r"    \1 \2 <\1_\2>", text))


class Page(HTMLParser):
    """The anchors of a page, and what it asks for."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors, self.links = {""}, []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        self.links += [given[name] for name in ("href", "src") if given.get(name)]


def broken(site: Path) -> list[str]:
    """Every link within the site that leads nowhere."""
    found = {path: Page(path) for path in site.rglob("*.html")}
    bad = []
    for path, page in found.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            leads = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = found[leads].anchors if leads in found else {"", unquote(parts.fragment)}
            if not leads.exists() or unquote(parts.fragment) not in anchors:
                bad.append(f"{path.relative_to(site)}: {link}")
    return sorted(set(bad))


def main(builder: str = "html") -> None:
    gather()
    refer()
    command = ["sphinx-build", "-b", builder, "-c", str(Path(__file__).parent), "-E", "-q"]
    strict = ["-W", "--keep-going", "-n", "-j", "auto"]
    shutil.rmtree(SITE / builder, ignore_errors=True)
    done = subprocess.run(
        [*command, *strict, "-d", str(SITE / "doctrees"), str(SOURCE), str(SITE / builder)], check=False
    )
    if done.returncode != 0:
        sys.exit(done.returncode)  # Sphinx has said why
    if builder == "html" and (bad := broken(SITE / builder)):
        sys.exit("These links of the site lead nowhere:\n" + "\n".join(bad))
    print(f"{SITE / builder}: {len(list((SITE / builder).rglob('*.html')))} pages")


if __name__ == "__main__":
    main(*sys.argv[1:])
