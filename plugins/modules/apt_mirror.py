#!/usr/bin/python
# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: apt_mirror
short_description: Take the distribution's archive from a mirror
version_added: 0.2.0
description:
  - Lets apt's sources name a mirror where they name an archive of Debian or Ubuntu. Releases, components, keys
    and what others offer stay as they are.
  - An archive is recognised by its path. It is C(/debian), C(/debian-security) or C(/ubuntu) directly below a host's
    name.
  - The host's own files are kept beside the changed ones, as C(NAME.llmfleet.save), and come back when no mirror is
    wanted any more.
author:
  - llmfleet.serving maintainers (@llmfleet)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: debian
options:
  url:
    description:
      - Address below which the archives C(debian), C(debian-security) and C(ubuntu) lie.
      - Empty means that the host's own sources come back.
    type: str
    default: ""
  directory:
    description: apt's configuration.
    type: path
    default: /etc/apt
"""

EXAMPLES = r"""
- name: Take the archive from a mirror
  llmfleet.serving.apt_mirror:
    url: https://mirrors.example.com

- name: Take it from where the host took it before
  llmfleet.serving.apt_mirror:
"""

RETURN = r"""
files:
  description: The files that name the mirror.
  returned: success
  type: list
  elements: str
  sample: [/etc/apt/sources.list.d/debian.sources]
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.llmfleet.serving.plugins.module_utils import _apt_sources
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError


def run(module: AnsibleModule) -> dict[str, t.Any]:
    sources = _apt_sources.sources(module.params["directory"], module.params["url"].rstrip("/"))
    changes = [source for source in sources if source.found != source.wanted]
    diff = [
        {"before_header": str(file.path), "before": file.found, "after_header": str(file.path), "after": file.wanted}
        for file in changes
    ]
    if not module.check_mode:
        for source in changes:
            _apt_sources.apply(source)
    files = [str(source.path) for source in sources if source.original != source.wanted]
    return {"changed": bool(changes), "diff": diff, "files": files}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "default": ""},
            "directory": {"type": "path", "default": "/etc/apt"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except LlmError as exc:
        module.fail_json(msg=str(exc))


if __name__ == "__main__":
    main()
