# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is asked of a host for somebody who has to find out what is wrong with it. Private to this collection.

Every source says something within a time and a size, or that it did not. Nothing here is fit to be shown before
`_support` has taken the secrets out.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import itertools
import json
import re
import typing as t
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from ansible_collections.llmfleet.serving.plugins.module_utils import _host_records, _redact
from ansible_collections.llmfleet.serving.plugins.module_utils._bounded import content_of, said_by
from ansible_collections.llmfleet.serving.plugins.module_utils._child import in_child
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gate import gate
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu import read_facts
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_facts import RunCommand
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_host import pci_devices, systemd_unit

# The last part of a unit's name: of these, what they do is worth telling.
_UNIT = re.compile(r"^(\S+\.(?:service|timer|socket|mount|target))\s", re.MULTILINE)
_GLOB = re.compile(r"[*?\[]")
_PCI_FACTS = ("numa_node", "current_link_speed", "current_link_width", "max_link_speed", "max_link_width", "enable")
# What in the kernel's log speaks of GPUs, of the bus and the memory that they hang on, or of what they starve.
_KERNEL = re.compile(
    r"NVRM|\bS?Xid\b|nvidia|nvlink|nvswitch|\bAER\b|pcieport|PCIe Bus Error|\bmce:|Machine Check|EDAC|Hardware Error|"
    r"out of memory|oom-kill|blocked for more than|I/O error|Linux version",
    re.IGNORECASE,
)
# A log is read to so many times its limit, of which the lines that count are kept.
_SIFTED = 8
_SECRET_FILE_BYTES = 1 << 20


class Piece(t.NamedTuple):
    """What a source has said: a text, or data that becomes JSON.

    `status` is "ok", "failed", "ended" (its time was up), "absent" or "refused".
    """

    text: str = ""
    status: str = "ok"
    truncated: bool = False
    note: str = ""
    data: t.Any = None


class Source(t.NamedTuple):
    """One file of the archive.

    :ivar name: where it lies in the archive, before it is made a safe one.
    :ivar asked: the command or the file, for the index.
    :ivar ask: asks for at most so many seconds and bytes.
    """

    name: str
    asked: str
    ask: Callable[[float, int], Piece]


@dataclasses.dataclass(frozen=True)
class Host:
    """What is to be told of this host.

    :ivar run_command: AnsibleModule's.
    :ivar units: patterns of units.
    :ivar model_directory: the directory of models.
    :ivar hours: how far logs go back.
    :ivar root: where paths begin.
    """

    run_command: RunCommand
    units: Sequence[str]
    model_directory: Path = Path("/data/models")
    hours: int = 72
    root: Path = Path("/")

    def run(self, argv: list[str], **options: t.Any) -> tuple[int, str, str]:
        """As `run_command`, which would end the module over a program that is not there."""
        try:
            return self.run_command(argv, **{**options, "handle_exceptions": False})
        except OSError as exc:
            if options.get("handle_exceptions") is False:
                raise
            return 127, "", str(exc)


_SYSTEM = {
    "system/uname.txt": "uname -a",
    "system/cpu.txt": "lscpu",
    "system/memory.txt": "free --bytes --wide",
    "system/modules.txt": "lsmod",
    "system/time.txt": "timedatectl show",
    "system/dkms.txt": "dkms status",
    "system/module-nvidia.txt": "modinfo nvidia",
    "packages/dpkg.txt": r"dpkg-query --show --showformat=${db:Status-Abbrev}\t${Package}\t${Version}\n",
    "packages/held.txt": "apt-mark showhold",
    "packages/rpm.txt": "rpm --query --all",
    "disk/space.txt": "df --block-size=1 --output=source,fstype,size,used,avail,pcent,target",
    "disk/inodes.txt": "df --output=source,itotal,iused,ipcent,target",
    "disk/mounts.txt": "findmnt --list --output TARGET,SOURCE,FSTYPE,OPTIONS",
    "disk/devices.txt": "lsblk --output NAME,TYPE,SIZE,ROTA,MODEL,FSTYPE,MOUNTPOINT",
    "numa/nodes.txt": "numactl --hardware",
    "pci/tree.txt": "lspci -t -v",
    "pci/nvidia.txt": "lspci -nn -vv -d 10de:",
    "network/links.txt": "ip -statistics link show",
    "network/listeners.txt": "ss --numeric --listening --tcp --processes",
    "processes/all.txt": "ps -e -o pid,ppid,user:24,stat,wchan:24,rss,etimes,unit:48,comm --sort=-rss",
    "units/failed.txt": "systemctl list-units --all --failed --full --no-legend",
    "units/timers.txt": "systemctl list-timers --all --full --no-legend",
}
_GPU = {
    "gpu/nvidia-smi.txt": "nvidia-smi",
    "gpu/nvidia-smi-q.xml": "nvidia-smi -q -x",
    "gpu/topology.txt": "nvidia-smi topo -m",
    "gpu/nvlink-states.txt": "nvidia-smi nvlink -s",
    "gpu/nvlink-errors.txt": "nvidia-smi nvlink -e",
    "gpu/fabric-manager.txt": "nv-fabricmanager --version",
}
# Never /etc/llmfleet/*.key, its *.pem, the keys and the clients of the edge, or what an upgrade keeps.
_FILES = (
    *("/usr/lib/os-release", "/proc/cmdline", "/proc/driver/nvidia/version", "/proc/driver/nvidia/params"),
    *("/proc/driver/nvidia/gpus/*/information", "/sys/devices/system/node/node*/cpulist"),
    "/sys/devices/system/node/node*/meminfo",
    *("/usr/local/cuda-*/version.json", "/etc/modprobe.d/*nvidia*", "/etc/apt/preferences.d/*"),
    *(
        "/etc/apt/sources.list.d/*.list",
        "/etc/apt/sources.list.d/*.sources",
        "/etc/llmfleet/*.json",
        "/etc/llmfleet/*.env",
        "/etc/llmfleet/edge/edge.cfg",
    ),
    *("/etc/llmfleet/edge/drained", "/etc/ansible/facts.d/llmfleet_*.fact", "/var/lib/llmfleet/acceptance.json"),
    *("/var/lib/llmfleet/watchdog/*.json", "/var/lib/llmfleet/previous/*/record.json"),
)
# Where this collection keeps secrets. The last word of a line is one.
_SECRET_FILES = (
    *("/etc/llmfleet/*.key", "/etc/llmfleet/*.key.yaml", "/etc/llmfleet/*token*", "/etc/llmfleet/edge/keys"),
    "/run/llmfleet-peers/token",
)


def sources(host: Host) -> Iterator[Source]:
    """What is asked, in its order: what may hang, and what may be long, last."""
    for name, command in _SYSTEM.items():
        yield _program(name, command.split())
    for pattern in _FILES:
        yield from _files(host, pattern)
    yield Source("packages/engines.txt", "/opt/llmfleet/*/*", lambda _s, _l: Piece(_listing(host, "/opt/llmfleet/*/*")))
    units = _units(host)
    yield _program("units/list.txt", ["systemctl", "list-units", "--all", "--full", "--no-legend", *host.units])
    if units:
        yield _program("units/files.txt", ["systemctl", "cat", *units])
        yield _program("units/states.txt", ["systemctl", "show", *units])
    yield _told("pci/devices.json", "/sys/bus/pci/devices", lambda: _pci_devices(host))
    yield _told("processes/units.json", "/proc/*/cmdline", lambda: _processes(host))
    yield _told("records/models.json", "what model_files has", lambda: _host_records.models(host.model_directory))
    yield _told("records/units.json", "what host_report has", lambda: _host_records.units(host.run, host.units))
    for name, command in _GPU.items():
        yield _program(name, command.split())
    yield Source("gpu/facts.json", "what gpu_info has", lambda seconds, _limit: _facts(host, seconds))
    yield Source("gate/verdict.json", "what gpu_gate has", lambda seconds, _limit: _verdict(host, seconds))
    yield from _logs(host, units)


def secrets(host: Host, files: Sequence[str]) -> set[str]:
    """What is a secret on this host, to be hidden wherever it stands. It is read for nothing else.

    :param files: where there are more of them.
    """
    patterns = [pattern for pattern in (*_SECRET_FILES, *files) if pattern.strip("/")]
    paths = [path for pattern in patterns for path in _paths(host, pattern)]
    found = {line.split()[-1].strip("\"'") for path in paths for line in _lines(path) if line.strip()}
    for path in _paths(host, "/etc/llmfleet/*.env"):
        pairs = (line.partition("=")[::2] for line in _lines(path))
        found |= {value.strip().strip("\"'") for name, value in pairs if _redact.is_secret(name)}
    return found


def _paths(host: Host, pattern: str) -> list[Path]:
    return sorted(host.root.glob(pattern.lstrip("/")))


def _lines(path: Path) -> list[str]:
    try:
        real = path.resolve()
        text, _more = content_of(real, real.parent, _SECRET_FILE_BYTES)
    except (OSError, LlmError):
        return []
    # What frames a key tells where other keys begin, so it must not be taken for one.
    return [line for line in text.decode(errors="replace").splitlines() if not line.lstrip().startswith(("#", "-----"))]


def _program(name: str, argv: Sequence[str], *, log: bool = False, sift: re.Pattern[str] | None = None) -> Source:
    """:param log: keep its last words, not its first.
    :param sift: keep only lines in which this is found.
    """

    def ask(seconds: float, limit: int) -> Piece:
        said = said_by(argv, seconds, limit * _SIFTED if sift else limit, last=log)
        text = said.text.decode(errors="replace")
        if sift:
            text = "".join(line for line in text.splitlines(keepends=True) if sift.search(line))
        if said.late:
            return Piece(text, "ended", True, f"it did not end within {seconds:.0f} s, and was ended")
        if said.truncated or said.status == 0:
            return Piece(text, "ok", said.truncated)
        how = "by a signal" if said.status is None else f"with status {said.status}"
        return Piece(text, "failed", note=f"it ended {how}")

    return Source(name, " ".join(argv), ask)


def _files(host: Host, pattern: str) -> Iterator[Source]:
    asked = itertools.takewhile(lambda part: not _GLOB.search(part), PurePosixPath(pattern.lstrip("/")).parts[:-1])
    base = host.root.joinpath(*asked)
    for path in _paths(host, pattern):
        yield Source(f"files/{path.relative_to(host.root)}", str(path), _reading(path, base))


def _reading(path: Path, base: Path) -> Callable[[float, int], Piece]:
    def ask(_seconds: float, limit: int) -> Piece:
        try:
            content, more = content_of(path, base, limit)
        except LlmError as exc:
            return Piece("", "refused", note=str(exc))
        text = content.decode(errors="replace")
        return Piece(_redact.in_haproxy(text) if path.suffix == ".cfg" else text, truncated=more)

    return ask


def _told(name: str, asked: str, work: Callable[[], t.Any]) -> Source:
    return Source(name, asked, lambda seconds, _limit: Piece(data=in_child(work, seconds)))


def _listing(host: Host, pattern: str) -> str:
    return "".join(f"{path}\n" for path in _paths(host, pattern))


def _units(host: Host) -> list[str]:
    """The units of this host that match, those of which only a file is there as well."""
    names: set[str] = set()
    for asked in ("list-units", "list-unit-files"):
        argv = ["systemctl", asked, "--all", "--full", "--plain", "--no-legend", *host.units]
        try:
            names |= set(_UNIT.findall(said_by(argv, 10, 1 << 20).text.decode(errors="replace")))
        except OSError:
            return []
    return sorted(names)


def _pci_devices(host: Host) -> list[dict[str, t.Any]]:
    """NVIDIA's devices, what has them, and how they are joined to the bus."""
    folder = host.root / "sys/bus/pci/devices"
    return [
        {**dataclasses.asdict(device), **{name: _word(folder / device.address / name) for name in _PCI_FACTS}}
        for device in pci_devices(folder)
    ]


def _word(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def _processes(host: Host) -> list[dict[str, t.Any]]:
    """The processes of the units, with their arguments. What others run is nobody's business."""
    found = []
    for folder in sorted(Path("/proc").glob("[0-9]*"), key=lambda one: int(one.name)):
        unit = systemd_unit(int(folder.name)) or ""
        if any(fnmatch.fnmatch(unit, pattern) for pattern in host.units):
            try:
                words = (folder / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
            except OSError:
                continue
            found.append({"pid": int(folder.name), "unit": unit, "argv": _redact.in_argv(words)})
    return found


def _facts(host: Host, seconds: float) -> Piece:
    return Piece(data=read_facts(host.run, timeout=max(1, int(seconds))))


def _verdict(host: Host, seconds: float) -> Piece:
    """The gate's, with the options of its last pass."""
    path = host.root / "etc/llmfleet/gpu-gate.json"
    if not path.exists():
        return Piece("", "absent", note="the gate has not passed on this host, so its options are not known")
    content, _more = content_of(path, path.parent, _SECRET_FILE_BYTES)
    try:
        options = json.loads(content)["options"]
        verdict = gate(host.run, {**options, "timeout": max(1, int(seconds))})
    except (ValueError, KeyError, TypeError) as exc:
        return Piece("", "failed", note=f"{path} is not what the role gpu_gate writes: {exc!r}")
    return Piece(data={name: value for name, value in verdict.items() if name not in ("facts", "junit")})


def _logs(host: Host, units: Sequence[str]) -> Iterator[Source]:
    journal = ["journalctl", "--no-pager", "--quiet", "--output=short-iso"]
    since = f"--since=-{host.hours}h"
    yield _program("kernel/journal.txt", [*journal, since, "_TRANSPORT=kernel"], log=True, sift=_KERNEL)
    yield _program("kernel/dmesg.txt", ["dmesg", "--time-format=iso"], log=True, sift=_KERNEL)
    # What the gate has said at each boot, however long ago.
    yield _program("gate/history.txt", [*journal, "--lines=2000", "--unit=llmfleet-gpu-ready.service"], log=True)
    for unit in units:
        yield _program(f"journal/{unit}.txt", [*journal, since, f"--unit={unit}"], log=True)
