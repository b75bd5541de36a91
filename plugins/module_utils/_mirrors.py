# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a fleet's packages, releases and models come from: one description, resolved. Private to this collection."""

from __future__ import annotations

import difflib
import typing as t
import urllib.parse

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError

_GITHUB = "https://github.com/"
# What GitHub sends, by key: a prefix in front of GitHub's own address counts for these.
_RELEASES = {
    "ollama": f"{_GITHUB}ollama/ollama/releases/download",
    "uv": f"{_GITHUB}astral-sh/uv/releases/download",
    "uv_python": f"{_GITHUB}astral-sh/python-build-standalone/releases/download",
    "llama_cpp": f"{_GITHUB}ggml-org/llama.cpp/archive/refs/tags",
}
# Addresses by key. An empty one leaves a program's own setting alone.
_PRESETS: dict[str, dict[str, str]] = {
    "global": {
        "apt": "",
        "apt_proxy": "",
        "huggingface": "https://huggingface.co",
        "modelscope": "https://www.modelscope.cn",
        "nvidia": "https://developer.download.nvidia.com/compute/cuda/repos",
        "python": "",
    },
    "cn": {
        # Alibaba Cloud has the archives of Debian and Ubuntu and the package index under one name.
        "apt": "https://mirrors.aliyun.com",
        "python": "https://mirrors.aliyun.com/pypi/simple",
        # NVIDIA's own name for its servers in China; the other one redirects there.
        "nvidia": "https://developer.download.nvidia.cn/compute/cuda/repos",
        # npmmirror, of Alibaba too, keeps old builds. University mirrors have only the newest, which uv may not know.
        "uv_python": "https://registry.npmmirror.com/-/binary/python-build-standalone",
        # Run by volunteers. Models that ModelScope has as well are better named there.
        "huggingface": "https://hf-mirror.com",
    },
}
_URLS = {*_PRESETS["global"], *_RELEASES, "github", "http_proxy"}
_KEYS = sorted({*_URLS, "preset", "ca_bundle", "no_proxy"})
# The modules ask services of their own host; those answers are not to come from a proxy.
_NEVER_BY_PROXY = ["localhost", "127.0.0.1", "::1"]
# Debian's and Ubuntu's bundle of all trusted authorities, which update-ca-certificates writes.
_SYSTEM_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


def resolve(mirrors: t.Any) -> dict[str, t.Any]:
    """What each part of the collection is to use, from what the fleet's owner has set.

    :param mirrors: the value of ``llmfleet_mirrors``: ``preset`` (V(global) or V(cn)) and addresses that count more.
    :return: every key, resolved: addresses without a slash at the end (empty where a program's own setting is to stay),
        ``ca_bundle`` (a path on the controller, or empty), ``no_proxy`` (comma separated), ``hubs`` (addresses of model
        hubs by name) and ``environment`` (variables for commands on hosts; empty without a proxy and authorities).
    :raises LlmError: with everything that is wrong: keys, kinds of values, addresses. It repeats no password.
    """
    if not isinstance(mirrors, dict):
        raise LlmError(f"llmfleet_mirrors: expected a dictionary, found {type(mirrors).__name__}.")
    wrong = _wrong(mirrors)
    if wrong:
        raise LlmError("llmfleet_mirrors: " + " ".join(wrong))
    given = {key: value for key, value in mirrors.items() if value}
    urls = {**_defaults(given), **{key: given[key] for key in _URLS if key in given}}
    resolved: dict[str, t.Any] = {key: url.strip().rstrip("/") for key, url in urls.items()}
    resolved["apt_proxy"] = resolved["apt_proxy"] or resolved["http_proxy"]
    resolved["ca_bundle"] = given.get("ca_bundle", "")
    resolved["no_proxy"] = ",".join(_unique([*_NEVER_BY_PROXY, *_names(given.get("no_proxy", []))]))
    resolved["hubs"] = {hub: resolved[hub] for hub in ("huggingface", "modelscope")}
    resolved["environment"] = _environment(resolved)
    return resolved


def _defaults(given: dict[str, t.Any]) -> dict[str, str]:
    """The addresses of the preset, with the prefix in front of GitHub's."""
    prefix = given.get("github", "").strip()
    if prefix:
        prefix = prefix.rstrip("/") + "/"
    releases = {key: prefix + url for key, url in _RELEASES.items()}
    base = {**_PRESETS["global"], **releases, "github": "", "http_proxy": ""}
    if not prefix:
        base["uv_python"] = ""  # uv knows that address itself
    return {**base, **_PRESETS[given.get("preset", "global")]}


def _environment(resolved: dict[str, t.Any]) -> dict[str, str]:
    environment: dict[str, str] = {}
    if resolved["http_proxy"]:
        values = dict.fromkeys(("http_proxy", "https_proxy"), resolved["http_proxy"])
        values["no_proxy"] = resolved["no_proxy"]
        # Programs differ in the spelling that they look for.
        environment = {**values, **{name.upper(): value for name, value in values.items()}}
    if resolved["ca_bundle"]:
        # pip and uv bring authorities of their own; these make them, and whatever uses requests, trust the host's.
        environment.update(dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT"), _SYSTEM_BUNDLE))
    return environment


def _wrong(mirrors: dict[t.Any, t.Any]) -> list[str]:
    """One sentence for each thing that is wrong."""
    said = []
    for key, value in mirrors.items():
        if key not in _KEYS:
            said.append(_unknown("key", key, _KEYS))
        elif value:
            said += _wrong_value(key, value)
    return said


def _wrong_value(key: str, value: t.Any) -> list[str]:
    if key == "no_proxy":
        right = isinstance(value, (str, list)) and all(isinstance(name, str) for name in value)
        return [] if right else [f"no_proxy: expected a list of host names, found {type(value).__name__}."]
    if not isinstance(value, str):
        return [f"{key}: expected text, found {type(value).__name__}."]
    if key == "preset" and value not in _PRESETS:
        return [_unknown("preset", value, sorted(_PRESETS))]
    if key in _URLS and not _is_base_url(value):
        return [f"{key}: expected an address with http:// or https:// in front and no query, found {_shown(value)}."]
    return []


def _unknown(what: str, found: t.Any, known: list[str]) -> str:
    near = difflib.get_close_matches(str(found), known, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"There is no {what} '{found}'.{hint} Known: {', '.join(known)}."


def _is_base_url(text: str) -> bool:
    if len(text.split()) != 1:
        return False
    try:
        parts = urllib.parse.urlsplit(text.strip())
        return parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.query or parts.fragment)
    except ValueError:  # brackets that hold no IPv6 address
        return False


def _shown(url: str) -> str:
    """An address as a message may show it: without a user's name and password, and without a query."""
    scheme, separator, rest = url.partition("://")
    place = (rest if separator else scheme).split("?")[0].rpartition("@")[2]
    return repr(f"{scheme}://{place}" if separator else place)


def _names(value: str | list[str]) -> list[str]:
    names = value.split(",") if isinstance(value, str) else value
    return [name.strip() for name in names if name.strip()]


def _unique(names: list[str]) -> list[str]:
    return list(dict.fromkeys(names))
