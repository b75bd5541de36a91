#!/usr/bin/python
# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: apt_keyring
short_description: Keep the key of a package repository, known by its full fingerprint
version_added: 0.2.0
description:
  - Installs the public key that signs a package repository as C(/etc/apt/keyrings/NAME.gpg), where the C(Signed-By)
    of its source can name it.
  - Nothing is installed unless the file holds the key with the expected fingerprint, and no second one beside it.
  - A key that is there already is not fetched again.
  - No gpg is needed on the host.
author:
  - llmfleet.serving maintainers (@llmfleet)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
    details: A key that is not there yet is fetched all the same, and refused if it is another one.
  diff_mode:
    support: full
  platform:
    platforms: posix
requirements:
  - requests, where O(url) is used
notes:
  - The proxy and the CA certificates of the environment are used (E(HTTPS_PROXY), E(NO_PROXY), E(REQUESTS_CA_BUNDLE)).
options:
  name:
    description:
      - Name of the keyring, which is the file's name without its suffix.
    type: str
    required: true
  state:
    description:
      - Whether the key is to be there.
    type: str
    choices: [present, absent]
    default: present
  url:
    description:
      - Address of the key, armored or not.
    type: str
  content:
    description:
      - The armored key itself, for instance from P(ansible.builtin.file#lookup) on the controller.
    type: str
  fingerprint:
    description:
      - Fingerprint of the key, with all its 40 hexadecimal digits. Blanks do not matter.
      - Needed unless O(state=absent).
    type: str
  timeout:
    description:
      - Longest silence of the server, in seconds.
    type: int
    default: 60
"""

EXAMPLES = r"""
---
- name: Trust what NVIDIA signs for Debian 12
  llmfleet.serving.apt_keyring:
    name: nvidia-cuda
    url: https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64/3bf863cc.pub
    fingerprint: EB69 3B30 35CD 5710 E231 E123 A4B4 6996 3BF8 63CC
"""

RETURN = r"""
path:
  description: The keyring.
  returned: success
  type: str
  sample: /etc/apt/keyrings/nvidia-cuda.gpg
fingerprint:
  description: Fingerprint of the key in it, or V(null) when it is absent.
  returned: success
  type: str
  sample: EB693B3035CD5710E231E123A4B469963BF863CC
"""

import re
import time
import typing as t
from pathlib import Path
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._files import commit, os_errors, require_plain
from ansible_collections.llmfleet.serving.plugins.module_utils._http import Retries, open_body
from ansible_collections.llmfleet.serving.plugins.module_utils._keyring import full_fingerprint, only_key

_KEYRINGS = Path("/etc/apt/keyrings")
# Keys have a few kilobytes. What is larger is something else, and is not read to its end.
_MOST_BYTES = 1 << 20
_TRIES = 4


def run(module: AnsibleModule) -> dict[str, t.Any]:
    params = module.params
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", params["name"]):
        raise LlmError(f"The name {params['name']!r} is refused: expected letters, digits, '.', '_' and '-'.")
    path = _KEYRINGS / f"{params['name']}.gpg"
    require_plain(path)
    present = params["state"] == "present"
    fingerprint = full_fingerprint(params["fingerprint"]) if present else None
    before = path.read_bytes() if path.exists() else None
    wanted = _wanted(params, fingerprint, before) if fingerprint else None

    changed = before != wanted
    if changed and not module.check_mode:
        _bring(path, wanted)
    # Readable for the account that apt's own downloads and checks run under, whatever the umask is.
    if present:
        changed = module.set_mode_if_different(str(path), "0644", changed)
    held = None if before is None else fingerprint if before == wanted else "another key"
    return {
        "changed": changed,
        "diff": {"before": {"key": held}, "after": {"key": fingerprint}},
        "path": str(path),
        "fingerprint": fingerprint,
    }


def _wanted(params: dict[str, t.Any], fingerprint: str, before: bytes | None) -> bytes:
    """The keyring's bytes: those that are there, if they are the key and its address is all that is known of it."""
    if params["content"] is not None:
        return only_key(params["content"].encode(), fingerprint, "The content")
    try:
        return only_key(before or b"", fingerprint, "The keyring")
    except LlmError:
        retries = Retries(time.monotonic() + params["timeout"], tries=_TRIES)
        # What is shown of the address cannot hold a password.
        file = f"The key {urlsplit(params['url']).path.rpartition('/')[2]}"
        return only_key(retries.run(lambda: _fetched(params["url"], file, params["timeout"])), fingerprint, file)


def _fetched(url: str, file: str, timeout: float) -> bytes:
    data = b""
    with open_body(url, timeout=timeout) as body:
        for chunk in body.chunks():
            data += chunk
            if len(data) > _MOST_BYTES:
                raise LlmError(f"{file} is none: it has more than {_MOST_BYTES} bytes. Check the address.")
    return data


def _bring(path: Path, wanted: bytes | None) -> None:
    if wanted is None:
        path.unlink()
        return
    path.parent.mkdir(mode=0o755, exist_ok=True)
    stage = path.with_name(f"{path.name}.new")
    stage.write_bytes(wanted)
    commit(stage, path)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "url": {"type": "str"},
            "content": {"type": "str"},
            "fingerprint": {"type": "str"},
            "timeout": {"type": "int", "default": 60},
        },
        mutually_exclusive=[("url", "content")],
        required_if=[("state", "present", ("fingerprint",)), ("state", "present", ("url", "content"), True)],
        supports_check_mode=True,
    )
    try:
        with os_errors("Keeping the keyring"):
            module.exit_json(**run(module))
    except LlmError as exc:
        module.fail_json(msg=str(exc))


if __name__ == "__main__":
    main()
