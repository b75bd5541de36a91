# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is asked of a host, of one with everything and of one with nothing; no planted secret is in the archive."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile

import pytest
from run_command import run_command

from ansible_collections.llmfleet.serving.plugins.module_utils import _gpu, _support_sources
from ansible_collections.llmfleet.serving.plugins.module_utils._support import Limits, write_archive
from ansible_collections.llmfleet.serving.plugins.module_utils._support_sources import Host, secrets, sources

UNIT = "llmfleet-r1.service"
HUB = "hf_canaryOfTheHubAbcdefghijklmnop"
KEY = "canary-of-the-engine-0123456789"
SIGNATURE = "canaryOfTheSignature0123456789"
PROXIED = "canary-of-haproxy-0123456789"
PROXY = "canary-of-the-proxy-0123456789"
PROMPT = "canary question about my salary"
ARGUMENT = "canary-of-arguments-0123456789"
CANARIES = (HUB, KEY, SIGNATURE, PROXIED, PROXY, PROMPT, ARGUMENT, "MIIEcanary")

FILES = {
    "usr/lib/os-release": "ID=debian\n",
    "etc/llmfleet/llmfleet-r1.env": f'HF_TOKEN="{HUB}"\nOTHER="1"\nAPI_KEY="{ARGUMENT} x"\nHTTPS_PROXY="http://u:{PROXY}@p:3128"\n',
    "etc/llmfleet/llmfleet-r1.key": f"{KEY}\n",
    "etc/llmfleet/llmfleet-r1.key.yaml": f'api-key: "{KEY}"\n',
    "etc/llmfleet/hub.token": f"{HUB}\n",
    "etc/llmfleet/llmfleet-r1.json": json.dumps({"ready_url": "http://127.0.0.1:8000/health"}),
    "etc/llmfleet/edge/keys": f"# made by\nllmfleet-r1 {KEY}\n",
    "etc/llmfleet/edge/clients": "digest alice\n",
    "etc/llmfleet/edge/server.pem": "-----BEGIN PRIVATE KEY-----\nMIIEcanary\n-----END PRIVATE KEY-----\n",
    "etc/llmfleet/edge/edge.cfg": f"userlist a\n    user bob insecure-password {PROXIED}\n    server r1 127.0.0.1:80\n",
    "etc/apt/sources.list.d/x.list": f"deb http://u:{PROXY}@mirror.example.com trixie main\n",
    "var/lib/llmfleet/acceptance.json": json.dumps(
        {"services": {"r1": {"url": f"https://h/x?X-Amz-Signature={SIGNATURE}", "prompt": PROMPT, "ttft": 1.5}}}
    ),
    "var/lib/llmfleet/previous/llmfleet-r1/record.json": '{"release": "/opt/llmfleet/ollama/0.5.11"}',
    "var/lib/llmfleet/previous/llmfleet-r1/pending/0": f"{KEY}\n",
    "sys/bus/pci/devices/0000:18:00.0/class": "0x030200\n",
    "sys/bus/pci/devices/0000:18:00.0/vendor": "0x10de\n",
    "sys/bus/pci/devices/0000:18:00.0/device": "0x2324\n",
    "sys/bus/pci/devices/0000:18:00.0/numa_node": "1\n",
    "etc/ansible/facts.d/llmfleet_gpu_gate.fact": '{"verdict": "fail"}',
    "opt/llmfleet/ollama/0.5.11/bin/ollama": "",
}
JOURNAL = f"""2026-11-30T06:00:00+0000 gpu-01 ollama[7]: listening
2026-11-30T06:00:01+0000 gpu-01 ollama[7]: prompt: '{PROMPT}', params: 1
2026-11-30T06:00:02+0000 gpu-01 ollama[7]: Authorization: Bearer {ARGUMENT}
2026-11-30T06:00:03+0000 gpu-01 ollama[7]: GET https://hub/x?X-Amz-Signature={SIGNATURE}&a=1
2026-11-30T06:00:04+0000 gpu-01 ollama[7]: said {KEY} just so
2026-11-30T06:00:05+0000 gpu-01 ollama[7]: -----BEGIN PRIVATE KEY-----
2026-11-30T06:00:05+0000 gpu-01 ollama[7]: MIIEcanary
2026-11-30T06:00:05+0000 gpu-01 ollama[7]: -----END PRIVATE KEY-----"""
KERNEL = """2026-11-30T06:00:00+0000 gpu-01 kernel: NVRM: Xid (PCI:0000:18:00): 79, GPU has fallen off the bus.
2026-11-30T06:00:00+0000 gpu-01 kernel: docker0: port 1 entered blocking state"""
CAT = f"""[Service]
Environment="HF_TOKEN={HUB} x" OTHER=1
ExecStart=/opt/llmfleet/vllm/bin/vllm serve --api-key {ARGUMENT} --port 8000"""
PROGRAMS = {
    "systemctl": f"""case "$1" in
        list-unit*) echo "{UNIT} loaded active running x" ;;
        cat) cat <<'END'
{CAT}
END
        ;;
        show) cat <<'END'
Id={UNIT}
LoadState=loaded
ActiveState=active
ExecStart={{ argv[]=/x --api-key {ARGUMENT} ; ignore_errors=no }}
END
        ;;
    esac""",
    "journalctl": f"""case "$*" in
        *_TRANSPORT=kernel*) cat <<'END'
{KERNEL}
END
        ;;
        *) cat <<'END'
{JOURNAL}
END
        ;;
    esac""",
    "nvidia-smi": f"""case "$*" in
        "-q -x") sleep 974 ;;
        *) echo "python3 serve --api-key={ARGUMENT}" ;;
    esac""",
    "dpkg-query": "printf 'ii \\tnvidia-smi\\t550\\tamd64\\n'",
}


@pytest.fixture
def unpacked(tmp_path, monkeypatch):
    """unpacked(files, programs, **limits): the texts of the archive by their names, and what became of each source."""

    def make(files, programs, **limits):
        root = tmp_path / "root"
        root.mkdir(exist_ok=True)
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        (tmp_path / "bin").mkdir()
        for name, script in programs.items():
            (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / "bin" / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}/bin:{tmp_path}/coreutils")
        (tmp_path / "coreutils").mkdir()
        for name in ("cat", "sleep"):
            (tmp_path / "coreutils" / name).symlink_to(f"/usr/bin/{name}")
        host = Host(run_command, ["llmfleet-*"], root / "data/models", 72, root)
        dest = tmp_path / "x.tar.gz"
        known = secrets(host, ["/etc/more"])
        entries = write_archive(dest, {"host": "gpu-01"}, sources(host), known, Limits(**limits))
        with tarfile.open(dest) as tar:
            texts = {one.name[len("gpu-01/") :]: tar.extractfile(one).read().decode() for one in tar}
        return {name.replace(f"files{root}", "files"): text for name, text in texts.items()}, {
            entry["file"]: entry for entry in entries
        }

    return make


@pytest.fixture(autouse=True)
def without_nvml(monkeypatch):
    """The facts come from what stands in for nvidia-smi."""
    monkeypatch.setattr(_gpu._gpu_nvml, "available", lambda: False)


@pytest.fixture
def processes(monkeypatch):
    """This process is one of the unit's."""
    monkeypatch.setattr(_support_sources, "systemd_unit", lambda _pid: UNIT)


def test_no_planted_secret_is_in_the_archive(unpacked, processes, tmp_path):
    argv = [sys.executable, "-c", "import time; time.sleep(60)", "--api-key", ARGUMENT, f"--url=http://u:{PROXY}@h"]
    # Were it hidden in what is already JSON, this one's answer would take the sign that ends it.
    argv += [f'text = "{PROMPT}', "prompt: "]
    with subprocess.Popen(argv) as engine:
        try:
            texts, entries = unpacked(FILES, PROGRAMS, source_seconds=2)
        finally:
            engine.kill()
    for name, text in texts.items():
        for canary in CANARIES:
            assert canary not in text, name
            assert canary not in name
    # That they were hidden, and not that nothing was read.
    assert texts["files/etc/llmfleet/llmfleet-r1.env"].count("(hidden)") == 3
    assert 'OTHER="1"' in texts["files/etc/llmfleet/llmfleet-r1.env"]
    assert "insecure-password (hidden)" in texts["files/etc/llmfleet/edge/edge.cfg"]
    assert "prompt: (hidden), params: 1" in texts[f"journal/{UNIT}.txt"]
    assert "said (hidden) just so" in texts[f"journal/{UNIT}.txt"]
    assert "--api-key (hidden) --port 8000" in texts["units/files.txt"]
    (argv,) = [one["argv"] for one in json.loads(texts["processes/units.json"]) if one["pid"] == engine.pid]
    assert argv[3:6] == ["--api-key", "(hidden)", "--url=http://(hidden)@h"]
    assert argv[6].startswith("text = ")
    assert argv[7:] == ["prompt:(hidden)"]
    assert texts["kernel/journal.txt"].count("\n") == 1
    assert "fallen off the bus" in texts["kernel/journal.txt"]
    assert "nvidia-smi\t550" in texts["packages/dpkg.txt"]
    assert "0.5.11" in texts["packages/engines.txt"]
    (gpu,) = json.loads(texts["pci/devices.json"])
    assert (gpu["address"], gpu["device"], gpu["numa_node"]) == ("0000:18:00.0", "0x2324", "1")
    # Never read: keys, clients, what an upgrade keeps.
    assert not [
        name for name in texts if name.endswith((".key", ".key.yaml", ".pem", "keys", "clients", "pending/0", ".token"))
    ]
    # A question that hangs is told to have been ended, and the facts that needed it to have failed.
    assert entries["gpu/nvidia-smi-q.xml"]["status"] == "ended"
    assert entries["gpu/facts.json"]["status"] == "failed"
    assert "did not answer" in entries["gpu/facts.json"]["note"]
    assert entries["gpu/nvidia-smi.txt"]["status"] == "ok"
    assert entries["gate/verdict.json"]["status"] == "absent"


def test_a_host_with_nothing(unpacked):
    texts, entries = unpacked({}, {})
    assert {entry["status"] for entry in entries.values()} <= {"ok", "absent", "failed"}
    assert entries["system/dkms.txt"]["status"] == "absent"
    assert entries["gpu/nvidia-smi.txt"]["note"] == "there is no program nvidia-smi"
    assert "nvidia-smi cannot be run" in entries["gpu/facts.json"]["note"]
    assert json.loads(texts["records/models.json"]) == []
    assert not [name for name in entries if name.startswith("journal/")]


def test_the_verdict_of_the_gate(unpacked):
    options = {"options": {"profile": "h800"}}
    texts, entries = unpacked({"etc/llmfleet/gpu-gate.json": json.dumps(options)}, {})
    verdict = json.loads(texts["gate/verdict.json"])
    assert verdict["verdict"] == "fail"
    assert verdict["findings"][0]["rule"] == "driver-answers"
    assert entries["gate/verdict.json"]["status"] == "ok"


def test_options_of_the_gate_that_are_none(unpacked):
    _texts, entries = unpacked({"etc/llmfleet/gpu-gate.json": "{}"}, {})
    assert entries["gate/verdict.json"]["status"] == "failed"
    assert "is not what the role gpu_gate writes" in entries["gate/verdict.json"]["note"]


def test_links_lead_nowhere(unpacked, tmp_path):
    (tmp_path / "shadow").write_text("canary of shadow")
    files = {"etc/llmfleet/a.json": "{}"}
    (tmp_path / "root/etc/llmfleet").mkdir(parents=True)
    (tmp_path / "root/etc/llmfleet/b.json").symlink_to(tmp_path / "shadow")
    (tmp_path / "root/proc/driver/nvidia/gpus").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/information").write_text("canary of shadow")
    (tmp_path / "root/proc/driver/nvidia/gpus/0").symlink_to(tmp_path / "elsewhere")
    texts, entries = unpacked(files, {})
    assert not [text for text in texts.values() if "canary" in text]
    refused = [name for name, entry in entries.items() if entry["status"] == "refused"]
    assert [name.rpartition("/")[2] for name in refused] == ["information", "b.json"]


def test_more_files_with_secrets(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/more").write_text(f"{HUB}\n")
    assert secrets(Host(run_command, [], root=tmp_path), ["/etc/more", "/etc/none", "", "/"]) == {HUB}


def test_private_keys_among_the_files_with_secrets(tmp_path):
    """Their lines are secrets, and what frames them is what other keys are known by."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/ca.key").write_text("-----BEGIN PRIVATE KEY-----\nMIIEcanary\n-----END PRIVATE KEY-----\n")
    (tmp_path / "etc/link").symlink_to("ca.key")
    host = Host(run_command, [], root=tmp_path)
    assert secrets(host, ["/etc/ca.key"]) == secrets(host, ["/etc/link"]) == {"MIIEcanary"}
