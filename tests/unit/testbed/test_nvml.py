# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The mock of libnvidia-ml.so.1 under the real nvidia-smi, pynvml and nvitop: healthy hosts, and each fault's signs."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import itertools
import json
import re
import shutil
import subprocess
import typing as t
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from testbed.engine import LABEL, docker
from testbed.images import ensure_image
from testbed.nvml import faults, make_stubs

TESTS = Path(__file__).parents[2]
NVML = TESTS / "testbed/nvml"
RECORDINGS = TESTS / "fixtures/recordings"
PROFILES = sorted(path.stem for path in (NVML / "profiles").glob("*.ini"))

BUSES = [f"00000000:{bus}:00.0" for bus in ("18", "3A", "4B", "5C", "84", "AC", "B3", "B9")]
BAD = 3  # the GPU that gets the fault

# What a monitoring program would ask of each GPU, in the words of nvidia-ml-py.
PROBE = """
import json, pynvml as n

n.nvmlInit()
gpus = []
for index in range(n.nvmlDeviceGetCount()):
    h = n.nvmlDeviceGetHandleByIndex(index)
    fabric = n.c_nvmlGpuFabricInfo_v2_t()
    n.nvmlDeviceGetGpuFabricInfoV(h, n.byref(fabric))
    processes = n.nvmlDeviceGetComputeRunningProcesses(h)
    remapped = n.nvmlDeviceGetRemappedRows(h)
    links = n.nvmlDeviceGetFieldValues(h, [n.NVML_FI_DEV_NVLINK_LINK_COUNT])[0].value.uiVal
    gpus.append({
        "name": n.nvmlDeviceGetName(h),
        "uuid": n.nvmlDeviceGetUUID(h),
        "bus": n.nvmlDeviceGetPciInfo(h).busId,
        "memory": n.nvmlDeviceGetMemoryInfo(h, n.nvmlMemory_v2).total >> 20,
        "used": n.nvmlDeviceGetMemoryInfo(h, n.nvmlMemory_v2).used >> 20,
        "compute": n.nvmlDeviceGetCudaComputeCapability(h),
        "power_limit": n.nvmlDeviceGetEnforcedPowerLimit(h),
        "temperature": n.nvmlDeviceGetTemperature(h, n.NVML_TEMPERATURE_GPU),
        "reasons": n.nvmlDeviceGetCurrentClocksEventReasons(h),
        "ecc": n.nvmlDeviceGetTotalEccErrors(h, n.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, n.NVML_VOLATILE_ECC),
        "remap_pending": remapped[2],
        "remap_failed": remapped[3],
        "links": [n.nvmlDeviceGetNvLinkState(h, link) for link in range(links)],
        "fabric": [fabric.state, fabric.status],
        "mig": n.nvmlDeviceGetMigMode(h),
        "processes": [[p.pid, p.usedGpuMemory >> 20, n.nvmlSystemGetProcessName(p.pid)] for p in processes],
    })
print(json.dumps({
    "driver": n.nvmlSystemGetDriverVersion(),
    "cuda": n.nvmlSystemGetCudaDriverVersion_v2(),
    "gpus": gpus,
}))
"""


class Host:
    """A container of the host image, without systemd: nothing here needs it."""

    def __init__(self, container: str) -> None:
        self._container = container

    def run(self, *argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
        variables = [f"--env={name}={value}" for name, value in environment.items()]
        return docker("exec", "--interactive", *variables, self._container, *argv, check=False)

    def ok(self, *argv: str) -> str:
        """Standard output of a command that must end with exit code 0 and say nothing on standard error."""
        result = self.run(*argv)
        assert (result.returncode, result.stderr) == (0, ""), f"{argv}: {result}"
        return result.stdout

    def write(self, path: str, text: str) -> None:
        self.ok("sh", "-c", 'printf %s "$1" > "$2"', "sh", text, path)

    def query(self, *fields: str) -> list[dict[str, str]]:
        output = self.ok("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader")
        return [dict(zip(fields, row, strict=True)) for row in csv.reader(io.StringIO(output), skipinitialspace=True)]

    def xml(self) -> ET.Element:
        return ET.fromstring(self.ok("nvidia-smi", "-q", "-x"))  # noqa: S314  (nvidia-smi's own output)

    def probe(self) -> dict[str, t.Any]:
        seen: dict[str, t.Any] = json.loads(self.ok("python3", "-c", PROBE))
        return seen

    def nvml_code(self) -> int:
        """The error with which nvmlInit ends."""
        script = "import pynvml\ntry: pynvml.nvmlInit(); print(0)\nexcept pynvml.NVMLError as e: print(e.value)"
        return int(self.ok("python3", "-c", script))


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nvitop and what it needs, as the locked environment has them. psutil's wheel serves any CPython from 3.6 on."""
    folder = tmp_path_factory.mktemp("packages")
    for name in ("nvitop", "nvidia-ml-py", "psutil"):
        for file in importlib.metadata.files(name) or ():
            if ".." not in file.parts and file.suffix != ".pyc":
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file.locate(), folder / file)
    return folder


@pytest.fixture(scope="module")
def container(packages: Path) -> t.Iterator[str]:
    container = docker(
        "run", "--detach", "--rm", "--init", f"--label={LABEL}", "--network=none", "--env=PYTHONPATH=/opt/packages",
        "--env=PYTHONDONTWRITEBYTECODE=1", f"--volume={packages}:/opt/packages:ro", "--entrypoint=sleep",
        ensure_image("debian13"), "infinity",
    ).stdout.strip()  # fmt: skip
    yield container
    docker("rm", "--force", container)


@pytest.fixture
def host(container: str) -> Host:
    """A healthy 8x H800."""
    host = Host(container)
    host.ok("gpu-fault", "profile", "h800")
    return host


def settings(profile: str) -> dict[str, set[str]]:
    """The keys of each section of a profile."""
    sections: dict[str, set[str]] = {}
    for line in profile.splitlines():
        if line.startswith("["):
            keys = sections.setdefault(line, set())
        elif line and not line.startswith("#"):
            keys.add(line.partition("=")[0].strip())
    return sections


def profile_text(name: str) -> str:
    return (NVML / f"profiles/{name}.ini").read_text()


# ---- The parts that need no host


def test_stubs_cover_every_declared_function_once():
    header = """
    nvmlReturn_t DECLDIR nvmlInit_v2(void);
    nvmlReturn_t DECLDIR nvmlDeviceGetName(nvmlDevice_t device,
                                           char *name, unsigned int length);
    nvmlReturn_t DECLDIR nvmlInit_v2(void);
     * nvmlReturn_t is what every function returns
    const DECLDIR char* nvmlErrorString(nvmlReturn_t result);
    """
    assert make_stubs.declared_functions(header) == ["nvmlInit_v2", "nvmlDeviceGetName"]


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_have_the_same_settings_and_the_library_reads_all_of_them(name):
    sections = settings(profile_text(name))
    assert sections == settings(profile_text("h800"))
    assert [section for section in sections if section.startswith("[gpu ")] == [f"[gpu {gpu}]" for gpu in range(8)]
    source = "".join(path.read_text() for path in NVML.glob("*.c"))
    # The key of an error counter is put together from its parts; `profile` is read by gpu-fault.
    read = set(re.findall(r'"(\w+)"', source)) | {"profile"}
    parts = itertools.product(("sram", "dram"), ("corrected", "uncorrected"), ("volatile", "aggregate"))
    counters = {f"ecc_{'_'.join(part)}" for part in parts}
    assert set.union(*sections.values()) - counters - read == set()


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("fault", faults.FAULTS)
def test_a_fault_overrides_settings_that_the_profile_has(fault, name):
    pristine = profile_text(name)
    changed = faults.apply(pristine, fault, BAD)
    assert changed.startswith(pristine)
    added = settings(changed.removeprefix(pristine))
    known = settings(pristine)
    assert added.get("[system]", set()) <= known["[system]"]
    assert added.get(f"[gpu {BAD}]", set()) <= known["[gpu]"] | known[f"[gpu {BAD}]"]
    assert set(added) <= {"[system]", f"[gpu {BAD}]"}
    elsewhere = faults.FAULTS[fault].hides_nvidia_smi or faults.FAULTS[fault].log or faults.FAULTS[fault].fabric_manager
    assert bool(added) != bool(elsewhere)


def test_a_fault_needs_a_gpu_that_is_there():
    with pytest.raises(ValueError, match=r"no section \[gpu 8\]"):
        faults.apply(profile_text("h800"), "lost-gpu", 8)


# ---- Healthy hosts


@pytest.mark.bed
def test_nvidia_smi_is_the_packaged_one_and_the_library_is_ours(host):
    assert host.ok("dpkg-query", "--show", "--showformat=${Version}", "nvidia-smi").startswith("550.163.01-")
    assert host.ok("dpkg", "--verify", "nvidia-smi") == ""
    maps = host.ok("python3", "-c", "import pynvml; pynvml.nvmlInit(); print(open('/proc/self/maps').read())")
    assert set(re.findall(r"/\S*libnvidia-ml\S*", maps)) == {"/usr/local/lib/libnvidia-ml.so.1"}


@pytest.mark.bed
def test_the_table_shows_what_the_original_procedure_saw(host):
    table = host.ok("nvidia-smi")
    assert "NVIDIA-SMI 550.163.01             Driver Version: 550.163.01     CUDA Version: 12.4" in table
    rows = re.findall(r"\|\s+(\d)  NVIDIA H800 +Off \|\s+(\S+) Off \|\s+(\d+) \|", table)
    assert rows == [(str(gpu), bus, "0") for gpu, bus in enumerate(BUSES)]
    states = re.findall(r"\| N/A +(\d+)C +P0 +(\d+)W / +700W \| +4MiB / +81559MiB \| +0% +Default \|", table)
    assert len(states) == 8
    assert all(36 <= int(degrees) <= 38 and 82 <= int(watts) <= 87 for degrees, watts in states)
    assert "No running processes found" in table


@pytest.mark.bed
@pytest.mark.parametrize(
    ("profile", "name", "mib", "links"),
    [
        ("h800", "NVIDIA H800", 81559, 8),
        ("h100", "NVIDIA H100 80GB HBM3", 81559, 18),
        ("h200", "NVIDIA H200", 143771, 18),
    ],
)
def test_every_command_and_library_sees_eight_gpus(host, profile, name, mib, links):
    host.ok("gpu-fault", "profile", profile)
    listed = host.ok("nvidia-smi", "-L")
    assert re.findall(r"^GPU (\d): (.+) \(UUID", listed, re.MULTILINE) == [(str(gpu), name) for gpu in range(8)]

    report = host.ok("nvidia-smi", "-q")
    assert re.findall(r"^Attached GPUs +: (\d+)$", report, re.MULTILINE) == ["8"]
    assert re.findall(r"^ +Product Name +: (.+)$", report, re.MULTILINE) == [name] * 8

    log = host.xml()
    assert log.findtext("attached_gpus") == "8"
    assert [gpu.findtext("product_name") for gpu in log.iter("gpu")] == [name] * 8
    assert [gpu.findtext("fabric/state") for gpu in log.iter("gpu")] == ["Completed"] * 8

    topology = host.ok("nvidia-smi", "topo", "-m")
    rows = re.findall(r"^GPU\d\t(.*)$", topology, re.MULTILINE)
    assert [row.split("\t").count(f"NV{links}") for row in rows] == [7] * 8

    state = host.ok("nvidia-smi", "nvlink", "-s")
    assert len(re.findall(rf"^GPU \d: {name} ", state, re.MULTILINE)) == 8
    assert re.findall(r"Link (\d+): 26\.562 GB/s", state) == [str(link) for link in range(links)] * 8

    assert host.query("index", "name", "memory.total") == [
        {"index": str(gpu), "name": name, "memory.total": f"{mib} MiB"} for gpu in range(8)
    ]
    assert host.ok("nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader") == ""

    seen = host.probe()
    assert (seen["driver"], seen["cuda"]) == ("550.163.01", 12040)
    assert [(gpu["name"], gpu["memory"], gpu["links"]) for gpu in seen["gpus"]] == [(name, mib, [1] * links)] * 8
    assert len({gpu["uuid"] for gpu in seen["gpus"]}) == 8

    monitor = host.ok("python3", "-m", "nvitop", "-1")
    assert re.findall(rf"│ +(\d)  {name.removeprefix('NVIDIA ')}\s", monitor) == [str(gpu) for gpu in range(8)]


@pytest.mark.bed
def test_query_gpu_answers_every_field_it_offers(host):
    offered = re.findall(r'^"([\w.]+)"', host.ok("nvidia-smi", "--help-query-gpu"), re.MULTILINE)
    assert len(offered) > 100
    output = host.ok("nvidia-smi", f"--query-gpu={','.join(offered)}", "--format=csv,noheader")
    assert len(output.splitlines()) == 8
    assert re.findall(r"\[(?!N/A\])[^]]*\]", output) == []  # no "[Unknown Error]", "[GPU is lost]", "[Uninitialized]"


@pytest.mark.bed
def test_query_gpu_tells_the_reference_host(host):
    expected = {
        "count": "8",
        "driver_version": "550.163.01",
        "memory.total": "81559 MiB",
        "memory.used": "4 MiB",
        "utilization.gpu": "0 %",
        "compute_cap": "9.0",
        "compute_mode": "Default",
        "persistence_mode": "Disabled",
        "pstate": "P0",
        "power.limit": "700.00 W",
        "enforced.power.limit": "700.00 W",
        "pcie.link.gen.current": "5",
        "pcie.link.gen.max": "5",
        "pcie.link.width.current": "16",
        "pcie.link.width.max": "16",
        "ecc.mode.current": "Enabled",
        "ecc.mode.pending": "Enabled",
        "ecc.errors.corrected.aggregate.total": "0",
        "ecc.errors.uncorrected.volatile.total": "0",
        "ecc.errors.uncorrected.aggregate.total": "0",
        "mig.mode.current": "Disabled",
        "mig.mode.pending": "Disabled",
        "clocks_event_reasons.active": "0x0000000000000001",
        "reset_status.reset_required": "No",
        "gsp.mode.current": "Enabled",
    }
    assert host.query(*expected) == [expected] * 8
    assert [row["pci.bus_id"] for row in host.query("pci.bus_id")] == BUSES


@pytest.mark.bed
def test_one_gpu_is_found_by_index_uuid_and_bus_address(host):
    for gpu in (0, 5):
        wanted = host.query("index", "uuid", "pci.bus_id")[gpu]
        for name in (str(gpu), wanted["uuid"], wanted["pci.bus_id"]):
            found = host.ok("nvidia-smi", "-i", name, "--query-gpu=index,uuid,pci.bus_id", "--format=csv,noheader")
            assert found.strip() == ", ".join(wanted.values())


@pytest.mark.bed
def test_monitors_print_a_line_per_gpu(host):
    for command in ("dmon", "pmon"):
        lines = host.ok("nvidia-smi", command, "-c", "1").splitlines()
        assert [line.split()[0] for line in lines if not line.startswith("#")] == [str(gpu) for gpu in range(8)]


@pytest.mark.bed
def test_functions_without_an_answer_and_functions_newer_than_the_driver_differ(host):
    """A gate must tell "this GPU has no such thing" from "this library has no such function"."""
    script = """
import pynvml as n
n.nvmlInit()
h = n.nvmlDeviceGetHandleByIndex(0)
for function in (n.nvmlDeviceGetFanSpeed, n.nvmlDeviceGetBusType, n.nvmlDeviceGetMarginTemperature):
    try: function(h)
    except n.NVMLError as e: print(e)
"""
    assert host.ok("python3", "-c", script).splitlines() == ["Not Supported", "Not Supported", "Function Not Found"]


# ---- Against real GPUs

# What nvidia-smi 550 prints and 580 does not: the reset status became a recovery action, the module id moved.
ONLY_550 = {
    "gpu/gpu_module_id",
    "gpu/gpu_reset_status",
    "gpu/gpu_reset_status/drain_and_reset_recommended",
    "gpu/gpu_reset_status/reset_required",
    "gpu/voltage",
    "gpu/voltage/graphics_volt",
}
ONLY_580 = {
    "gpu/capabilities",
    "gpu/capabilities/egm",
    "gpu/clocks_event_reasons_counters",
    "gpu/clocks_event_reasons_counters/clocks_event_reasons_counters_hw_power_brake",
    "gpu/clocks_event_reasons_counters/clocks_event_reasons_counters_hw_therm_slowdown",
    "gpu/clocks_event_reasons_counters/clocks_event_reasons_counters_sw_power_cap",
    "gpu/clocks_event_reasons_counters/clocks_event_reasons_counters_sw_therm_slowdown",
    "gpu/clocks_event_reasons_counters/clocks_event_reasons_counters_sync_boost",
    "gpu/display_attached",
    "gpu/dram_encryption_mode",
    "gpu/dram_encryption_mode/current_dram_encryption",
    "gpu/dram_encryption_mode/pending_dram_encryption",
    "gpu/ecc_errors/channel_repair_pending",
    "gpu/ecc_errors/tpc_repair_pending",
    "gpu/ecc_errors/unrepairable_memory",
    "gpu/fabric/health/access_timeout_recovery",
    "gpu/fabric/health/incorrect_configuration",
    "gpu/fabric/health/partition_assigned",
    "gpu/fabric/health/route_recovery_in_progress",
    "gpu/fabric/health/route_unhealthy",
    "gpu/fabric/health/summary",
    "gpu/gpu_recovery_action",
    "gpu/pdi",
    "gpu/platformInfo",
    "gpu/platformInfo/chassis_serial_number",
    "gpu/platformInfo/gpu_fabric_guid",
    "gpu/platformInfo/host_id",
    "gpu/platformInfo/module_id",
    "gpu/platformInfo/peer_type",
    "gpu/platformInfo/slot_number",
    "gpu/platformInfo/tray_index",
    "gpu/power_profiles",
    "gpu/power_profiles/power_profile_enforced_profiles",
    "gpu/power_profiles/power_profile_requested_profiles",
    "gpu/power_smoothing",
    "gpu/remapped_rows/remapped_row_corr_inactive",
    "gpu/remapped_rows/remapped_row_unc_inactive",
}


def leaves(element: ET.Element, path: str = "") -> dict[str, str]:
    """The text at each element path; the first one where a path repeats."""
    found: dict[str, str] = {}
    for child in element:
        below = f"{path}{child.tag}"
        found.setdefault(below, (child.text or "").strip())
        for name, text in leaves(child, f"{below}/").items():
            found.setdefault(name, text)
    return found


@pytest.mark.bed
@pytest.mark.parametrize(
    ("recording", "profile", "unlike"),
    [
        # The recorded H200s are in a virtual machine, whose host's link generation cannot be read.
        ("h200-x2-driver580", "h200", {"gpu/pci/pci_gpu_link_info/pcie_gen/max_host_link_gen"}),
        # So is the H100, which is alone and so belongs to no fabric.
        (
            "h100-x1-driver580",
            "h100",
            {
                "gpu/pci/pci_gpu_link_info/pcie_gen/max_host_link_gen",
                "gpu/fabric/cliqueId",
                "gpu/fabric/clusterUuid",
                "gpu/fabric/state",
                "gpu/fabric/status",
            },
        ),
    ],
)
def test_the_xml_has_the_elements_of_real_gpus(host, recording, profile, unlike):
    host.ok("gpu-fault", "profile", profile)
    simulated = leaves(host.xml())
    real = leaves(ET.parse(RECORDINGS / recording / "smi-q.xml").getroot())  # noqa: S314  (a file of ours)
    assert simulated.keys() - real.keys() == ONLY_550
    assert real.keys() - simulated.keys() == ONLY_580
    # ... and says N/A where they do, and only there.
    shared = simulated.keys() & real.keys()
    assert {path for path in shared if (simulated[path] == "N/A") != (real[path] == "N/A")} == unlike


@pytest.mark.bed
def test_topology_and_links_are_printed_as_for_real_gpus(host):
    host.ok("gpu-fault", "profile", "h200")
    simulated = host.ok("nvidia-smi", "topo", "-m") + host.ok("nvidia-smi", "nvlink", "-s")
    real = (RECORDINGS / "h200-x2-driver580/topo.txt").read_text()

    def shape(text: str) -> list[str]:
        """The lines, without the identity of the GPU and the place of its CPU."""
        text = re.sub(r"UUID: GPU-[0-9a-f-]+", "UUID", text)
        lines = [line for line in text.splitlines() if not re.match(r"GPU\d\t|\s+\S*GPU0\t", line)]
        return [re.sub(r"^GPU \d", "GPU", line) for line in lines]

    assert shape(simulated)[: len(shape(real))] == shape(real)


# ---- Faults

# Of each fault that leaves the host able to answer: what the bad GPU then shows, in nvidia-smi --query-gpu, in
# nvidia-smi -q -x and in nvidia-ml-py. The other seven GPUs must show what they show without it.
SIGNS: dict[str, tuple[dict[str, str], dict[str, str], dict[str, t.Any]]] = {
    "wrong-name": (
        {"name": "NVIDIA A100-SXM4-80GB"},
        {"product_name": "NVIDIA A100-SXM4-80GB"},
        {"name": "NVIDIA A100-SXM4-80GB"},
    ),
    "ecc-uncorrectable": (
        {"ecc.errors.uncorrected.volatile.total": "2", "ecc.errors.uncorrected.aggregate.dram": "2"},
        {"ecc_errors/volatile/dram_uncorrectable": "2", "ecc_errors/aggregate/dram_uncorrectable": "2"},
        {"ecc": 2},
    ),
    "row-remap-pending": (
        {},
        {"remapped_rows/remapped_row_pending": "Yes", "remapped_rows/remapped_row_unc": "1"},
        {"remap_pending": 1},
    ),
    "row-remap-failed": (
        {},
        {
            "remapped_rows/remapped_row_failure": "Yes",
            "remapped_rows/remapped_row_unc": "8",
            "remapped_rows/row_remapper_histogram/row_remapper_histogram_none": "1 bank(s)",
            "remapped_rows/row_remapper_histogram/row_remapper_histogram_max": "2559 bank(s)",
        },
        {"remap_failed": 1},
    ),
    "nvlink-down": ({}, {}, {"links": [1, 1, 1, 0, 1, 1, 1, 1]}),
    "fabric-not-completed": (
        {},
        {"fabric/state": "In Progress", "fabric/status": "N/A", "fabric/cliqueId": "N/A", "fabric/clusterUuid": "N/A"},
        {"fabric": [2, 0]},
    ),
    "throttling": (
        {
            "clocks_event_reasons.active": "0x0000000000000088",
            "clocks_event_reasons.gpu_idle": "Not Active",
            "clocks_event_reasons.hw_slowdown": "Active",
            "clocks_event_reasons.hw_power_brake_slowdown": "Active",
        },
        {
            "clocks_event_reasons/clocks_event_reason_gpu_idle": "Not Active",
            "clocks_event_reasons/clocks_event_reason_hw_slowdown": "Active",
            "clocks_event_reasons/clocks_event_reason_hw_power_brake_slowdown": "Active",
        },
        {"reasons": 0x88},
    ),
    "too-hot": (
        {"temperature.gpu": "91"},
        {"temperature/gpu_temp": "91 C", "temperature/gpu_temp_tlimit": "-4 C"},
        {"temperature": 91},
    ),
    "warm": (
        {"temperature.gpu": "84"},
        {"temperature/gpu_temp": "84 C", "temperature/gpu_temp_tlimit": "3 C"},
        {"temperature": 84},
    ),
    "less-memory": (
        {"memory.total": "40960 MiB", "memory.free": "40476 MiB"},
        {"fb_memory_usage/total": "40960 MiB", "fb_memory_usage/free": "40476 MiB"},
        {"memory": 40960},
    ),
    "memory-in-use": (
        {"memory.used": "40934 MiB", "memory.free": "40145 MiB"},
        {"fb_memory_usage/used": "40934 MiB", "fb_memory_usage/free": "40145 MiB"},
        {"used": 40934},
    ),
    "vbios-differs": ({"vbios_version": "96.00.30.00.01"}, {"vbios_version": "96.00.30.00.01"}, {}),
    "ecc-off-next": ({"ecc.mode.pending": "Disabled"}, {"ecc_mode/pending_ecc": "Disabled"}, {}),
    "ecc-uncorrectable-before": (
        {"ecc.errors.uncorrected.aggregate.dram": "1"},
        {"ecc_errors/aggregate/dram_uncorrectable": "1"},
        {},
    ),
    "ecc-correctable": (
        {"ecc.errors.corrected.volatile.sram": "10001"},
        {"ecc_errors/volatile/sram_correctable": "10001", "ecc_errors/aggregate/sram_correctable": "10001"},
        {},
    ),
    "ecc-sram-threshold": ({}, {"ecc_errors/aggregate/sram_threshold_exceeded": "Yes"}, {}),
    "row-remap-spare": (
        {},
        {
            "remapped_rows/remapped_row_unc": "8",
            "remapped_rows/row_remapper_histogram/row_remapper_histogram_none": "1 bank(s)",
            "remapped_rows/row_remapper_histogram/row_remapper_histogram_max": "2559 bank(s)",
        },
        {},
    ),
    "reset-required": (
        {"reset_status.reset_required": "Yes"},
        {"gpu_reset_status/reset_required": "Yes"},
        {},
    ),
    "power-limited": (
        {"power.limit": "350.00 W", "enforced.power.limit": "350.00 W"},
        {
            "gpu_power_readings/current_power_limit": "350.00 W",
            "gpu_power_readings/requested_power_limit": "350.00 W",
        },
        {"power_limit": 350000},
    ),
    "pcie-narrow": (
        {"pcie.link.width.current": "8"},
        {"pci/pci_gpu_link_info/link_widths/current_link_width": "8x"},
        {},
    ),
    "pcie-slow": (
        {"pcie.link.gen.max": "4"},
        {
            f"pci/pci_gpu_link_info/pcie_gen/{name}": "4"
            for name in (
                "max_link_gen",
                "current_link_gen",
                "device_current_link_gen",
                "max_device_link_gen",
                "max_host_link_gen",
            )
        },
        {},
    ),
    "pcie-replays": ({}, {"pci/replay_counter": "201", "pci/replay_rollover_counter": "201"}, {}),
    "compute-exclusive": (
        {"compute_mode": "Exclusive_Process"},
        {"compute_mode": "Exclusive_Process"},
        {},
    ),
    "fabric-degraded": ({}, {"fabric/health/bandwidth": "Degraded"}, {}),
    "foreign-process": (
        {"memory.used": "40934 MiB", "memory.free": "40145 MiB"},
        {
            "fb_memory_usage/used": "40934 MiB",
            "fb_memory_usage/free": "40145 MiB",
            "processes/process_info": "",
            "processes/process_info/gpu_instance_id": "N/A",
            "processes/process_info/compute_instance_id": "N/A",
            "processes/process_info/pid": "4242",
            "processes/process_info/type": "C",
            "processes/process_info/process_name": "/opt/other/python3",
            "processes/process_info/used_memory": "40930 MiB",
        },
        {"used": 40934, "processes": [[4242, 40930, "/opt/other/python3"]]},
    ),
    "mig-on": (
        {"mig.mode.current": "Enabled", "utilization.gpu": "[N/A]"},
        {
            "mig_mode/current_mig": "Enabled",
            **{f"utilization/{unit}_util": "N/A" for unit in ("gpu", "memory", "encoder", "decoder", "jpeg", "ofa")},
        },
        {"mig": [1, 0]},
    ),
    "mig-on-next": ({"mig.mode.pending": "Enabled"}, {"mig_mode/pending_mig": "Enabled"}, {"mig": [0, 1]}),
}
# These have tests of their own below.
HOST_IS_MUTE = {"lost-gpu", "lost-gpu-silent", "driver-mismatch", "nvidia-smi-hangs", "nvidia-smi-missing"}
# These are told by other commands of nvidia-smi, by the journal and by systemd, or are of the host as a whole: what the
# gate says of them in the bed is their proof.
ELSEWHERE = {
    "gpu-missing", "old-driver", "old-cuda", "inforom-corrupted", "ecc-off", "persistence-off", "nvlinks-down",
    "nvlink-slow", "nvlink-errors", "fabric-manager-failed", "fabric-manager-old", "xid-79", "xid-unknown",
}  # fmt: skip


def test_every_fault_is_tested():
    assert SIGNS.keys() | HOST_IS_MUTE | ELSEWHERE == faults.FAULTS.keys()


def changes(before: dict[str, t.Any], after: dict[str, t.Any]) -> dict[str, t.Any]:
    """What is different or new, with its value after."""
    return {name: value for name, value in after.items() if before.get(name) != value}


@pytest.mark.bed
@pytest.mark.parametrize("fault", SIGNS)
def test_a_fault_changes_one_gpu_and_nothing_else(host, fault):
    in_query, in_xml, in_library = SIGNS[fault]

    def look() -> tuple[list[t.Any], ...]:
        query = host.query("index", *in_query)
        return query, [leaves(gpu) for gpu in host.xml().iter("gpu")], host.probe()["gpus"]

    healthy = look()
    host.ok("gpu-fault", fault, str(BAD))
    for before, after, expected in zip(healthy, look(), (in_query, in_xml, in_library), strict=True):
        differences = [changes(*pair) for pair in zip(before, after, strict=True)]
        assert differences == [expected if gpu == BAD else {} for gpu in range(8)]


@pytest.mark.bed
def test_a_link_that_is_down_shows_in_the_link_list_and_in_the_topology(host):
    host.ok("gpu-fault", "nvlink-down", str(BAD))
    links = host.ok("nvidia-smi", "nvlink", "-s")
    assert links.count("<inactive>") == 1
    assert host.ok("nvidia-smi", "nvlink", "-s", "-i", str(BAD)).splitlines()[4].strip() == "Link 3: <inactive>"
    rows = re.findall(r"^GPU\d\t(.*)$", host.ok("nvidia-smi", "topo", "-m"), re.MULTILINE)
    assert [row.count("NV7") for row in rows] == [7 if gpu == BAD else 1 for gpu in range(8)]


@pytest.mark.bed
def test_a_foreign_process_shows_wherever_processes_are_listed(host):
    host.ok("gpu-fault", "foreign-process", str(BAD))
    apps = "--query-compute-apps=gpu_bus_id,pid,process_name,used_memory"
    row = host.ok("nvidia-smi", apps, "--format=csv,noheader")
    assert row == f"{BUSES[BAD]}, 4242, /opt/other/python3, 40930 MiB\n"
    assert re.search(rf"\| +{BAD} +N/A +N/A +4242 +C +/opt/other/python3 +40930MiB \|", host.ok("nvidia-smi"))
    assert re.search(r"│ +3 +4242 .*39\.97GiB", host.ok("python3", "-m", "nvitop", "-1"))


@pytest.mark.bed
def test_a_lost_gpu_stops_nvidia_smi(host):
    host.ok("gpu-fault", "lost-gpu", str(BAD))
    message = f"Unable to determine the device handle for GPU{BUSES[BAD]}: GPU is lost.  Reboot the system"
    for command in ([], ["-q"], ["-q", "-x"], ["--query-gpu=name", "--format=csv"], ["nvlink", "-s"]):
        result = host.run("nvidia-smi", *command)
        assert (result.returncode, message in result.stdout) == (15, True), command
    # The list of GPUs goes on, and a healthy GPU can be asked by itself.
    listed = host.run("nvidia-smi", "-L")
    assert (listed.returncode, listed.stdout.count("NVIDIA H800")) == (15, 7)
    assert host.ok("nvidia-smi", "-i", "0", "--query-gpu=name", "--format=csv,noheader") == "NVIDIA H800\n"
    script = """
import pynvml as n
n.nvmlInit()
for gpu in range(n.nvmlDeviceGetCount()):
    try: n.nvmlDeviceGetHandleByIndex(gpu)
    except n.NVMLError as e: print(gpu, e.value, e)
"""
    assert host.ok("python3", "-c", script) == f"{BAD} 15 GPU is lost\n"


@pytest.mark.bed
def test_a_silently_lost_gpu_is_only_in_the_values(host):
    """The trap for a gate: eight GPUs, exit code 0, and no number where numbers are expected."""
    host.ok("gpu-fault", "lost-gpu-silent", str(BAD))
    gpus = [leaves(gpu) for gpu in host.xml().iter("gpu")]
    assert len(gpus) == 8
    assert [index for index, gpu in enumerate(gpus) if gpu["product_name"] == "GPU is lost"] == [BAD]
    assert gpus[BAD]["temperature/gpu_temp"] == "GPU is lost"
    assert [index for index, gpu in enumerate(gpus) if "ecc_errors" not in gpu] == [BAD]  # not even an element
    assert [index for index, row in enumerate(host.query("name")) if row["name"] == "[GPU is lost]"] == [BAD]
    assert "ERR!" in host.ok("nvidia-smi")
    script = f"""
import pynvml as n
n.nvmlInit()
h = n.nvmlDeviceGetHandleByIndex({BAD})
print(n.nvmlDeviceGetIndex(h))
try: n.nvmlDeviceGetName(h)
except n.NVMLError as e: print(e.value)
"""
    assert host.ok("python3", "-c", script).split() == [str(BAD), "15"]


@pytest.mark.bed
def test_a_driver_mismatch_stops_everything(host):
    host.ok("gpu-fault", "driver-mismatch")
    for command in ([], ["-L"], ["-q", "-x"], ["--query-gpu=name", "--format=csv"], ["topo", "-m"], ["nvlink", "-s"]):
        result = host.run("nvidia-smi", *command)
        assert result.returncode == 18, command
        assert "Failed to initialize NVML: Driver/library version mismatch" in result.stdout
    assert host.nvml_code() == 18


@pytest.mark.bed
def test_a_hanging_driver_hangs_nvidia_smi_and_the_library(host):
    host.ok("gpu-fault", "nvidia-smi-hangs")
    impatient = "import pynvml, signal; signal.signal(signal.SIGALRM, print); signal.alarm(1); pynvml.nvmlInit()"
    for command in (["nvidia-smi", "-q", "-x"], ["python3", "-c", impatient]):
        result = host.run("timeout", "2", *command)
        assert (result.returncode, result.stdout) == (124, ""), command
    host.ok("gpu-fault", "none")
    assert host.nvml_code() == 0


@pytest.mark.bed
def test_nvidia_smi_can_be_missing_while_the_library_answers(host):
    host.ok("gpu-fault", "nvidia-smi-missing")
    assert host.run("sh", "-c", "command -v nvidia-smi").returncode != 0
    assert host.nvml_code() == 0
    host.ok("gpu-fault", "none")
    assert host.ok("nvidia-smi", "-L").count("NVIDIA H800") == 8


# ---- The command gpu-fault and the profile's reader


@pytest.mark.bed
def test_gpu_fault_lists_what_there_is(host):
    assert [line.split()[0] for line in host.ok("gpu-fault", "list").splitlines()] == list(faults.FAULTS)


@pytest.mark.bed
def test_gpu_fault_puts_one_fault_in_place_of_another_and_takes_it_away(host):
    host.ok("gpu-fault", "wrong-name", "1")
    assert host.ok("gpu-fault", "mig-on", "2").startswith("mig-on on GPU 2: ")
    assert [row["name"] for row in host.query("name")] == ["NVIDIA H800"] * 8
    assert [row["mig.mode.current"] for row in host.query("mig.mode.current")].count("Enabled") == 1
    assert host.ok("gpu-fault", "none") == "no fault, profile h800\n"
    assert host.ok("cat", str(faults.ACTIVE)) == profile_text("h800")


@pytest.mark.bed
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lost-gpu", "8"], "gpu-fault: the profile has no section [gpu 8]"),
        (["lost-gpu", "first"], "invalid int value: 'first'"),
        (["melted"], "invalid choice: 'melted'"),
        (["profile", "h20"], "gpu-fault: there is no profile h20; there are h100, h200, h800"),
    ],
)
def test_gpu_fault_refuses_what_it_does_not_know_and_changes_nothing(host, arguments, message):
    result = host.run("gpu-fault", *arguments)
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert host.ok("cat", str(faults.ACTIVE)) == profile_text("h800")


@pytest.mark.bed
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[system]\ngpus = 8\nno setting\n", "nvml-mock: /root/bad.ini:3 is neither"),
        ("[gpus]\n", "nvml-mock: /root/bad.ini:1 is neither"),
        ("[gpu 16]\n", "nvml-mock: /root/bad.ini:1 is neither"),
        (f"name = {'x' * 128}\n", "nvml-mock: /root/bad.ini:1 is neither"),
        (None, "nvml-mock: cannot read the profile /root/bad.ini: No such file or directory"),
    ],
)
def test_a_profile_that_cannot_be_read_is_a_driver_that_is_not_loaded(host, text, message):
    host.ok("rm", "-f", "/root/bad.ini")
    if text is not None:
        host.write("/root/bad.ini", text)
    result = host.run("nvidia-smi", "-L", NVML_MOCK_PROFILE="/root/bad.ini")
    assert result.returncode == 9
    assert message in result.stderr
    assert "couldn't communicate with the NVIDIA driver" in result.stdout


@pytest.mark.bed
def test_the_profile_is_read_again_at_every_init(host):
    script = """
import os, subprocess, pynvml as n
os.environ["NVML_MOCK_PROFILE"] = "/root/own.ini"
for name in ("first", "second", ""):
    open("/root/own.ini", "w").write(f"[system]\\ngpus = 1\\n[gpu]\\nname = {name}\\n[gpu 0]\\nuuid = GPU-0\\n")
    n.nvmlInit()
    try: print(n.nvmlDeviceGetCount(), n.nvmlDeviceGetName(n.nvmlDeviceGetHandleByUUID("GPU-0")))
    except n.NVMLError as e: print(e)
    n.nvmlShutdown()
"""
    assert host.ok("python3", "-c", script).splitlines() == ["1 first", "1 second", "Not Supported"]
