# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules that decide whether a bare host, and the description of its fleet, can do the job. Private to this collection.

`RULES` is the whole policy, one row for each rule. All rules are evaluated at once, and nothing is changed.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.llmfleet.serving.plugins.module_utils import _host_checks as check
from ansible_collections.llmfleet.serving.plugins.module_utils._host import HostFacts
from ansible_collections.llmfleet.serving.plugins.module_utils._host_checks import Applies, Check, Wanted


class Finding(t.TypedDict):
    """One thing that is wrong: the rule's `id`, and the `object` that breaks it."""

    id: str
    severity: str
    object: str
    expected: str
    found: str
    advice: str


@dataclass(frozen=True)
class Rule:
    """A row of the policy. `check` gives everything that breaks the rule, on hosts to which the rule `applies`.

    `severity` is "fail" or "warn", `advice` is what to do about it, `source` is where the threshold comes from.
    """

    id: str
    severity: str
    check: Check
    advice: str
    source: str
    applies: Applies = lambda _facts, _wanted: True


# A container has its kernel and its clock from the system that it runs on.
def _own_clock(facts: HostFacts, _wanted: Wanted) -> bool:
    return not facts.container


def _module(facts: HostFacts, wanted: Wanted) -> bool:
    return wanted.kernel_module and not facts.container


def _gpus(_facts: HostFacts, wanted: Wanted) -> bool:
    return wanted.gpu_profile is not None


_OPTION = "an option"
_PROFILE = "the profile"
_ROLES = "what the roles are made for and tested on"
_TABLE = "the table of sizes in the original procedure"
_DESCRIPTION = "the fleet's description"
_DKMS = "how kernel modules are built"
_PLAN = "Ask `playbooks/plan.yml`, which reads the model's headers and computes it."

RULES: tuple[Rule, ...] = (
    Rule(
        "operating-system",
        "fail",
        check.on_host(check.operating_system),
        "Install one of these.",
        _ROLES,
    ),
    Rule(
        "architecture",
        "fail",
        check.on_host(check.architecture),
        "Use another host: the engines are installed as x86_64 releases.",
        _ROLES,
    ),
    Rule(
        "service-manager",
        "fail",
        check.on_host(check.service_manager),
        "Boot the host with systemd: services are its units.",
        _ROLES,
    ),
    Rule(
        "python",
        "fail",
        check.on_host(check.python),
        "Set ansible_python_interpreter to a newer one.",
        _ROLES,
    ),
    Rule(
        "memory",
        "fail",
        check.on_host(check.memory),
        "Lower preflight_memory_min where the models are small.",
        _OPTION,
    ),
    Rule(
        "disk",
        "fail",
        check.disk,
        "Free space there, or change preflight_disk.",
        _OPTION,
    ),
    Rule(
        "clock",
        "warn",
        check.on_host(check.clock),
        "Run a time service such as systemd-timesyncd or chrony: certificates and signed addresses depend on the time.",
        "systemd's own judgement",
        _own_clock,
    ),
    Rule(
        "kernel-version",
        "warn",
        check.on_host(check.kernel_version),
        "Boot a newer kernel.",
        "the original procedure",
        _module,
    ),
    Rule(
        "kernel-default",
        "fail",
        check.on_host(check.kernel_default),
        "Reboot into it first, or set GRUB_DEFAULT: the module is built for the kernel that runs.",
        _DKMS,
        _module,
    ),
    Rule(
        "kernel-headers",
        "fail",
        check.on_host(check.kernel_headers),
        "Run `apt update`; where the archive has none for this kernel any more, install its current kernel and reboot.",
        _DKMS,
        _module,
    ),
    Rule(
        "compiler",
        "fail",
        check.on_host(check.compiler),
        "Install that version of gcc beside the other, or boot a kernel that was built with the one that is there.",
        _DKMS,
        _module,
    ),
    Rule(
        "secure-boot",
        "fail",
        check.on_host(check.secure_boot),
        "Have the module signed and enroll the key with `mokutil --import`, then set preflight_secure_boot_signed; "
        "or switch Secure Boot off in the firmware.",
        "the kernel loads no unsigned module then",
        _module,
    ),
    Rule(
        "gpu-count",
        "fail",
        check.on_host(check.gpu_count),
        "Compare with `lspci -d 10de:`: what is not there needs power, a seat or a repair, and no driver finds it.",
        _OPTION,
        _gpus,
    ),
    Rule(
        "gpu-model",
        "fail",
        check.gpu_model,
        "Choose the profile of the GPUs that this host has.",
        _PROFILE,
        _gpus,
    ),
    Rule(
        "nvswitch",
        "warn",
        check.on_host(check.nvswitches),
        "In a virtual machine the NVSwitches may be outside; else have the board looked at.",
        "NVIDIA's HGX boards",
        _gpus,
    ),
    Rule(
        "model-name",
        "fail",
        check.model_names,
        "Rename one in llmfleet_models.",
        _DESCRIPTION,
    ),
    Rule(
        "model-source",
        "fail",
        check.model_sources,
        "Add them to llmfleet_models.",
        _DESCRIPTION,
    ),
    Rule(
        "model-manifest",
        "fail",
        check.model_manifests,
        "Make it anew with the module model_manifest.",
        _DESCRIPTION,
    ),
    Rule(
        "model-disk",
        "fail",
        check.model_disk,
        "Free space there, or name fewer models.",
        "the sizes of the models' files",
    ),
    Rule(
        "model-gpu-memory",
        "warn",
        check.model_gpu_memory,
        f"What has no room stays on the CPUs, or the engine refuses. {_PLAN}",
        "the sizes of the models' files",
    ),
    Rule(
        "size-cores",
        "warn",
        check.size_cores,
        _PLAN,
        _TABLE,
    ),
    Rule(
        "size-memory",
        "warn",
        check.size_memory,
        _PLAN,
        _TABLE,
    ),
    Rule(
        "size-gpu-memory",
        "warn",
        check.size_gpu_memory,
        _PLAN,
        _TABLE,
    ),
    Rule(
        "size-disk",
        "warn",
        check.size_disk,
        _PLAN,
        _TABLE,
    ),
    Rule(
        "service-name",
        "fail",
        check.service_names,
        "Rename one in llmfleet_services.",
        _DESCRIPTION,
    ),
    Rule(
        "service-model",
        "fail",
        check.service_models,
        "Add it to llmfleet_models.",
        _DESCRIPTION,
    ),
    Rule(
        "service-format",
        "fail",
        check.service_formats,
        "Choose another engine, or the model in the other format.",
        _DESCRIPTION,
    ),
    Rule(
        "service-port",
        "fail",
        check.service_ports,
        "Change it in llmfleet_services.",
        _DESCRIPTION,
    ),
    Rule(
        "service-gpus",
        "fail",
        check.service_gpus,
        "Change them in llmfleet_services.",
        _DESCRIPTION,
    ),
    Rule(
        "service-overlap",
        "fail",
        check.service_overlaps,
        "Give each service GPUs of its own in llmfleet_services; one that names none has all.",
        _DESCRIPTION,
    ),
)


def evaluate(facts: HostFacts, wanted: Wanted) -> list[Finding]:
    """All rules on a host's facts."""
    return [
        {
            "id": rule.id,
            "severity": rule.severity,
            "object": about,
            "expected": expected,
            "found": found,
            "advice": rule.advice,
        }
        for rule in RULES
        if rule.applies(facts, wanted)
        for about, expected, found in rule.check(facts, wanted)
    ]


def describe(finding: Finding) -> str:
    """A finding for people, on one line."""
    text = "{id} ({object}): expected {expected}, found {found}. {advice}".format(**finding)
    return " ".join(text.split())
