"""llama.cpp's programs are built from the pinned archive, stand alone, and work."""

import pytest

RELEASE = "/opt/llmfleet/llama_cpp/llama-cpp-python-0.3.7"
PROGRAMS = ["llama-gguf-split", "llama-quantize", "llama-server"]


@pytest.mark.parametrize("name", PROGRAMS)
def test_is_on_the_path(host, name):
    assert host.file(host.find_command(name)).linked_to == f"{RELEASE}/build/bin/{name}"


@pytest.mark.parametrize("name", PROGRAMS)
def test_needs_no_library_of_its_own(host, name):
    libraries = host.check_output(f"ldd {RELEASE}/build/bin/{name}")
    assert not [line for line in libraries.splitlines() if "llama" in line or "ggml" in line]


def test_server_says_what_built_it(host):
    assert "built with" in host.run("llama-server --version").stderr


def test_splits_and_merges_a_model(host):
    host.check_output("python3 /dev/stdin <<'END'\n" + TINY_GGUF + "\nEND")
    host.check_output(
        "cd /tmp && rm -f split-* merged.gguf && llama-gguf-split --split --split-max-tensors 1 tiny.gguf split"
    )
    host.check_output("cd /tmp && llama-gguf-split --merge split-00001-of-00002.gguf merged.gguf")
    assert int(host.check_output("stat --format=%s /tmp/merged.gguf")) > 2 * 4 * 32


# Two tensors of 32 numbers each.
TINY_GGUF = """
import struct
text = lambda s: struct.pack('<Q', len(s)) + s.encode()
tensor = lambda name, at: text(name) + struct.pack('<IQIQ', 1, 32, 0, at)
head = b'GGUF' + struct.pack('<IQQ', 3, 2, 1) + text('general.architecture') + struct.pack('<I', 8) + text('llama')
head += tensor('one', 0) + tensor('two', 128)
open('/tmp/tiny.gguf', 'wb').write(head + bytes(-len(head) % 32) + bytes(256))
"""
