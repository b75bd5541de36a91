# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The options that say where a model's files come from. Private to this collection."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
requirements:
  - requests
notes:
  - The proxy and the CA certificates of the environment are used (E(HTTPS_PROXY), E(NO_PROXY), E(REQUESTS_CA_BUNDLE)).
  - While the module works, one line now and then tells how far it is. With C(async) and in check mode there is none.
options:
  hub:
    description:
      - Where the model is published. V(huggingface), V(modelscope), the address of a server with the API of Hugging
        Face, or the absolute path of a directory on the host in which O(repo) is a subdirectory.
      - V(url) is any web server with such a directory at O(endpoint). It cannot list files, so it needs O(manifest) or
        one of the O(sources) that can.
      - The files of a directory are taken as they are, because it lists no checksums.
    type: str
    default: huggingface
  endpoint:
    description:
      - Address of a mirror that answers like the O(hub). This is how a mirror of ModelScope is named.
    type: str
  sources:
    description:
      - Further places to get the same files from. All are tried at the start, and the fastest serves; one that fails,
        stalls or sends wrong data is given up, and another goes on from there.
    type: list
    elements: dict
    default: []
    suboptions:
      hub:
        description:
          - As O(hub).
        type: str
        required: true
      endpoint:
        description:
          - As O(endpoint).
        type: str
      repo:
        description:
          - As O(repo), which is the default.
        type: str
      revision:
        description:
          - The commit there, 40 hexadecimal digits. By default that of O(revision).
        type: str
      token_file:
        description:
          - As O(token_file).
        type: path
  manifest:
    description:
      - File on the host that lists the files, as M(llmfleet.serving.model_manifest) makes it. Then no hub is asked for
        a list, and every source must have exactly these files.
    type: path
  repo:
    description:
      - The repository, as V(OWNER/NAME).
    type: str
    required: true
  revision:
    description:
      - The commit, 40 hexadecimal digits.
      - A branch or a tag is refused unless O(allow_floating_revision), because it may name other files tomorrow.
      - For a directory it is only a label. Name another one after the directory has changed.
    type: str
    required: true
  allow_floating_revision:
    description:
      - Accept a branch or a tag as O(revision). Then the hub is asked at each run for which commit it stands.
    type: bool
    default: false
  token:
    description:
      - Token for the hub, for gated repositories. It is sent to no other host. Prefer O(token_file).
    type: str
  token_file:
    description:
      - File on the host that holds the token and nothing else.
    type: path
  workers:
    description:
      - How many connections there are at most. Fewer are used as long as more do not bring more.
    type: int
    default: 16
  peers:
    description:
      - Addresses of hosts that fetch the same model before this one, nearest first, and serve the directory with its
        files. What they have is taken from them, and what they are about to have is waited for. See O(patience).
    type: list
    elements: str
    default: []
  followers:
    description:
      - Addresses of hosts that fetch it after this one. What they have already is taken from them.
    type: list
    elements: str
    default: []
  peer_token_file:
    description:
      - File on the host that holds the token for O(peers) and O(followers) and nothing else.
    type: path
  patience:
    description:
      - Seconds without progress of the O(peers) after which a hub is asked in their place.
    type: int
    default: 60
  timeout:
    description:
      - Seconds in which a connection has to bring 256 KiB. One that does not is given up and made again.
      - Where others of the same source bring data meanwhile, that is done after 5 seconds already, or after 20 times
        what 256 KiB take there.
    type: int
    default: 60
  deadline:
    description:
      - Seconds after which the download fails. What has been fetched is kept for the next run.
    type: int
    default: 86400
"""
