"""llama.cpp's packaged programs are on the path, and answer."""

import pytest


@pytest.mark.parametrize("name", ["llama-server", "llama-cli", "llama-quantize", "llama-gguf-split"])
def test_is_on_the_path(host, name):
    assert host.find_command(name) == f"/usr/bin/{name}"


def test_server_says_its_version(host):
    assert "version:" in host.run("llama-server --version").stderr


def test_leaves_a_finished_file_alone(host):
    refused = host.run("llama-gguf-split --merge /usr/bin/llama-server /dev/null")
    assert refused.rc != 0
