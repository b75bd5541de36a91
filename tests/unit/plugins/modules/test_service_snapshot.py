"""What defines a service is kept, put back to the letter, and forgotten, and a killed run loses none of it."""

from __future__ import annotations

import json

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils import _service_snapshot
from ansible_collections.llmfleet.serving.plugins.module_utils._service_snapshot import ServiceSnapshot, release_of
from ansible_collections.llmfleet.serving.plugins.modules import service_snapshot

OLD, NEW = "/opt/llmfleet/ollama/0.5.11", "/opt/llmfleet/ollama/0.34.0"


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host with one service, as `host.unit`, `host.environment` and `host.snapshot(...)`."""

    class Host:
        units = tmp_path / "units"
        unit = units / "r1.service"
        environment = tmp_path / "etc" / "r1.env"
        key = tmp_path / "etc" / "r1.key"
        root = tmp_path / "previous"

        def release(self, path):
            self.unit.write_text(f"[Service]\nExecStart={path}/bin/ollama serve\n")
            self.environment.write_text(f"RELEASE={path}\n")

        def tree(self):
            return {
                str(path): (path.read_bytes(), path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_file()
            }

    host = Host()
    for folder in (host.units, host.environment.parent):
        folder.mkdir()
    host.release(OLD)
    host.environment.chmod(0o600)
    monkeypatch.setattr(ServiceSnapshot.__init__, "__defaults__", (host.units,))
    return host


@pytest.fixture
def snapshot(host, run_module):
    def snapshot(state, **options):
        files = [str(host.environment.parent / "r1.*")]
        return run_module(service_snapshot, name="r1", files=files, root=str(host.root), state=state, **options)

    return snapshot


@pytest.mark.parametrize(
    ("line", "release"),
    [
        ("ExecStart=/opt/llmfleet/ollama/0.5.11/bin/ollama serve", OLD),
        ("ExecStart=-/opt/llmfleet/vllm/0.8.5.post1/bin/vllm serve /x", "/opt/llmfleet/vllm/0.8.5.post1"),
        ("ExecStart=/usr/bin/llama-server --port 1", "/usr/bin/llama-server"),
        ("ExecStartPre=/bin/true", ""),
    ],
)
def test_release_is_where_the_program_lies(line, release):
    assert release_of(f"[Service]\n{line}\n") == release


def test_check_real_check_real(host, snapshot):
    for state, changes in (("present", None), ("restored", NEW), ("absent", None)):
        if changes:
            host.release(changes)
        before = host.tree()
        assert snapshot(state, target=NEW, check=True)["changed"]
        assert host.tree() == before
        assert snapshot(state, target=NEW)["changed"]
        assert not snapshot(state, target=OLD, check=True)["changed"]
        assert not snapshot(state, target=OLD)["changed"]


def test_a_service_at_its_target_is_left_alone(host, snapshot):
    result = snapshot("present", target=OLD)
    assert (result["changed"], result["due"], result["pending"]) == (False, False, False)
    assert not host.root.exists()


@pytest.mark.parametrize(("target", "due"), [("0.5.11", False), ("0.5.1*", False), ("0.5.1", True), ("0.5.11-*", True)])
def test_a_target_may_be_a_pattern(snapshot, target, due):
    assert snapshot("present", target=["/nowhere", f"/opt/llmfleet/ollama/{target}"], check=True)["due"] is due


def test_files_come_back_to_the_letter_and_new_ones_go(host, snapshot):
    before = host.tree()
    result = snapshot("present", target=NEW, context={"backends": ["here"]})
    assert result["pending"]
    host.release(NEW)
    host.environment.chmod(0o644)
    host.key.write_text("of the new version")
    assert snapshot("restored", target=NEW)["release"] == OLD
    after = snapshot("absent")
    assert after["context"] == {"backends": ["here"]}
    assert host.tree() == before


def test_a_removed_file_comes_back(host, snapshot):
    snapshot("present", target=NEW)
    host.environment.unlink()
    assert snapshot("restored")["changed"]
    assert (host.environment.read_text(), host.environment.stat().st_mode & 0o777) == (f"RELEASE={OLD}\n", 0o600)


def test_links_come_back_as_links_and_new_ones_go(host, snapshot):
    """Where they lead is not kept, and need not be there."""
    folder = host.environment.parent
    (folder / "r1.moved").symlink_to("/opt/b4741/llama-server")
    (folder / "r1.removed").symlink_to(host.unit)
    snapshot("present", target=NEW)
    assert not snapshot("restored", check=True)["changed"]
    (folder / "r1.moved").unlink()
    (folder / "r1.moved").symlink_to("/opt/b11669/llama-server")
    (folder / "r1.removed").unlink()
    (folder / "r1.removed").write_bytes(host.unit.read_bytes())
    (folder / "r1.new").symlink_to("/opt/b11669/llama-cli")
    assert snapshot("restored")["changed"]
    assert {path.name: str(path.readlink()) for path in folder.iterdir() if path.is_symlink()} == {
        "r1.moved": "/opt/b4741/llama-server",
        "r1.removed": str(host.unit),
    }
    assert host.unit.is_file()
    assert not snapshot("restored")["changed"]


def test_the_snapshot_of_a_killed_run_is_not_overwritten(host, snapshot):
    snapshot("present", target=NEW, context={"backends": ["first"]})
    host.release(NEW)
    result = snapshot("present", target=NEW, context={"backends": []})
    assert (result["changed"], result["due"], result["context"]) == (False, True, {"backends": ["first"]})
    assert snapshot("restored")["release"] == OLD


def test_a_run_that_was_killed_while_it_kept_files_has_kept_nothing(host, snapshot, monkeypatch):
    def killed(*_arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(_service_snapshot, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            ServiceSnapshot("r1", [], host.root).take({})
    assert not snapshot("restored")["changed"]
    assert snapshot("present", target=NEW)["changed"]


def test_what_it_ran_on_before_is_known_after_a_change_and_unchanged_after_none(host, snapshot):
    snapshot("present", target=NEW)
    host.release(NEW)
    assert snapshot("absent")["previous"] == OLD
    snapshot("present", target="/opt/llmfleet/ollama/0.35.1")
    assert snapshot("absent")["previous"] == OLD


def test_nothing_of_the_files_is_left_once_it_is_settled(host, snapshot):
    host.environment.write_text("KEY=canary")
    snapshot("present", target=NEW)
    kept = [path for path in host.root.rglob("*") if path.is_file() and "canary" in path.read_text()]
    assert [path.stat().st_mode & 0o777 for path in kept] == [0o600]
    assert (host.root / "r1").stat().st_mode & 0o777 == 0o700
    snapshot("absent")
    assert not [path for path in host.root.rglob("*") if path.is_file() and "canary" in path.read_text()]


def test_a_damaged_snapshot_is_refused_and_nothing_is_written(host, snapshot):
    snapshot("present", target=NEW)
    host.release(NEW)
    manifest = json.loads((host.root / "r1" / "pending" / "manifest.json").read_text())
    (host.root / "r1" / "pending" / manifest["files"][0]["kept"]).write_text("rot")
    before = host.tree()
    result = snapshot("restored")
    assert result["failed"]
    assert "is damaged: expected sha256" in result["msg"]
    assert host.tree() == before


def test_a_service_that_is_not_there_is_refused(host, snapshot):
    host.unit.unlink()
    result = snapshot("present", target=NEW)
    assert result["failed"]
    assert "expected the unit of a service that runs here, found none" in result["msg"]
