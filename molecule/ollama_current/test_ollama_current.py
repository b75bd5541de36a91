"""The newest supported Ollama, which runs models in another process, keeps the same promises."""

MODEL = "/data/models/deepseek-r1-q4.gguf"


def test_runs_the_pinned_release(host):
    assert host.service("ollama.service").is_running
    assert "0.34.0" in host.check_output("/opt/llmfleet/ollama/0.34.0/bin/ollama --version")


def test_model_is_linked_and_not_copied(host):
    blobs = host.check_output("find /data/ollama/models/blobs -size +1M -printf '%i %n '").split()
    inode = host.check_output(f"stat --format=%i {MODEL}")
    assert blobs == [inode, "2"]


def test_model_answers_inside_the_hardened_unit(host):
    assert host.run("systemd-analyze security --threshold=20 ollama.service").rc == 0
    answer = host.check_output("/opt/llmfleet/ollama/0.34.0/bin/ollama run tiny 'Why is the sky blue?'")
    assert len(answer.split()) > 8
