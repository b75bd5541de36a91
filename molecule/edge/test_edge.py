"""Behind the edge an engine answers to those with a key, on the routes that are open, and can be drained.

All requests come from another container, by the host's name, over TLS that the scenario's authority vouches for.
"""

import contextlib
import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest
import yaml

HOST = "molecule-edge"
ALICE, BOB = "canary-of-alice-0123456789abcdef", "canary-of-bob-0123456789abcdef"
CAROL = "canary-of-carol-0123456789abcdef"
CHAT = "/v1/chat/completions"
QUESTION = {"model": "deepseek-r1", "stream": True, "max_tokens": 24}
QUESTION["messages"] = [{"role": "user", "content": "Why is the sky blue?"}]
HERE = Path(__file__).parent

# What runs in the other container. It reads what to ask, then a line before it sends the second half of the body.
CLIENT = """
import http.client, json, ssl, sys
ask = json.loads(sys.stdin.readline())
context = ssl.create_default_context(cadata=ask["authority"])
if ask.get("version"):
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion[ask["version"]]
edge = http.client.HTTPSConnection(ask["host"], ask["port"], context=context, timeout=120)
body = ask["body"].encode()
for turn in range(ask["times"]):
    edge.putrequest(ask["method"], ask["path"])
    for name, value in ask["headers"].items():
        edge.putheader(name, value)
    edge.endheaders()
    edge.send(body[: len(body) // 2])
    if ask["halt"]:
        print("halfway", flush=True)
        sys.stdin.readline()
    edge.send(body[len(body) // 2 :])
    answer = edge.getresponse()
    parts = []
    while part := answer.read1():
        parts.append(part.decode())
    headers = {name.lower(): value for name, value in answer.headers.items()}
    print(json.dumps({"status": answer.status, "headers": headers, "parts": parts}), flush=True)
"""


@pytest.fixture(scope="module")
def authority():
    return (Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "edge" / "ca.pem").read_text()


@pytest.fixture
def start(authority):
    """`start(method, path, key, body, ...)` begins to ask, in a process whose lines are the answers."""
    with contextlib.ExitStack() as running:

        def begin(method, path, key=ALICE, body="", port=443, times=1, halt=False, version=None, **headers):
            text = body if isinstance(body, str) else json.dumps(body)
            known = {"Content-Length": str(len(text))} if method == "POST" else {}
            known.update({"Authorization": f"Bearer {key}"} if key else {}, **headers)
            ask = {"method": method, "path": path, "headers": known, "body": text, "port": port, "times": times}
            ask.update(authority=authority, host=HOST, halt=halt, version=version)
            # Not as an argument: others see those.
            argv = ["docker", "exec", "--interactive", "llmfleet-hub", "python3", "-c", CLIENT]
            process = running.enter_context(
                subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            )
            process.stdin.write(json.dumps(ask) + "\n")
            process.stdin.flush()
            return process

        yield begin


@pytest.fixture
def ask(start):
    """The answer to one request, or to the last of several."""

    def asked(*arguments, **options):
        said, error = start(*arguments, **options).communicate(timeout=180)
        assert said, error
        return json.loads(said.splitlines()[-1])

    return asked


@contextlib.contextmanager
def role(*options, **variables):
    """The role, or a part of it, with other variables, as it runs."""
    argv = [
        "ansible-playbook",
        "-i",
        HERE.parent / "inventory",
        "-e",
        json.dumps(variables),
        *options,
        HERE / "role.yml",
    ]
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml"}
    with subprocess.Popen(
        list(map(str, argv)), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        yield process


def run_role(*options, **variables):
    with role(*options, **variables) as process:
        said, _none = process.communicate(timeout=300)
    return process.returncode, " ".join(said.split())


def eventually(question, expected):
    deadline = time.monotonic() + 60
    while (found := question()) != expected and time.monotonic() < deadline:
        time.sleep(0.5)
    assert found == expected


@pytest.fixture
def rested(host):
    """Nobody has asked anything in the last minute, for what HAProxy counts ends with it."""
    host.check_output("systemctl restart haproxy.service")


def test_answers_stream_through_tls_to_a_right_key(ask):
    # For a second or so: what comes within milliseconds, a busy client reads at once.
    answer = ask("POST", CHAT, body={**QUESTION, "max_tokens": 1000})
    assert answer["status"] == 200
    assert len(answer["parts"]) > 1
    assert "data: [DONE]" in answer["parts"][-1]


@pytest.mark.parametrize("key", [None, "wrong", "", ALICE[:-1], f"{ALICE} {BOB}"])
@pytest.mark.parametrize("path", ["/v1/models", "/api/tags", "/metrics"])
def test_nothing_is_told_without_a_right_key(ask, key, path):
    answer = ask("GET", path, key)
    assert answer["status"] == 401
    assert answer["headers"]["www-authenticate"] == "Bearer"


def test_openai_routes_are_open_on_both_services(ask):
    for port in (443, 8443):
        assert "deepseek-r1" in ask("GET", "/v1/models", port=port)["parts"][0]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/create"),
        ("POST", "/api/pull"),
        ("POST", "/api/push"),
        ("POST", "/api/copy"),
        ("DELETE", "/api/delete"),
        ("POST", "/api/blobs/sha256:00"),
        ("POST", "/invocations"),
        ("POST", "/tokenize"),
        ("POST", "/v1/../api/pull"),
        ("POST", "//api/pull"),
        ("POST", "/api/pull?/v1/models"),
        ("POST", "/v1/models"),
        ("GET", "/metrics"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", CHAT),
        ("GET", "/"),
    ],
)
def test_every_other_route_is_closed_to_a_right_key(ask, method, path):
    assert ask(method, path)["status"] == 404


@pytest.mark.parametrize("path", ["/metrics/edge", "/metrics/node"])
def test_metrics_are_closed_to_those_who_ask_questions(ask, path):
    assert ask("GET", path)["status"] == 404


def test_metrics_are_all_that_is_open_to_those_who_read_them(ask):
    answer = ask("GET", "/metrics/edge?scope=backend", CAROL)
    assert answer["status"] == 200
    assert 'haproxy_backend_http_responses_total{proxy="deepseek-r1",code="2xx"}' in "".join(answer["parts"])
    # Of the exporter itself, asked for /metrics without anybody's key.
    assert ask("GET", "/metrics/node", CAROL)["parts"] == ["404 page not found"]
    for method, path in (("GET", "/metrics"), ("GET", "/v1/models"), ("POST", CHAT), ("POST", "/metrics/edge")):
        assert "no such route" in ask(method, path, CAROL)["parts"][0]


def test_ollamas_own_routes_are_open_where_that_was_asked_for(ask):
    assert ask("GET", "/api/tags")["status"] == 200
    assert ask("GET", "/api/tags", port=8443)["status"] == 404


def test_bodies_have_a_limit_and_a_length(ask):
    assert ask("POST", CHAT, body="0" * 100001)["status"] == 413
    assert ask("POST", CHAT, body="0" * 100000)["status"] == 400  # the engine's answer
    assert ask("POST", CHAT, body="", **{"Transfer-Encoding": "chunked"})["status"] in {400, 411}


def test_a_client_that_asks_too_often_waits_and_others_do_not(ask):
    assert ask("GET", "/v1/models", BOB, times=200)["status"] == 200
    answer = ask("GET", "/v1/models", BOB)
    assert answer["status"] == 429
    assert answer["headers"]["retry-after"] == "10"
    assert ask("GET", "/v1/models", ALICE)["status"] == 200


def test_a_client_has_so_many_requests_running(ask, start, rested):
    halves = [start("POST", CHAT, body=QUESTION, halt=True) for _dummy in range(4)]
    assert [half.stdout.readline() for half in halves] == ["halfway\n"] * 4
    eventually(lambda: ask("GET", "/v1/models")["status"], 429)
    assert ask("GET", "/v1/models")["headers"]["retry-after"] == "1"
    assert ask("GET", "/v1/models", BOB)["status"] == 200
    for half in halves:
        said, _none = half.communicate("on\n", timeout=180)
        assert json.loads(said)["status"] == 200


def test_health_needs_no_key(ask):
    assert ask("GET", "/healthz", None)["status"] == 200


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
def test_old_tls_is_refused(start, version):
    said, error = start("GET", "/healthz", version=version).communicate(timeout=60)
    assert not said
    assert "SSLError" in error or "ssl." in error


def test_engine_is_out_of_reach_and_the_edge_is_not():
    connect = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)"
    argv = ["docker", "exec", "llmfleet-hub", "python3", "-c", connect, HOST]
    assert subprocess.run([*argv, "443"], check=False).returncode == 0
    refused = subprocess.run([*argv, "11434"], capture_output=True, text=True, check=False)
    assert "ConnectionRefusedError" in refused.stderr


def test_drain_waits_for_a_request_and_lasts_until_it_is_undone(ask, start, host):
    backend = {"edge_service": "deepseek-r1", "edge_backend": "here"}
    running = start("POST", CHAT, body=QUESTION, halt=True)
    assert running.stdout.readline() == "halfway\n"
    with role(part="drain", **backend) as drain:
        eventually(lambda: ask("GET", "/v1/models")["status"], 503)
        assert drain.poll() is None
        host.check_output("systemctl reload haproxy.service")
        assert drain.poll() is None
        said, _none = running.communicate("on\n", timeout=180)
        answer = json.loads(said)
        assert answer["status"] == 200
        assert "data: [DONE]" in answer["parts"][-1]
        output, _none = drain.communicate(timeout=180)
        assert drain.returncode == 0, output
    # The backend that is down is taken to be up until the first check after a reload.
    eventually(lambda: ask("GET", "/healthz", None)["status"], 503)
    host.check_output("systemctl restart haproxy.service")
    eventually(lambda: ask("GET", "/healthz", None)["status"], 503)
    assert ask("GET", "/v1/models")["status"] == 503
    assert ask("GET", "/v1/models", port=8443)["status"] == 200
    assert "changed=0" in run_role(part="drain", **backend)[1]
    for options, changed in ((["--check"], 1), ([], 1), (["--check"], 0), ([], 0)):
        assert f"changed={changed}" in run_role(*options, part="undrain", **backend)[1]
    eventually(lambda: ask("GET", "/v1/models")["status"], 200)


def test_drain_gives_up_in_time_and_says_what_is_running(start, rested):
    running = start("POST", CHAT, body=QUESTION, port=8443, halt=True)
    assert running.stdout.readline() == "halfway\n"
    status, said = run_role(part="drain", edge_service="plain", edge_backend="here", edge_drain_timeout=1)
    assert status != 0
    assert "plain/here: expected its requests to end within 1 s, found 1 running" in said
    running.communicate("on\n", timeout=180)
    assert "changed=1" in run_role(part="undrain", edge_service="plain", edge_backend="here")[1]


def test_drain_of_an_unknown_backend_is_refused():
    status, said = run_role(part="drain", edge_service="deepseek-r1", edge_backend="elsewhere")
    assert status != 0
    assert "expected one that the edge has, found deepseek-r1/down, deepseek-r1/here, plain/here" in said


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"edge_tls": "given", "edge_certificate": "{{ bed_edge }}/ca.pem"}, "as its key, found others"),
        ({"edge_services": [{"name": "x", "engine": "vllm", "backends": "{{ bed_unknown }}"}]}, "could not resolve"),
    ],
)
def test_what_the_proxy_would_not_take_leaves_the_old(host, ask, wrong, reason):
    key = {"edge_certificate_key": f"{os.environ['MOLECULE_EPHEMERAL_DIRECTORY']}/edge/other.key"}
    subprocess.run(["openssl", "genrsa", "-out", key["edge_certificate_key"], "2048"], check=True, capture_output=True)
    before = host.check_output("cd /etc/llmfleet/edge && sha256sum edge.cfg server.pem")
    unknown = [{"name": "nowhere", "address": "nowhere.invalid", "port": 8000}]
    status, said = run_role(bed_unknown=unknown, **key, **wrong)
    assert status != 0
    assert reason in said
    assert host.check_output("cd /etc/llmfleet/edge && sha256sum edge.cfg server.pem") == before
    assert ask("GET", "/v1/models")["status"] == 200


def changes(said):
    return re.findall(r"changed=(\d+)", said)


def test_check_mode_of_an_engine_whose_key_is_yet_to_be_made(host):
    key = "/etc/llmfleet/llmfleet-later.key"
    later = {"name": "later", "engine": "vllm", "port": 9443, "key_file": key}
    later["backends"] = [{"name": "here", "address": "127.0.0.1", "port": 8001}]
    services = [*yaml.safe_load((HERE / "vars.yml").read_text())["edge_services"], later]
    try:
        status, predicted = run_role("--check", edge_services=services)
        assert status == 0, predicted
        # Outside of check mode a key that is not there is a failure, and nothing is written.
        before = host.check_output("cd /etc/llmfleet/edge && sha256sum edge.cfg keys")
        assert run_role(edge_services=services)[0] != 0
        assert host.check_output("cd /etc/llmfleet/edge && sha256sum edge.cfg keys") == before

        host.check_output(f"umask 077; echo canary-of-later > {key}")
        status, said = run_role(edge_services=services)
        assert status == 0, said
        assert changes(said) == changes(predicted) != ["0"]
        assert host.check_output("tail -n 1 /etc/llmfleet/edge/keys") == "later canary-of-later"
        assert changes(run_role(edge_services=services)[1]) == ["0"]

        # A key that is gone shows as a change too, and not as one that stays.
        host.check_output(f"rm {key}")
        assert changes(run_role("--check", edge_services=services)[1]) != ["0"]
    finally:
        host.check_output(f"rm -f {key}")
        status, said = run_role()
        assert status == 0, said


def test_clients_are_logged_by_name(host, ask):
    ask("GET", "/v1/models?canary-in-the-query")
    journal = host.check_output("journalctl --unit=haproxy.service --output=cat")
    assert "client=alice" in journal
    assert "path=/v1/models status=200" in journal
    assert "canary-in-the-query" not in journal


def test_no_key_is_anywhere_on_the_host(host, ask):
    ask("POST", CHAT, "canary-of-nobody", body=QUESTION)
    assert host.run("grep -rl canary-o[f]- /etc /opt /root /run /srv /tmp /var /usr/local").stdout == ""
    assert host.run("journalctl | grep canary-o[f]-").stdout == ""
    assert host.run("cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | grep -a canary-o[f]-").stdout == ""


def test_unit_is_hardened_and_nothing_of_it_is_root(host):
    # The threshold is the exposure score times ten.
    assert host.run("systemd-analyze security --threshold=20 haproxy.service").rc == 0
    assert set(host.check_output("ps -C haproxy -o user=").split()) == {"haproxy"}
    assert host.service("haproxy.service").is_enabled
    assert host.run("runuser -u nobody -- cat /etc/llmfleet/edge/clients").rc != 0
