"""What systemd says of a unit, what it computes, and what it was started with."""

from __future__ import annotations

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils import _systemd
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError

SAID = """LoadState=loaded
ActiveState=active
InvocationID=4509a72289e74bb0b05658728a75084b
ActiveEnterTimestampMonotonic=5000000
NeedDaemonReload=no
Job=
Result=success
"""


def unit(said, status=0):
    return _systemd.read_unit(lambda *_args, **_options: (status, said, "no bus"), "x.service", clock=lambda: 65.0)


def test_running_unit():
    assert unit(SAID) == _systemd.Unit("active", False, "4509a72289e74bb0b05658728a75084b", 60.0, False, "success")


def test_unit_with_a_job_and_an_old_file():
    found = unit(SAID.replace("NeedDaemonReload=no", "NeedDaemonReload=yes").replace("Job=", "Job=117"))
    assert (found.job, found.reload) == (True, True)


@pytest.mark.parametrize(("said", "status"), [("LoadState=not-found\nActiveState=inactive\n", 0), ("", 1)])
def test_unknown_unit_is_an_error(said, status):
    with pytest.raises(LlmError, match=r"systemd has no unit x\.service: (no bus|not-found)"):
        unit(said, status)


@pytest.mark.parametrize(("schedstat", "seconds"), [(True, 13 * 1.5), (False, 10.5 + 11.5)])
def test_cpu_is_the_sum_of_the_units_processes(tmp_path, monkeypatch, schedstat, seconds):
    """By thread, with the waiting for a processor; by process, where the kernel does not tell."""
    units = {10: "x.service", 11: "x.service", 12: "y.service", 13: "x.service"}
    monkeypatch.setattr(_systemd, "systemd_unit", units.get)
    monkeypatch.setattr("os.sysconf", lambda _name: 100)
    for pid in (10, 11, 12):
        stat = f"{pid} (a) b (c) S 1 1 1 0 -1 0 0 0 0 0 {pid}00 50 0 0 20 0"
        for thread in range(pid - 4):
            (tmp_path / f"{pid}/task/{thread}").mkdir(parents=True)
            if schedstat:
                (tmp_path / f"{pid}/task/{thread}/schedstat").write_text("500000000 1000000000 7\n")
        (tmp_path / str(pid) / "stat").write_text(stat)
    (tmp_path / "13").mkdir()  # has just ended
    (tmp_path / "self").mkdir()
    assert _systemd.cpu_seconds("x.service", tmp_path) == seconds


def test_checksum_tells_each_change(tmp_path):
    unit_file, env = tmp_path / "unit", tmp_path / "env"
    sums = [_systemd.checksum([unit_file, env])]
    for file, text in ((unit_file, "a"), (unit_file, "b"), (env, "b"), (env, "")):
        file.write_text(text)
        sums.append(_systemd.checksum([unit_file, env]))
    assert len(set(sums)) == 4
    # A file without content is as good as none; content must not wander between files.
    assert sums[2] == sums[4]


def test_file_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(LlmError, match="Reading"):
        _systemd.checksum([tmp_path])
