# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How Sphinx makes the site of the pages that build.py has put together."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))
import pages

known = pages.known_files()
files = {pages.docname(name): name for name in known if name.endswith(".md")}

project = "llmfleet.serving"
author = "llmfleet.serving contributors"
project_copyright = f"2026, {author}"
extensions = ["myst_parser", "sphinx_antsibull_ext"]
# As code forges name a heading's anchor.
myst_heading_anchors = 6
highlight_language = "yaml"
default_role = "any"

html_title = "llmfleet.serving"
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
# The tables and buttons of antsibull-docs, in the theme's colours: it has those of the day and those of the night.
COLOURS = {
    "links-background": "var(--color-brand-primary)",
    "links-background-active": "var(--color-brand-content)",
    "links-focus-outline": "var(--color-foreground-primary)",
    "links-text": "var(--color-background-primary)",
    "narrowtable-background": "var(--color-background-secondary)",
    "option-sample-header": "var(--color-foreground-primary)",
    "table-background-even": "var(--color-background-secondary)",
    "table-background-header": "var(--color-table-header-background)",
    "table-background-odd": "var(--color-background-primary)",
    "table-border": "var(--color-table-border)",
}
NIGHT = {
    "attribute-support-full": "#00cc00",
    "attribute-support-none": "#ff8282",
    "attribute-support-partial": "#b6b600",
    "option-aliases": "#71d471",
    "option-default": "#adadff",
    "option-elements": "#ff93ff",
    "option-required": "#ff8282",
    "option-sample": "#adadff",
    "option-type": "#ff93ff",
    "option-version-added": "#71d471",
}
html_theme_options = {
    "light_css_variables": {f"antsibull-{name}": value for name, value in COLOURS.items()},
    "dark_css_variables": {f"antsibull-{name}": value for name, value in (COLOURS | NIGHT).items()},
    "source_repository": pages.FORGE.partition("/blob/")[0],
    "source_branch": "main",
    "source_directory": "docs/",
    "top_of_page_buttons": [],
}

# `./dev site linkcheck` asks others. That the repository has a file is known from the tree.
linkcheck_timeout = 20
linkcheck_retries = 2
linkcheck_anchors = False
linkcheck_ignore = [rf"{pages.FORGE.partition('/blob/')[0]}.*"]

# What the reference says of Ansible itself, in place of an inventory that would have to be fetched.
ANSIBLE = "https://docs.ansible.com/projects/ansible/latest"
ANSIBLE_PAGES = {
    "action_plugins": "plugins/action.html",
    "ansible_configuration_settings": "reference_appendices/config.html",
    "common_return_values": "reference_appendices/common_return_values.html",
}


def resolve(app: Sphinx, doctree: nodes.document) -> None:
    """Let links to files of the tree lead to the pages that these have become, or else to the forge."""
    page = files.get(app.env.docname)
    for link in list(doctree.findall(addnodes.pending_xref)) if page else []:
        if link["reftype"] != "myst" or link["refdomain"] or link["reftarget"].startswith("#"):
            continue
        leads = pages.target(page, link["reftarget"], known)
        if leads is None:
            continue  # MyST says that there is no such target
        if "://" in leads:
            link.replace_self(nodes.reference("", "", *link.children, refuri=leads))
        else:
            name, _mark, anchor = leads.partition("#")
            link.attributes |= {"refdomain": "doc", "reftarget": name, "reftargetid": anchor or None}


def plain(_app: Sphinx, doctree: nodes.document) -> None:
    """Take the list of a page's headings out of what antsibull-docs writes: the theme has it at the page's side."""
    for contents in [topic for topic in doctree.findall(nodes.topic) if "contents" in topic["classes"]]:
        contents.parent.remove(contents)
    for title in doctree.findall(nodes.title):
        title.attributes.pop("refid", None)


def ansible(_app: Sphinx, _env: object, link: addnodes.pending_xref, shown: nodes.Element) -> nodes.reference | None:
    """Lead to Ansible's own documentation."""
    label = link["reftarget"]
    page = ANSIBLE_PAGES.get(label)
    if plugin := re.fullmatch(r"ansible_collections\.(\w+)\.(\w+)\.(\w+)", label):
        page = "collections/{}/{}/{}.html".format(*plugin.groups()) if plugin[1] != "llmfleet" else None
    return nodes.reference("", "", shown, refuri=f"{ANSIBLE}/{page}") if page else None


def setup(app: Sphinx) -> None:
    app.connect("doctree-read", resolve)
    app.connect("doctree-read", plain)
    app.connect("missing-reference", ansible)
