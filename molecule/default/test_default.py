"""One run of site.yml makes of a bare host one that answers."""

import json

UNIT = "llmfleet-deepseek-r1.service"
MODEL = "/data/models/deepseek-r1-q4.gguf"


def test_service_runs_and_starts_at_boot(host):
    assert host.service(UNIT).is_running
    assert host.service(UNIT).is_enabled


def test_service_serves_the_model_of_the_store(host):
    record = json.loads(host.file("/data/models/.deepseek-r1-q4.gguf.llmfleet.json").content_string)
    blob = host.file(f"/data/llmfleet-deepseek-r1/models/blobs/sha256-{record['sha256']}")
    assert blob.exists
    assert host.check_output(f"stat --format=%i {MODEL}") == host.check_output(f"stat --format=%i {blob.path}")


def test_service_answers_after_a_restart(host):
    host.check_output(f"systemctl restart {UNIT}")
    answer = host.check_output("/opt/llmfleet/ollama/0.5.11/bin/ollama run deepseek-r1 'Why is the sky blue?'")
    assert len(answer.split()) > 8


def test_tools_are_there(host):
    for tool in ("nvitop", "uv"):
        assert host.file(f"/usr/local/bin/{tool}").is_symlink
