"""One run of site.yml makes of a bare host one that answers."""

import json

UNIT = "llmfleet-deepseek-r1.service"
OLLAMA = "/opt/llmfleet/ollama/0.5.11/bin/ollama"
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
    # It has started before it listens.
    host.check_output(f"timeout 120 sh -c 'until {OLLAMA} list; do sleep 0.2; done'")
    answer = host.check_output(f"{OLLAMA} run deepseek-r1 'Why is the sky blue?'")
    assert len(answer.split()) > 8


def test_tools_are_there(host):
    for tool in ("nvitop", "uv"):
        assert host.file(f"/usr/local/bin/{tool}").is_symlink


# The authority stays on the controller, and this is a client on the host itself.
CLIENT = """
import json, ssl, sys, urllib.error, urllib.request
ask = {"model": "deepseek-r1", "max_tokens": 8, "messages": [{"role": "user", "content": "Why is the sky blue?"}]}
request = urllib.request.Request("https://127.0.0.1/v1/chat/completions", json.dumps(ask).encode())
request.add_header("Content-Type", "application/json")
request.add_header("Authorization", "Bearer " + sys.argv[1])
try:
    with urllib.request.urlopen(request, context=ssl._create_unverified_context()) as answer:
        print(answer.status, json.load(answer)["usage"]["completion_tokens"])
except urllib.error.HTTPError as refusal:
    print(refusal.code)
"""


def test_clients_with_a_key_get_answers_through_the_edge(host):
    status, tokens = host.run("python3 -c %s demo", CLIENT).stdout.split()
    assert status == "200"
    assert int(tokens) > 0


def test_nobody_else_does(host):
    assert host.run("python3 -c %s other", CLIENT).stdout.strip() == "401"
