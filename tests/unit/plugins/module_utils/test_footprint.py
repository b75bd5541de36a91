# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host is like: whatever a role could have to put right shows, and what changes by itself does not."""

from __future__ import annotations

import os
import shutil
import time

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._footprint import (
    differences,
    drift,
    footprint,
    remember,
)

FILES = {
    "etc/llmfleet/r1.env": "OLLAMA_HOST=127.0.0.1\n",
    "etc/shadow-": "old",
    "opt/llmfleet/vllm/0.32.0/bin/python": "binary",
    "opt/llmfleet/vllm/0.8.5/bin/python": "binary",
    "usr/local/bin/uv": "binary",
    "var/lib/llmfleet/previous/r1/record.json": "{}",
    "var/lib/llmfleet/watchdog/r1.json": "{}",
    "var/lib/dpkg/status": "Package: nginx\n",
    "proc/sys/kernel/random/boot_id": "1-2-3\n",
    "data/models/m.gguf": "GGUF",
}
UNITS = {"llmfleet-r1.service": "active"}
RECORD = "Id={}\nType={}\nActiveState={}\nNeedDaemonReload={}\nFragmentPath={}\n"


def unit(name="llmfleet-r1.service", kind="notify", state="active", stale="no", path="/etc/systemd/system/x"):
    return RECORD.format(name, kind, state, stale, path)


@pytest.fixture
def host(tmp_path):
    """A host's files, below a folder."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "etc/llmfleet/link").symlink_to("r1.env")
    return tmp_path


RUNNING = unit()


def look(host, units=RUNNING, status=0):
    def run(argv, **_options):
        assert argv[:2] == ["systemctl", "show"]
        return status, units, "no bus"

    return footprint(run, ["llmfleet-*"], ["/data/models"], host)


def after(host, change):
    """What is different after a change."""
    before = look(host)
    change()
    return differences(before, look(host))


def test_nothing_is_different_when_nothing_was_done(host):
    assert after(host, lambda: None) == []


def test_a_footprint_tells_no_content(host):
    assert "OLLAMA_HOST" not in str(look(host))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("etc/llmfleet/r1.env", "file /etc/llmfleet/r1.env has changed"),
        ("var/lib/llmfleet/previous/r1/record.json", "file /var/lib/llmfleet/previous/r1/record.json has changed"),
        ("opt/llmfleet/vllm/0.8.5/bin/python", "tree /opt/llmfleet/vllm/0.8.5 has changed"),
        ("usr/local/bin/uv", "tree /usr/local/bin/uv has changed"),
        ("data/models/m.gguf", "tree /data/models/m.gguf has changed"),
        ("var/lib/dpkg/status", "host packages has changed"),
        ("proc/sys/kernel/random/boot_id", "host /proc/sys/kernel/random/boot_id has changed"),
    ],
)
def test_changed_content(host, name, told):
    assert after(host, lambda: (host / name).write_text("another")) == [told]


@pytest.mark.parametrize(
    "name", ["etc/llmfleet/r1.env", "opt/llmfleet/vllm/0.8.5/bin/python", "usr/local/bin/uv", "etc/llmfleet"]
)
def test_a_changed_mode(host, name):
    assert len(after(host, lambda: (host / name).chmod(0o700))) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("name", ["etc/llmfleet/r1.env", "usr/local/bin/uv"])
def test_a_changed_owner(host, name):
    assert len(after(host, lambda: os.chown(host / name, 1, 1))) == 1


def test_what_is_new_and_what_is_gone(host):
    def change():
        (host / "etc/llmfleet/r1.env").unlink()
        (host / "etc/new").write_text("")
        (host / "etc/llmfleet/link").unlink()
        (host / "etc/llmfleet/link").symlink_to("elsewhere")

    assert after(host, change) == [
        "file /etc/llmfleet/link has changed",
        "file /etc/llmfleet/r1.env is gone",
        "file /etc/new is new",
    ]


@pytest.mark.parametrize("name", ["etc/shadow-", "var/lib/llmfleet/watchdog/r1.json"])
def test_what_changes_by_itself_is_no_difference(host, name):
    assert after(host, lambda: (host / name).write_text("another")) == []


def test_the_watchdogs_notes_come_after_the_first_run(host):
    before = look(host)
    shutil.rmtree(host / "var/lib/llmfleet/watchdog")
    assert differences(look(host), before) == []


def test_a_large_file_counts_by_size_and_time(host):
    large = host / "etc/large"
    large.write_bytes(bytes(2 << 20))
    assert after(host, lambda: os.utime(large, (1, 1))) == ["file /etc/large has changed"]


def test_a_link_is_not_followed(host):
    (host / "etc/loop").symlink_to(host / "etc")
    assert not [name for name in look(host) if name.startswith("file /etc/loop/")]


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (unit(state="failed"), "unit llmfleet-r1.service was active, is failed"),
        (unit(state="activating"), "unit llmfleet-r1.service was active, is activating"),
        (unit(stale="yes"), "unit llmfleet-r1.service was active, is active, not as its file is now"),
        (unit(state="inactive"), "unit llmfleet-r1.service was active, is inactive"),
        ("", "unit llmfleet-r1.service was active, is inactive"),
    ],
)
def test_units(host, now, told):
    assert differences(look(host), look(host, now)) == [told]


@pytest.mark.parametrize(
    "passing",
    [
        unit("llmfleet-watch.service", "oneshot", "activating"),
        unit("llmfleet-watch.service", "oneshot", "inactive"),
        unit("llmfleet-peers.service", path="/run/systemd/system/llmfleet-peers.service"),
    ],
)
def test_units_that_come_and_go_are_no_difference(host, passing):
    assert differences(look(host), look(host, f"{RUNNING}\n{passing}")) == []


def test_a_unit_that_is_to_stay_after_its_end(host):
    ready = unit("llmfleet-gpu-ready.service", "oneshot", "active")
    assert differences(look(host, ready), look(host, "")) == ["unit llmfleet-gpu-ready.service was active, is inactive"]


def test_a_host_without_systemd(host):
    with pytest.raises(LlmError, match="systemctl cannot tell of the units: no bus"):
        look(host, status=1)


def test_packages_of_rpm(tmp_path):
    def run(argv, **_options):
        return 0, "b-1 2\na-1 1\n" if argv[0] == "rpm" else "", ""

    assert len(footprint(run, [], [], tmp_path)["host packages"]) == 64


def test_rpm_that_fails(tmp_path):
    with pytest.raises(LlmError, match="rpm cannot list the packages: no database"):
        footprint(lambda _argv, **_options: (1, "", "no database"), [], [], tmp_path)


# --- The record


def test_a_host_without_a_record(tmp_path):
    assert drift(tmp_path / "r.json", "x", {}, 10) == ["no run has come to its end on this host"]


def test_a_record(tmp_path):
    path = tmp_path / "deep" / "r.json"
    assert remember(path, "x", {"file /a": "1"})
    assert path.stat().st_mode & 0o777 == 0o600
    assert drift(path, "x", {"file /a": "1"}, 10) == []
    assert drift(path, "x", {"file /a": "2"}, 10) == ["file /a has changed"]
    assert drift(path, "y", {"file /a": "1"}, 10) == ["what is wanted of the host has changed"]


def test_an_old_record_counts_again_when_it_is_confirmed(tmp_path):
    path = tmp_path / "r.json"
    remember(path, "x", {})
    os.utime(path, (time.time() - 3 * 86400,) * 2)
    assert drift(path, "x", {}, 86400) == ["the last run that looked at everything was 3.0 days ago"]
    assert not remember(path, "x", {}, dry=True)
    assert drift(path, "x", {}, 86400) != []
    assert not remember(path, "x", {})
    assert drift(path, "x", {}, 86400) == []


def test_no_record_counts_for_no_days(tmp_path):
    remember(tmp_path / "r.json", "x", {})
    assert len(drift(tmp_path / "r.json", "x", {}, 0)) == 1


def test_a_record_of_the_future(tmp_path):
    remember(tmp_path / "r.json", "x", {})
    os.utime(tmp_path / "r.json", (time.time() + 3600,) * 2)
    assert len(drift(tmp_path / "r.json", "x", {}, 86400)) == 1


@pytest.mark.parametrize("text", ['{"schema": 0}', '{"schema": 2, "footprint": {}}'])
def test_a_record_of_another_version(tmp_path, text):
    (tmp_path / "r.json").write_text(text)
    assert drift(tmp_path / "r.json", "x", {}, 10) == ["another version has written the record"]


def test_a_record_that_is_none(tmp_path):
    (tmp_path / "r.json").write_text("{half")
    assert len(drift(tmp_path / "r.json", "x", {}, 10)) == 1


def test_a_dry_run_writes_nothing(tmp_path):
    assert remember(tmp_path / "r.json", "x", {}, dry=True)
    assert list(tmp_path.iterdir()) == []
