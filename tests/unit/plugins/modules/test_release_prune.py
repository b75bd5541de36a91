"""Environments that nothing names go; those in use and those before stay."""

from __future__ import annotations

import json

import pytest

from ansible_collections.llmfleet.serving.plugins.modules import release_prune


@pytest.fixture
def prune(tmp_path, run_module):
    """`prune()` on a host with four releases of Ollama, of which two are of use, and one of another engine."""
    root, units, snapshots, programs = (tmp_path / name for name in ("opt", "units", "previous", "bin"))
    for release in ("ollama/0.5.1", "ollama/0.5.11", "ollama/0.34.0", "ollama/0.34.0-rc1", "vllm/0.8.5"):
        (root / release / "bin").mkdir(parents=True)
    (units / "r1.service.d").mkdir(parents=True)
    (units / "r1.service").write_text(f"ExecStart={root}/ollama/0.34.0/bin/ollama serve\n")
    (snapshots / "r1").mkdir(parents=True)
    (snapshots / "r1" / "record.json").write_text(json.dumps({"release": f"{root}/ollama/0.5.11"}))
    programs.mkdir()

    def prune(**options):
        folders = {"root": root, "units": units, "snapshots": snapshots, "programs": programs}
        paths = {name: str(path) for name, path in folders.items()}
        result = run_module(release_prune, **paths, **{"engines": ["ollama"], **options})
        return [path.rpartition("/")[2] for path in result["removed"]], result["changed"]

    prune.root, prune.units, prune.snapshots, prune.programs = root, units, snapshots, programs
    return prune


def test_check_real_check_real(prune):
    unused = ["0.34.0-rc1", "0.5.1"]
    assert prune(check=True) == (unused, True)
    assert (prune.root / "ollama" / "0.5.1").exists()
    assert prune() == (unused, True)
    assert sorted(path.name for path in (prune.root / "ollama").iterdir()) == ["0.34.0", "0.5.11"]
    assert prune(check=True) == ([], False)
    assert prune() == ([], False)


def test_other_engines_are_not_looked_at(prune):
    prune()
    assert (prune.root / "vllm" / "0.8.5").exists()


def test_what_a_drop_in_a_pending_change_or_a_link_names_stays(prune):
    (prune.units / "r1.service.d" / "x.conf").write_text(f"ExecStart={prune.root}/ollama/0.5.1/bin/ollama\n")
    assert prune() == (["0.34.0-rc1"], True)
    (prune.units / "r1.service.d" / "x.conf").unlink()
    (prune.snapshots / "r1" / "pending").mkdir()
    pending = {"release": f"{prune.root}/ollama/0.5.1"}
    (prune.snapshots / "r1" / "pending" / "manifest.json").write_text(json.dumps(pending))
    assert prune() == ([], False)
    (prune.snapshots / "r1" / "pending" / "manifest.json").unlink()
    (prune.programs / "ollama").symlink_to(prune.root / "ollama" / "0.5.1" / "bin" / "ollama")
    assert prune() == ([], False)


def test_what_is_removed_by_half_goes_with_the_next_run(prune):
    half = prune.root / "ollama" / ".0.5.0.llmfleet.old"
    half.mkdir()
    removed, _changed = prune()
    assert removed == [".0.5.0.llmfleet.old", "0.34.0-rc1", "0.5.1"]
    assert not half.exists()
