"""Fleets for the tests of the report: what was recorded from one host of the test bed, many times and with troubles."""

from __future__ import annotations

import copy
import json
import typing as t
from pathlib import Path

HOST = Path(__file__).parent / "fixtures" / "report" / "host.json"
MODELS = [{"name": "deepseek-r1-q4", "repo": "unsloth/DeepSeek-R1-GGUF", "files": "DeepSeek-R1-Q4_K_M/*.gguf"}]
SERVICES = [
    {
        "name": "deepseek-r1",
        "engine": "ollama",
        "model": "deepseek-r1-q4",
        "port": 11434,
        "args": {"num_gpu": 62, "num_ctx": 8192, "api_key": "canary-3f9a1b"},
    }
]
CANARY = "canary-3f9a1b"
OPTIONS: dict[str, t.Any] = {
    "generated": "2026-11-30T02:30:00Z",
    "title": "Fleet report",
    "stack": "cuda-12.4",
}

Host = dict[str, t.Any]


def host(name: str, number: int = 1) -> Host:
    """One that is fit, with its own serial numbers and somewhat its own speed."""
    found = json.loads(HOST.read_text())
    found.update(models=MODELS, services=SERVICES)
    found["identity"].update(
        ansible_fqdn=name, ansible_product_serial=f"S{number:05d}", ansible_system_vendor="Example"
    )
    found["identity"].update(ansible_product_name="HGX H800", ansible_memtotal_mb=2064000, ansible_processor_vcpus=192)
    found["identity"]["ansible_processor"] = ["0", "GenuineIntel", "Intel(R) Xeon(R) Platinum 8468"]
    for gpu in found["gate"]["facts"]["gpus"]:
        gpu["uuid"] = f"GPU-{number:08x}-0000-4000-8000-{gpu['index']:012x}"
    found["records"]["models"][0].update(bytes=404430188519, source="https://modelscope.cn")
    for run in found["records"]["figures"]["deepseek-r1"].values():
        factor = 0.02 * (1 - 0.003 * (number % 7))
        for row in run["results"]:
            row["output_tokens_per_second"] = round(row["output_tokens_per_second"] * factor, 2)
            row["output_tokens_per_second_stream"] = round(row["output_tokens_per_second_stream"] * factor, 2)
    return found


def refused(found: Host) -> Host:
    """The same with a GPU that has had an uncorrectable error, twice."""
    broken = {
        "rule": "ecc-volatile",
        "severity": "fail",
        "expected": "no uncorrectable memory error since the driver was loaded",
    }
    rest = {"found": "2 of them", "advice": "Reset the GPU or reboot, then test its memory.", "source": "NVIDIA"}
    found["gate"]["verdict"] = "fail"
    found["gate"]["findings"] += [{**broken, **rest, "gpu": gpu} for gpu in (2, 5)]
    next(rule for rule in found["gate"]["rules"] if rule["rule"] == "ecc-volatile")["outcome"] = "fail"
    return found


def stopped(found: Host) -> Host:
    """The same with a service that has failed."""
    found["records"]["units"][0].update(state="failed (failed)", result="exit-code", restarts=5)
    return found


def silent(_found: Host) -> Host:
    """A host that does not answer."""
    return {
        "models": MODELS,
        "services": SERVICES,
        "unreachable": True,
        "msg": "Failed to connect to the host via ssh: connect to host port 22: No route to host",
    }


def fit(found: Host) -> Host:
    """The same without its warnings."""
    found["gate"]["findings"] = []
    for rule in found["gate"]["rules"]:
        rule["outcome"] = "pass" if rule["outcome"] == "warn" else rule["outcome"]
    return found


def fleet(size: int) -> dict[str, Host]:
    """So many hosts: mostly fit ones, and from three on some of each trouble."""
    troubles = {3: silent, 7: refused, 12: stopped, 40: silent} if size > 2 else {}
    names = [f"gpu{number:02d}" for number in range(1, size + 1)]
    hosts = {name: host(name, number) for number, name in enumerate(names, 1)}
    for number, name in enumerate(names, 1):
        change = troubles.get(number) or (fit if number % 5 else None)
        hosts[name] = change(hosts[name]) if change else hosts[name]
    return copy.deepcopy(hosts)
