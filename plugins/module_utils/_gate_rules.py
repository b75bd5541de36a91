# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules that decide from a host's GPU facts whether it is fit to serve. Private to this collection.

`RULES` is the whole policy, one row for each rule. All rules are evaluated at once, and a value that a host of these
classes must tell but does not tell breaks its rule: "N/A" is never taken for 0.
"""

from __future__ import annotations

import dataclasses

from ansible_collections.llmfleet.serving.plugins.module_utils import _gate_checks as check
from ansible_collections.llmfleet.serving.plugins.module_utils import _xid
from ansible_collections.llmfleet.serving.plugins.module_utils._gate_checks import (
    PCIE_REPLAYS,
    TEMPERATURE_MAX,
    Applies,
    Check,
)


@dataclasses.dataclass(frozen=True)
class Rule:
    """A row of the policy. `check` gives everything that breaks the rule, on hosts to which the rule `applies`.

    `severity` is "fail" or "warn", `advice` is what to do about it, `source` is where the threshold comes from.
    """

    id: str
    severity: str
    check: Check
    advice: str
    source: str
    applies: Applies = lambda _facts, _expectation: True


_XID_CATALOGUE = "NVIDIA's Xid catalogue for Hopper"
_AZURE = "Azure's node health checks for the H100"
_NVIDIA_MEMORY = "NVIDIA's GPU memory error management"
_PROFILE = "the profile or the baseline"
_OPTION = "an option"

DRIVER_ANSWERS = Rule(
    "driver-answers",
    "fail",
    check.on_host(check.driver_answers),
    "Nothing else can be judged until the driver answers.",
    "a GPU that tells nothing is not fit",
)
GPU_NAME = Rule(
    "gpu-name",
    "fail",
    check.one_fact("name", "{name}", check.gpu_name),
    "Choose the profile of the GPUs that this host has, or record a baseline.",
    _PROFILE,
)

RULES: tuple[Rule, ...] = (
    DRIVER_ANSWERS,
    Rule(
        "gpu-count",
        "fail",
        check.on_host(check.gpu_count),
        "Compare with `lspci -d 10de:`; read `journalctl -k | grep -i nvrm` for those that did not come up.",
        _OPTION,
    ),
    Rule(
        "gpu-on-bus",
        "fail",
        check.on_host(check.gpu_on_bus),
        "Read `journalctl -k | grep -i nvrm` for why the driver did not take it up.",
        "the PCI bus",
        lambda facts, _expectation: facts["pci_gpus"] is not None,
    ),
    Rule(
        "gpu-answers",
        "fail",
        check.gpu_answers,
        "Read `journalctl -k | grep -i xid`, then power-cycle the host; if it comes back, have the GPU replaced.",
        "a GPU that tells nothing is not fit",
    ),
    GPU_NAME,
    Rule(
        "gpu-memory",
        "fail",
        check.one_fact("memory_total", "at least {memory_min} MiB", check.gpu_memory, show="{} MiB".format),
        "Choose the profile of this variant, or have the GPU looked at.",
        _PROFILE,
    ),
    Rule(
        "driver-version",
        "fail",
        check.on_host(check.driver_version),
        "Install a newer driver.",
        _OPTION,
        lambda _facts, expectation: expectation.driver_version_min is not None,
    ),
    Rule(
        "cuda-version",
        "fail",
        check.on_host(check.cuda_version),
        "Install a driver that supports this CUDA version.",
        _OPTION,
        lambda _facts, expectation: expectation.cuda_version_min is not None,
    ),
    Rule(
        "vbios",
        "warn",
        check.on_host(check.vbios),
        "Ask the host's vendor for one firmware on all GPUs.",
        "the other GPUs, or the baseline",
    ),
    Rule(
        "inforom",
        "fail",
        check.equals("inforom_valid", True, "an InfoROM with valid checksums", "a damaged one", optional=True),
        "Have the GPU replaced.",
        "NVML's own check",
        check.any_tells("inforom_valid"),
    ),
    Rule(
        "ecc-mode",
        "fail",
        check.equals("ecc_mode", True, "ECC on", "off"),
        "Run `nvidia-smi -e 1`, then reboot.",
        "the default of NVIDIA's data centre GPUs",
    ),
    Rule(
        "ecc-pending",
        "fail",
        check.equals("ecc_mode_pending", True, "ECC on after the next reset", "off"),
        "Run `nvidia-smi -e 1`.",
        "the default of NVIDIA's data centre GPUs",
    ),
    Rule(
        "ecc-volatile",
        "fail",
        check.ecc_fact(
            "ecc_uncorrected_volatile", "no uncorrectable memory error since the driver was loaded", check.ecc_volatile
        ),
        "Reset the GPU or reboot, then test its memory; errors that come back are a reason to have it replaced.",
        _NVIDIA_MEMORY,
    ),
    Rule(
        "ecc-aggregate",
        "warn",
        check.ecc_fact(
            "ecc_uncorrected_aggregate",
            "no uncorrectable memory error before the driver was loaded",
            check.ecc_aggregate,
            # Those since the driver was loaded are another rule's.
            lambda _count: "0",
        ),
        "Watch this GPU: it has had errors before, and more of them are a reason to have it replaced.",
        _NVIDIA_MEMORY,
    ),
    Rule(
        "ecc-corrected",
        "warn",
        check.on_each_gpu(check.ecc_corrected),
        "Watch this GPU: errors that are corrected so often announce some that are not.",
        _AZURE,
        check.any_tells("ecc_sram_corrected_volatile", "ecc_dram_corrected_volatile"),
    ),
    Rule(
        "ecc-sram-threshold",
        "fail",
        check.ecc_fact(
            "ecc_sram_threshold_exceeded",
            "fewer SRAM errors than NVIDIA's threshold",
            check.ecc_threshold,
            lambda _exceeded: "fewer",
        ),
        "Have the GPU replaced.",
        "the GPU's own flag",
    ),
    Rule(
        "row-remap-pending",
        "fail",
        check.equals("remapped_rows_pending", False, "no row remapping that waits for a reset", "one waits"),
        "Stop what uses the GPU, then reset it with `nvidia-smi -r -i INDEX`, or reboot.",
        _NVIDIA_MEMORY,
    ),
    Rule(
        "row-remap-failure",
        "fail",
        check.equals("remapped_rows_failure", False, "no failed row remapping", "one has failed"),
        "Have the GPU replaced: a memory bank has no spare row left.",
        _NVIDIA_MEMORY,
    ),
    Rule(
        "row-remap-spare",
        "warn",
        check.one_fact(
            "remapped_rows_histogram",
            "spare rows in every memory bank",
            check.spare_rows,
            optional=True,
            show=lambda banks: f"{banks['none']} without",
        ),
        "Watch this GPU: the next fault in such a bank cannot be remapped.",
        _NVIDIA_MEMORY,
        check.any_tells("remapped_rows_histogram"),
    ),
    Rule(
        "memory-repair",
        "fail",
        check.equals("repair_pending", False, "no memory repair that waits for a reset", "one waits", optional=True),
        "Stop what uses the GPU, then reset it with `nvidia-smi -r -i INDEX`, or reboot.",
        "the GPU's own flag",
        check.any_tells("repair_pending"),
    ),
    Rule(
        "memory-unrepairable",
        "fail",
        check.equals("unrepairable_memory", False, "no memory that cannot be repaired", "some", optional=True),
        "Have the GPU replaced.",
        "the GPU's own flag",
        check.any_tells("unrepairable_memory"),
    ),
    Rule(
        "recovery-action",
        "fail",
        check.equals("recovery_action", "None", "a GPU that needs no recovery", "{}", optional=True),
        "Do what the driver asks for: drain the GPU, reset it, or reboot the host.",
        "the driver's own advice",
        check.any_tells("recovery_action"),
    ),
    Rule(
        "mig-mode",
        "fail",
        check.equals("mig_mode", False, "MIG off", "on"),
        "Run `nvidia-smi -mig 0`, then reset the GPU or reboot.",
        "engines use whole GPUs",
    ),
    Rule(
        "mig-pending",
        "fail",
        check.equals("mig_mode_pending", False, "MIG off after the next reset", "on"),
        "Run `nvidia-smi -mig 0`.",
        "engines use whole GPUs",
    ),
    Rule(
        "compute-mode",
        "warn",
        check.equals("compute_mode", "Default", "compute mode Default", "{}"),
        "Run `nvidia-smi -c DEFAULT`: an engine that starts several processes needs it.",
        "the driver's default",
    ),
    Rule(
        "persistence-mode",
        "warn",
        check.equals("persistence_mode", True, "persistence mode on", "off"),
        "Enable the service nvidia-persistenced: without it each first use of a GPU waits for its start.",
        "NVIDIA's driver persistence guide",
    ),
    Rule(
        "throttling",
        "fail",
        check.one_fact("clocks_event_reasons", "clocks not slowed down", check.throttling, show=check.several),
        "Look at cooling and power supply: `nvidia-smi -q -d TEMPERATURE,POWER,PERFORMANCE`.",
        # Thermal and power-brake slowdowns; a power cap is what load causes.
        "the mask 0xE8 of clock event reasons, as Azure's health agent has it",
    ),
    Rule(
        "temperature",
        "fail",
        check.one_fact(
            "temperature",
            f"less than {TEMPERATURE_MAX} C and than its own limit",
            check.temperature,
            show="{} C".format,
        ),
        "Look at the fans and the air around the host.",
        "the GPU's own slowdown limit, and 90 C of Azure's health agent",
    ),
    Rule(
        "temperature-warm",
        "warn",
        check.on_each_gpu(check.warm),
        "Look at the fans and the air around the host.",
        "83 C of Azure's health agent",
    ),
    Rule(
        "power-limit",
        "warn",
        check.one_fact(
            "power_limit", "the default power limit", check.power_limit, optional=True, show="{:g} W".format
        ),
        "Run `nvidia-smi -pl WATTS`, unless the limit is wanted.",
        "the GPU's default",
        check.any_tells("power_limit"),
    ),
    Rule(
        "pcie-width",
        "fail",
        check.one_fact("pcie_width", "{pcie_width} PCIe lanes", check.pcie_width),
        "Reseat the GPU or its board; read `lspci -vv` for the link's capabilities.",
        _PROFILE,
    ),
    Rule(
        "pcie-gen",
        "warn",
        check.one_fact("pcie_gen_max", "PCIe generation {pcie_gen} of GPU and slot together", check.pcie_gen),
        "Look for a limit in the host's firmware, or at the riser.",
        _PROFILE,
    ),
    Rule(
        "pcie-replays",
        "warn",
        check.one_fact("pcie_replays", f"at most {PCIE_REPLAYS} PCIe replays", check.pcie_replays, optional=True),
        "Look at the PCIe link: signals are bad.",
        "Azure's health agent, which allows as many in one minute",
        check.any_tells("pcie_replays"),
    ),
    Rule(
        "nvlink-count",
        "fail",
        check.on_each_gpu(check.nvlink_count),
        "Look at `nvidia-smi nvlink -s` and the fabric manager's log; reset the GPUs or reboot.",
        _PROFILE,
        check.linked,
    ),
    Rule(
        "nvlink-speed",
        "warn",
        check.on_each_gpu(check.nvlink_speed),
        "Compare with `nvidia-smi nvlink -s` of a good host.",
        _PROFILE,
        check.linked,
    ),
    Rule(
        "nvlink-errors",
        "warn",
        check.on_each_gpu(check.nvlink_errors),
        "Look at `nvidia-smi nvlink -e` again after some work: errors that grow are a link that is going to fail.",
        "Meta's GPU cluster monitoring, which wants none",
        check.linked,
    ),
    Rule(
        "topology",
        "fail",
        check.topology,
        "Look at `nvidia-smi topo -m` and the fabric manager's log.",
        "NVSwitch joins all GPUs of a board, or the baseline",
        check.linked,
    ),
    Rule(
        "fabric",
        "fail",
        check.on_each_gpu(check.fabric),
        "Check that the service nvidia-fabricmanager runs in the driver's version; after boot it needs a minute.",
        "NVIDIA's fabric manager guide",
        check.has_fabric,
    ),
    Rule(
        "fabric-health",
        "fail",
        check.one_fact(
            "fabric_health", "a fabric without trouble", check.fabric_health, optional=True, show=check.several
        ),
        "Read the fabric manager's log, and look at the NVSwitches.",
        "the driver's own judgement",
        check.any_tells("fabric_health"),
    ),
    Rule(
        "fabric-manager",
        "fail",
        check.on_host(check.fabric_manager),
        "Install the fabric manager in the driver's exact version, then run `systemctl restart nvidia-fabricmanager`.",
        "NVIDIA's fabric manager guide",
        # In a virtual machine it runs outside, and the fabric's state alone tells.
        lambda facts, expectation: facts["fabric_manager"] is not None and check.has_fabric(facts, expectation),
    ),
    Rule(
        "kernel-log",
        "warn",
        check.on_host(check.kernel_log),
        "Run as root, or as a member of the group systemd-journal: Xids cannot be judged otherwise.",
        "what is not read is not known",
    ),
    Rule(
        "xid",
        "fail",
        check.xids(_xid.remedy, "no error that asks for a reset, a reboot or a repair"),
        "Do what it asks for (see NVIDIA's Xid catalogue); what was repaired without a reboot lies before xid_since.",
        _XID_CATALOGUE,
        check.read_log,
    ),
    Rule(
        "xid-unknown",
        "warn",
        check.xids(_xid.is_unknown, "no Xid that NVIDIA's catalogue does not have"),
        "Look it up in a newer catalogue, or ask NVIDIA.",
        _XID_CATALOGUE,
        check.read_log,
    ),
    Rule(
        "processes",
        "fail",
        check.one_fact(
            "processes", "no process but those of the allowed units", check.process, show=check.process_names
        ),
        "Stop these processes, or name their systemd unit among the allowed ones.",
        _OPTION,
    ),
    Rule(
        "idle",
        "fail",
        check.on_each_gpu(check.idle),
        "Find out what uses the GPU: `nvidia-smi`, or `fuser -v /dev/nvidia*`.",
        _OPTION,
    ),
)
