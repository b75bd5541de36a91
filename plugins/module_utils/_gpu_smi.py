# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""GPU facts from what nvidia-smi prints, drivers 535 to 580. Private to this collection."""

from __future__ import annotations

import re
import typing as t
from xml.etree import ElementTree

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_facts import (
    ANY_STEP,
    MISSING,
    Gpu,
    NvLink,
    Process,
    RunCommand,
    bus_id,
    next_step,
    sentence,
    silent_gpu,
)

# What nvidia-smi is asked for. Only the first must answer.
QUERY = ("-q", "-x")
LINK_STATES = ("nvlink", "-s")
LINK_ERRORS = ("nvlink", "-e")
LINK_PEERS = ("nvlink", "-p")
TOPOLOGY = ("topo", "-m")
TABLE: tuple[str, ...] = ()

_NOT_AVAILABLE = {"", "N/A", "Not Supported", "Not Found", "Requested functionality has been deprecated"}
# Words of NVML that stand in the place of any value, as nvidia-smi prints them.
_ERRORS = {
    "ERR!",
    "GPU access blocked by the operating system",
    "GPU is lost",
    "GPU requires reset",
    "Insufficient Permissions",
    "Timeout",
    "Unknown Error",
}
_SWITCH = {"Enabled": True, "Yes": True, "Disabled": False, "No": False}
# What stands in each part of the fabric's health when it is no trouble.
_FABRIC_HEALTH = {
    "bandwidth": {"Full"},
    "route_recovery_in_progress": {"False", "No"},
    "route_unhealthy": {"False", "No"},
    "access_timeout_recovery": {"False", "No"},
    "incorrect_configuration": {"None"},
}
_BANKS = ("max", "high", "partial", "low", "none")


def run_smi(run: RunCommand, args: t.Sequence[str]) -> list[t.Any]:
    """Exit status, output and error output. The time limit is the caller's."""
    try:
        return list(run(["nvidia-smi", *args], environ_update={"LC_ALL": "C"}, handle_exceptions=False))
    except OSError as exc:
        raise LlmError(
            f"nvidia-smi cannot be run: {exc.strerror}. Install the driver's tools (package nvidia-smi or "
            "nvidia-utils), or the Python module pynvml (package python3-pynvml or nvidia-ml-py)."
        ) from exc


def facts_of(answers: t.Mapping[tuple[str, ...], tuple[int, str, str]]) -> dict[str, t.Any]:
    """The facts but those of `_gpu_host`, from the answers to the questions of this file.

    :raises LlmError: when the answer to `QUERY` is none; the text is what nvidia-smi said instead.
    """
    status, output, complaint = answers[QUERY]
    try:
        facts = parse_query(output)
    except LlmError as exc:
        if status == 0:
            raise LlmError(f"{exc} Its error output: {sentence(complaint)}") from exc
        said = sentence(complaint or output)
        raise LlmError(f"nvidia-smi ended with status {status}: {said} {next_step(status)}") from exc
    said_of = {question: answer[1] for question, answer in answers.items()}
    nvlinks = parse_nvlinks(said_of.get(LINK_STATES, ""), said_of.get(LINK_ERRORS, ""), said_of.get(LINK_PEERS, ""))
    topology, nodes = parse_topology(said_of.get(TOPOLOGY, ""), len(facts["gpus"]))
    for position, gpu in enumerate(facts["gpus"]):
        if gpu["error"] is None:
            gpu["nvlinks"] = nvlinks.get(gpu["uuid"])
            gpu["numa_node"] = nodes[position] if nodes else None
            gpu["inforom_valid"] = _inforom_valid(said_of.get(TABLE, ""), gpu["pci_bus_id"])
    return {**facts, "topology": topology}


def _inforom_valid(table: str, address: str | None) -> bool | None:
    """nvidia-smi checks the InfoROM before it prints its table, and warns of a damaged one below it."""
    if address is None or "Driver Version:" not in table:
        return None
    corrupted = re.findall(r"infoROM is corrupted at gpu ([0-9A-Fa-f:.]+)", table)
    return address not in {bus_id(one) for one in corrupted}


def parse_query(xml: str) -> dict[str, t.Any]:
    """What `nvidia-smi -q -x` tells. NVLinks, topology and units of processes are not in it.

    :raises LlmError: when the text is not the whole of such an output.
    """
    try:
        root = ElementTree.fromstring(xml)  # noqa: S314 - the driver's own tool wrote it
    except (ElementTree.ParseError, ValueError) as exc:
        raise LlmError(f"The output of `nvidia-smi -q -x` is not whole XML: {exc}. {ANY_STEP}") from exc
    if root.tag != "nvidia_smi_log":
        raise LlmError(f"The output of `nvidia-smi -q -x` begins with <{root.tag}>; expected <nvidia_smi_log>.")
    gpus = root.findall("gpu")
    host = _Elements(root)
    attached = host.whole("attached_gpus", "attached_gpus")
    return {
        "driver_version": host.text("driver_version", "driver_version"),
        "cuda_version": host.text("cuda_version", "cuda_version"),
        "nvml_version": None,
        "attached_gpus": attached,
        # A lost GPU can be left out without a trace: the others' positions are then no longer their indices.
        "gpus": [_gpu(position if len(gpus) == attached else None, gpu) for position, gpu in enumerate(gpus)],
    }


class _Elements:
    """Elements below another, read as facts. `unanswered` keeps why there is no value, when it is not "N/A"."""

    def __init__(self, element: ElementTree.Element) -> None:
        self._element = element
        self.unanswered: dict[str, str] = {}

    def text(self, fact: str, *paths: str) -> str | None:
        """The text below the first path that has one, for drivers name their elements in different ways."""
        found = [self._text_at(path) for path in paths]
        texts = [text.strip().strip("[]") for text in found if text is not None]
        if not texts:
            self.unanswered.setdefault(fact, MISSING)
        text = next((text for text in texts if text not in _NOT_AVAILABLE), None)
        if text in _ERRORS:
            self._no_value(fact, text)
            return None
        return text

    def _text_at(self, path: str) -> str | None:
        """The element's text. An error can stand in the place of a whole group of elements."""
        text = self._element.findtext(path)
        while text is None and "/" in path:
            path = path.rpartition("/")[0]
            text = (self._element.findtext(path) or "").strip() or None
        return text

    def number(self, fact: str, *paths: str) -> float | None:
        """A figure with or without its unit; anything else that stands there ("Unknown Error") is no figure."""
        text = self.text(fact, *paths)
        found = re.fullmatch(r"(-?[0-9]{1,15}(?:\.[0-9]{1,6})?) ?(?:MiB|MHz|C|W|%|x|bank\(s\))?", text or "")
        if found:
            return float(found[1])
        self._no_value(fact, text)
        return None

    def whole(self, fact: str, *paths: str) -> int | None:
        number = self.number(fact, *paths)
        return None if number is None else int(number)

    def switch(self, fact: str, path: str) -> bool | None:
        text = self.text(fact, path)
        if text in _SWITCH:
            return _SWITCH[text]
        self._no_value(fact, text)
        return None

    def _no_value(self, fact: str, text: str | None) -> None:
        if text is not None:
            self.unanswered[fact] = text[:100]

    def total(self, fact: str, path: str, word: str) -> int | None:
        """The sum of the counters below a path whose names have this word: drivers tell them in more or less detail."""
        counters = [element.tag for element in self._element.findall(f"{path}/*") if word in element.tag]
        counts = [self.whole(fact, f"{path}/{counter}") for counter in counters]
        if not counters:
            self.text(fact, f"{path}/{word}")
        # A sum over some of them would hide what the others have.
        known = [count for count in counts if count is not None]
        return sum(known) if counts and len(known) == len(counts) else None

    def findall(self, path: str) -> list[ElementTree.Element]:
        return self._element.findall(path)

    def has(self, path: str) -> bool:
        return self._element.find(path) is not None


def _gpu(index: int | None, element: ElementTree.Element) -> Gpu:
    gpu = _Elements(element)
    uuid = gpu.text("uuid", "uuid")
    if not (uuid or "").startswith("GPU-"):
        # A lost GPU can be listed with "GPU is lost" in the place of every value.
        said = uuid or gpu.unanswered.get("uuid", MISSING)
        return silent_gpu(index, "nvidia-smi tells no UUID" if said == MISSING else said)
    facts = {
        **_identity(gpu),
        "uuid": uuid,
        **_memory_and_temperature(gpu),
        **_power_and_clocks(gpu),
        **_modes(gpu),
        **_errors(gpu),
        **_rows(gpu),
        **_pcie(gpu),
        **_fabric(gpu),
        "processes": _processes(gpu),
        # These are not in this answer.
        **dict.fromkeys(("inforom_valid", "numa_node", "nvlinks")),
    }
    return t.cast(Gpu, {"index": index, "error": None, "unanswered": gpu.unanswered, **facts})


def _texts(gpu: _Elements, **paths: str) -> dict[str, t.Any]:
    return {fact: gpu.text(fact, path) for fact, path in paths.items()}


def _wholes(gpu: _Elements, **paths: str) -> dict[str, t.Any]:
    return {fact: gpu.whole(fact, path) for fact, path in paths.items()}


def _switches(gpu: _Elements, **paths: str) -> dict[str, t.Any]:
    return {fact: gpu.switch(fact, path) for fact, path in paths.items()}


def _identity(gpu: _Elements) -> dict[str, t.Any]:
    return {
        **_texts(
            gpu,
            name="product_name",
            serial="serial",
            part_number="board_part_number",
            vbios_version="vbios_version",
            inforom_version="inforom_version/img_version",
            performance_state="performance_state",
        ),
        "pci_bus_id": bus_id(gpu.text("pci_bus_id", "pci/pci_bus_id")),
    }


def _memory_and_temperature(gpu: _Elements) -> dict[str, t.Any]:
    return _wholes(
        gpu,
        memory_total="fb_memory_usage/total",
        memory_used="fb_memory_usage/used",
        memory_reserved="fb_memory_usage/reserved",
        utilization="utilization/gpu_util",
        temperature="temperature/gpu_temp",
        temperature_memory="temperature/memory_temp",
        temperature_slowdown="temperature/gpu_temp_slow_threshold",
        temperature_shutdown="temperature/gpu_temp_max_threshold",
        temperature_margin="temperature/gpu_temp_tlimit",
        temperature_margin_slowdown="temperature/gpu_temp_slow_tlimit_threshold",
        temperature_margin_shutdown="temperature/gpu_temp_max_tlimit_threshold",
    )


def _power_and_clocks(gpu: _Elements) -> dict[str, t.Any]:
    readings = ("gpu_power_readings", "power_readings")
    power = {
        "power_draw": ("average_power_draw", "power_draw"),
        "power_limit": ("current_power_limit", "power_limit"),
        "power_limit_default": ("default_power_limit",),
        "power_limit_min": ("min_power_limit",),
        "power_limit_max": ("max_power_limit",),
    }
    return {
        **{
            fact: gpu.number(fact, *(f"{group}/{name}" for name in names for group in readings))
            for fact, names in power.items()
        },
        **_wholes(
            gpu,
            clock_graphics="clocks/graphics_clock",
            clock_memory="clocks/mem_clock",
            clock_graphics_max="max_clocks/graphics_clock",
            clock_memory_max="max_clocks/mem_clock",
        ),
        "clocks_event_reasons": _clock_reasons(gpu),
    }


def _clock_reasons(gpu: _Elements) -> list[str] | None:
    """Drivers before 535.54 say "throttle" where later ones say "event"."""
    for word in ("event", "throttle"):
        reasons = {reason.tag: (reason.text or "").strip() for reason in gpu.findall(f"clocks_{word}_reasons/*")}
        if set(reasons.values()) & {"Active", "Not Active"}:
            active = [tag for tag, text in reasons.items() if text == "Active"]
            return sorted(tag.replace(f"clocks_{word}_reason_", "") for tag in active)
    words = ("event", "throttle")
    gpu.text("clocks_event_reasons", *(f"clocks_{word}_reasons/clocks_{word}_reason_gpu_idle" for word in words))
    return None


def _modes(gpu: _Elements) -> dict[str, t.Any]:
    return {
        **_switches(
            gpu,
            persistence_mode="persistence_mode",
            mig_mode="mig_mode/current_mig",
            mig_mode_pending="mig_mode/pending_mig",
            ecc_mode="ecc_mode/current_ecc",
            ecc_mode_pending="ecc_mode/pending_ecc",
        ),
        **_texts(gpu, compute_mode="compute_mode"),
    }


def _errors(gpu: _Elements) -> dict[str, t.Any]:
    facts: dict[str, t.Any] = {}
    for period in ("volatile", "aggregate"):
        below = f"ecc_errors/{period}"
        facts[f"ecc_uncorrected_{period}"] = gpu.total(f"ecc_uncorrected_{period}", below, "uncorrectable")
        for memory in ("sram", "dram"):
            for kind in ("corrected", "uncorrected"):
                fact = f"ecc_{memory}_{kind}_{period}"
                facts[fact] = gpu.total(fact, below, f"{memory}_{kind.replace('ed', 'able')}")
    return {
        **facts,
        **_switches(
            gpu,
            ecc_sram_threshold_exceeded="ecc_errors/aggregate/sram_threshold_exceeded",
            unrepairable_memory="ecc_errors/unrepairable_memory",
        ),
        "repair_pending": _any(
            gpu.switch("repair_pending", f"ecc_errors/{part}_repair_pending") for part in ("channel", "tpc")
        ),
        "recovery_action": _recovery_action(gpu),
    }


def _any(flags: t.Iterable[bool | None]) -> bool | None:
    told = [flag for flag in flags if flag is not None]
    return any(told) if told else None


def _recovery_action(gpu: _Elements) -> str | None:
    """Drivers before 560 say it in two flags."""
    if gpu.has("gpu_recovery_action") or not gpu.has("gpu_reset_status"):
        return gpu.text("recovery_action", "gpu_recovery_action")
    drain = gpu.switch("recovery_action", "gpu_reset_status/drain_and_reset_recommended")
    reset = gpu.switch("recovery_action", "gpu_reset_status/reset_required")
    if drain is None and reset is None:
        return None
    return "Drain and Reset" if drain else "Reset" if reset else "None"


def _rows(gpu: _Elements) -> dict[str, t.Any]:
    below = "remapped_rows/row_remapper_histogram/row_remapper_histogram"
    banks = {name: gpu.whole("remapped_rows_histogram", f"{below}_{name}") for name in _BANKS}
    return {
        **_wholes(
            gpu,
            remapped_rows_corrected="remapped_rows/remapped_row_corr",
            remapped_rows_uncorrected="remapped_rows/remapped_row_unc",
        ),
        **_switches(
            gpu,
            remapped_rows_pending="remapped_rows/remapped_row_pending",
            remapped_rows_failure="remapped_rows/remapped_row_failure",
        ),
        "remapped_rows_histogram": None if None in banks.values() else banks,
    }


def _pcie(gpu: _Elements) -> dict[str, t.Any]:
    below = "pci/pci_gpu_link_info"
    return _wholes(
        gpu,
        pcie_gen=f"{below}/pcie_gen/current_link_gen",
        pcie_gen_max=f"{below}/pcie_gen/max_link_gen",
        pcie_width=f"{below}/link_widths/current_link_width",
        pcie_width_max=f"{below}/link_widths/max_link_width",
        pcie_replays="pci/replay_counter",
    )


def _fabric(gpu: _Elements) -> dict[str, t.Any]:
    health = {name: gpu.text("fabric_health", f"fabric/health/{name}") for name in _FABRIC_HEALTH}
    told = {name: text for name, text in health.items() if text is not None}
    if gpu.has("fabric/health") and gpu.unanswered.get("fabric_health") == MISSING:
        del gpu.unanswered["fabric_health"]  # a driver has some of the parts
    return {
        **_texts(gpu, fabric_state="fabric/state", fabric_status="fabric/status"),
        "fabric_clique": gpu.whole("fabric_clique", "fabric/cliqueId"),
        "fabric_cluster": gpu.text("fabric_cluster", "fabric/clusterUuid"),
        "fabric_health": [name for name, text in told.items() if text not in _FABRIC_HEALTH[name]] if told else None,
    }


def _processes(gpu: _Elements) -> list[Process] | None:
    if not gpu.has("processes"):
        gpu.unanswered["processes"] = MISSING
        return None
    found: dict[int, Process] = {}
    for element in gpu.findall("processes/process_info"):
        process = _Elements(element)
        # The driver shows processes of other containers without their number.
        pid = process.whole("pid", "pid") or 0
        memory = process.whole("memory", "used_memory")
        found[pid] = {"pid": pid, "name": process.text("name", "process_name"), "memory": memory, "unit": None}
    return [found[pid] for pid in sorted(found)]


def parse_nvlinks(states: str, errors: str = "", peers: str = "") -> dict[str, list[NvLink]]:
    """The NVLinks of each GPU, by its UUID, in the output of `nvidia-smi nvlink -s`, `-e` and `-p`."""
    speeds = _by_link(states, r"(?:([0-9]{1,6})(?:\.([0-9]{3}))? GB/s|<inactive>)")
    addresses = _by_link(peers, r"([0-9A-Fa-f]{4,8}(?::[0-9A-Fa-f]{2}){2}\.[0-9])")
    counters = {kind: _by_link(errors, rf"{kind} Errors: ([0-9]{{1,18}})") for kind in ("Replay", "Recovery", "CRC")}

    def link(uuid: str, number: int) -> NvLink:
        gigabytes, thousandths = speeds[uuid][number]
        speed = int(gigabytes) * 1000 + int(thousandths or 0) if gigabytes else None
        peer = addresses.get(uuid, {}).get(number, (None,))[0]
        counts = {kind: counters[kind].get(uuid, {}).get(number, (None,))[0] for kind in counters}
        return {
            "link": number,
            "active": speed is not None,
            "speed": speed,
            "peer": None if speed is None else bus_id(peer),
            "replay_errors": _count(counts["Replay"]),
            "recovery_errors": _count(counts["Recovery"]),
            "crc_errors": _count(counts["CRC"]),
        }

    return {uuid: [link(uuid, number) for number in links] for uuid, links in speeds.items()}


def _count(text: str | None) -> int | None:
    return None if text is None else int(text)


def _by_link(text: str, value: str) -> dict[str, dict[int, tuple[t.Any, ...]]]:
    """What stands behind "Link N:" under each GPU's UUID, as the groups of the expression `value`."""
    found: dict[str, dict[int, tuple[t.Any, ...]]] = {}
    for section in re.split(r"^GPU \d+:", text, flags=re.MULTILINE)[1:]:
        uuid = re.search(r"\(UUID: (GPU-[^)\s]+)\)", section)
        links = re.finditer(rf"^\s+Link ([0-9]{{1,3}}): {value}\s*$", section, re.MULTILINE)
        of_gpu = {int(link[1]): link.groups()[1:] for link in links}
        if uuid and of_gpu:
            found[uuid[1]] = of_gpu
    return found


def parse_topology(text: str, gpus: int) -> tuple[list[list[str | None]] | None, list[int | None]]:
    """How each GPU reaches each other one, and each GPU's NUMA node, in the output of `nvidia-smi topo -m`.

    :param gpus: how many GPUs there are; a matrix of another size is none.
    """
    lines = [line.split("\t") for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]
    header = next((line for line in lines if "GPU0" in line), [])
    columns = [place for place, title in enumerate(header) if re.fullmatch(r"GPU[0-9]+", title.strip())]
    rows = [line for line in lines if line is not header and re.fullmatch(r"GPU[0-9]+", line[0].strip())]
    if not columns or not len(columns) == len(rows) == gpus or min(map(len, rows)) <= max(columns):
        return None, []
    matrix: list[list[str | None]] = [[row[column].strip() or None for column in columns] for row in rows]
    numa = next((place for place, title in enumerate(header) if title == "NUMA Affinity"), None)
    return matrix, [_node(row[numa]) if numa is not None and numa < len(row) else None for row in rows]


def _node(text: str) -> int | None:
    """The first of the nodes in a list like "0-1"."""
    found = re.match(r"\s*([0-9]{1,4})\b", text)
    return int(found[1]) if found else None
