# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The options of all modules that read facts of GPUs. Private to this collection."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  source:
    description:
      - Where the facts come from. V(auto) is V(nvml) where C(pynvml) is installed, else V(nvidia-smi).
    type: str
    choices: [auto, nvml, nvidia-smi]
    default: auto
  timeout:
    description:
      - Seconds after which a driver that has not answered is given up, and what asked it is killed.
    type: int
    default: 60
requirements:
  - Either C(pynvml) (package C(python3-pynvml) or C(nvidia-ml-py)) or C(nvidia-smi), and the NVIDIA driver.
"""
