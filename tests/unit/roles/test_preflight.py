"""Each check of the role preflight fires, alone and with all others, and says what to do."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

try:
    from ansible.template import trust_as_template
except ImportError:  # ansible-core before 2.19 trusts every template

    def trust_as_template(value: str) -> str:
        return value


ROLE = Path(__file__).parents[3] / "roles" / "preflight"
FIT_FACTS = {
    "distribution": "Ubuntu",
    "distribution_version": "22.04",
    "architecture": "x86_64",
    "service_mgr": "systemd",
    "python_version": "3.10.12",
    "memtotal_mb": 2_000_000,
}
FIT = {
    "preflight_memory_min": 64,
    "preflight_models": [{"name": "big", "repo": "acme/big", "revision": "0" * 40}, {"name": "old", "state": "absent"}],
    "preflight_services": [{"name": "one", "model": "big", "port": 1}, {"name": "two", "model": "big", "port": 2}],
}
UNFIT = {
    "Operating system: expected Debian 12 or Ubuntu 22.04": {"distribution_version": "20.04"},
    "Architecture: expected x86_64, found aarch64": {"architecture": "aarch64"},
    "Service manager: expected systemd, found openrc": {"service_mgr": "openrc"},
    "Python: expected 3.9 or newer, found 3.8.10": {"python_version": "3.8.10"},
    "Memory: expected 64 GiB or more, found 62.5 GiB": {"memtotal_mb": 64_000},
    "Services: each model must be one of the described models, found unknown none": {
        "preflight_services": [{"model": "none", "port": 1}]
    },
    "Models: each must name its repo and its revision, found none for big": {"preflight_models": [{"name": "big"}]},
    "Services: each must have a port of its own, found 1, 1": {
        "preflight_services": [{"model": "big", "port": 1}, {"model": "big", "port": 1}]
    },
}


def trusted(value: t.Any) -> t.Any:
    if isinstance(value, list):
        return [trusted(item) for item in value]
    return trust_as_template(value) if isinstance(value, str) else value


def failures(**changes: t.Any) -> list[str]:
    facts = {**FIT_FACTS, **{name: value for name, value in changes.items() if name in FIT_FACTS}}
    options = {**FIT, **{name: value for name, value in changes.items() if name in FIT}}
    role = {name: trusted(value) for name, value in yaml.safe_load((ROLE / "vars/main.yml").read_text()).items()}
    templar = Templar(loader=DataLoader(), variables={**role, **options, "ansible_facts": facts})
    return list(templar.template(trust_as_template("{{ __preflight_failures }}")))


@pytest.mark.parametrize(
    ("distribution", "version"), [("Ubuntu", "22.04"), ("Ubuntu", "24.04"), ("Debian", "12"), ("Debian", "13.2")]
)
def test_a_fit_host_passes(distribution, version):
    assert failures(distribution=distribution, distribution_version=version) == []


def test_debian_testing_has_no_number_and_passes():
    assert failures(distribution="Debian", distribution_version="forky/sid") == []


def test_another_system_is_refused():
    assert failures(distribution="CentOS", distribution_version="9")[0].endswith(
        "found CentOS 9. Install one of these."
    )


@pytest.mark.parametrize(("reason", "change"), UNFIT.items(), ids=[reason.split(":")[0] for reason in UNFIT])
def test_each_reason_is_told(reason, change):
    found = failures(**change)
    assert len(found) == 1
    assert found[0].startswith(reason)
    assert found[0].endswith(".")


def test_all_reasons_come_at_once():
    change: dict[str, t.Any] = {}
    for each in UNFIT.values():
        change.update(each)
    # Two of them are about the services.
    change["preflight_services"] = [{"model": "none", "port": 1}, {"model": "none", "port": 1}]
    assert len(failures(**change)) == len(UNFIT)
