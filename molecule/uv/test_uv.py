"""uv is on the path and makes environments with the Python that the engines need."""


def test_is_the_pinned_release(host):
    pinned = host.check_output("cat /opt/llmfleet/uv/*.txt")
    version = host.check_output("uv --version").split()[1]
    assert f"uv=={version} " in pinned


def test_makes_an_environment_for_the_engines(host):
    host.check_output("rm -rf /opt/engine && uv venv --quiet --no-python-downloads --python '>=3.12' /opt/engine")
    found = host.check_output("/opt/engine/bin/python -c 'import sys; print(sys.version_info >= (3, 12))'")
    assert found == "True"
