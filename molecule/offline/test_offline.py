"""With mirrors set, everything is there, and nothing but the mirrors was asked for."""

from testbed import offline

KNOWN = (offline.MIRROR, "llmfleet-hub")
# What no role could be after.
PROBE = "probe.example.com"


def test_everything_is_there(host):
    assert host.find_command("nvitop") == "/usr/local/bin/nvitop"
    assert host.file("/usr/local/bin/uv").linked_to == "/opt/llmfleet/uv/release-0.13.9/uv"
    assert host.file("/data/models/deepseek-r1-q4.gguf").exists
    assert host.service("ollama.service").is_running
    assert "tiny" in host.check_output("/opt/llmfleet/ollama/*/bin/ollama list")
    assert host.package("nvidia-fabricmanager-550").version.startswith("550.163.01")


def test_there_is_no_other_way(host):
    assert host.run(f"getent ahostsv4 {PROBE}").rc != 0
    assert PROBE in offline.questions()


def test_nobody_else_was_asked_for():
    # apt asks for services of its hosts too, as _https._tcp.llmfleet-mirror.
    strangers = {name for name in offline.questions() if not name.split("._tcp.")[-1].startswith(KNOWN)}
    assert strangers <= {PROBE}


def test_the_mirror_was_used():
    asked = offline.requests()
    assert any(path.startswith("/debian/dists/") for path in asked)
    assert any(path.startswith("/debian/pool/") for path in asked)
    assert any(path.startswith("/files/") for path in asked)


def test_people_on_the_host_get_the_mirror_too(host):
    assert "https://llmfleet-mirror:8443/simple" in host.check_output("/opt/llmfleet/nvitop/*/bin/pip config list")
    host.check_output("rm -rf /opt/people && uv venv --quiet --no-python-downloads --python '>=3.12' /opt/people")
    environment = "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt VIRTUAL_ENV=/opt/people"
    host.check_output(f"{environment} uv pip install --quiet nvidia-ml-py==13.615.71")
