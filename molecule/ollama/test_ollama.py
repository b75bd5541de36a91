"""Ollama runs as a service that a platform team would sign for, and its model costs no space."""

UNIT = "ollama.service"
MODEL = "/data/models/deepseek-r1-q4.gguf"


def test_runs_the_pinned_release(host):
    assert host.service(UNIT).is_running
    assert host.service(UNIT).is_enabled
    assert "0.5.11" in host.check_output("/opt/llmfleet/ollama/0.5.11/bin/ollama --version")


def test_listens_on_loopback_only(host):
    listening = host.check_output("ss --no-header --listening --tcp --numeric")
    assert [line.split()[3] for line in listening.splitlines() if ":11434" in line] == ["127.0.0.1:11434"]


def test_unit_is_hardened(host):
    # The threshold is the exposure score times ten.
    assert host.run(f"systemd-analyze security --threshold=20 {UNIT}").rc == 0


def test_environment_is_for_root_only(host):
    environment = host.file("/etc/llmfleet/ollama.env")
    assert (environment.user, environment.mode) == ("root", 0o600)


def test_model_is_linked_and_not_copied(host):
    blobs = host.check_output("find /data/ollama/models/blobs -size +1M -printf '%i %n '").split()
    inode = host.check_output(f"stat --format=%i {MODEL}")
    assert blobs == [inode, "2"]


def test_model_answers(host):
    answer = host.check_output("/opt/llmfleet/ollama/0.5.11/bin/ollama run tiny 'Why is the sky blue?'")
    assert len(answer.split()) > 8
