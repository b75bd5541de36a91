# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.llmfleet.serving.plugins.module_utils import _sha256
from ansible_collections.llmfleet.serving.plugins.module_utils._sha256 import Sha256

needs_libcrypto = pytest.mark.skipif(_sha256._libcrypto is None, reason="this Python has no libcrypto of its own")


@pytest.fixture(params=["libcrypto", "hashlib"])
def kind(request, monkeypatch):
    """The sums must be the same whoever computes them."""
    if request.param == "hashlib":
        monkeypatch.setattr(_sha256, "_libcrypto", None)
    elif _sha256._libcrypto is None:
        pytest.skip("this Python has no libcrypto of its own")
    return request.param


@pytest.mark.parametrize("sizes", [[], [0], [1], [55, 1, 8], [64, 64], [63, 2, 1 << 20], [3_000_001]])
def test_the_sum_is_that_of_hashlib(kind, sizes):
    ours, theirs = Sha256(b"head"), hashlib.sha256(b"head")
    for number, size in enumerate(sizes):
        data = bytes([number + 1]) * size
        ours.update(data)
        theirs.update(data)
        assert ours.hexdigest() == theirs.hexdigest()


def test_views_are_taken_as_bytes_are(kind):
    buffer = bytearray(range(256)) * 16
    ours = Sha256()
    ours.update(memoryview(buffer)[100:3000])
    assert ours.hexdigest() == hashlib.sha256(bytes(buffer[100:3000])).hexdigest()


def test_a_copy_goes_its_own_way(kind):
    first = Sha256(b"a")
    second = first.copy()
    first.update(b"b")
    second.update(b"c")
    assert (first.hexdigest(), second.hexdigest()) == (
        hashlib.sha256(b"ab").hexdigest(),
        hashlib.sha256(b"ac").hexdigest(),
    )


@needs_libcrypto
@settings(deadline=None)
@given(data=st.binary(max_size=400), cut=st.integers(0, 400))
def test_a_sum_goes_on_from_its_state(data, cut):
    state = Sha256(data[:cut]).state()
    resumed = Sha256.resumed(state)
    resumed.update(data[cut:])
    assert resumed.hexdigest() == hashlib.sha256(data).hexdigest()


@needs_libcrypto
def test_another_process_goes_on():
    script = (
        f"from {_sha256.__name__} import Sha256; import sys\n"
        "sum_ = Sha256.resumed(bytes.fromhex(sys.argv[1])); sum_.update(b'second'); print(sum_.hexdigest())"
    )
    state = Sha256(b"first").state().hex()
    done = subprocess.run([sys.executable, "-c", script, state], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hashlib.sha256(b"firstsecond").hexdigest()


@needs_libcrypto
@pytest.mark.parametrize("state", [b"", b"short", bytes(113)])
def test_what_is_no_state_is_not_taken(state):
    assert Sha256.resumed(state) is None


def test_without_libcrypto_there_is_no_state(monkeypatch):
    state = Sha256(b"x").state()
    monkeypatch.setattr(_sha256, "_libcrypto", None)
    assert Sha256(b"x").state() is None
    assert Sha256.resumed(state or bytes(112)) is None


@needs_libcrypto
def test_a_libcrypto_that_computes_otherwise_is_found_out(monkeypatch):
    """Such as one whose structure is laid out in another way: its state is then not all of it."""
    assert _sha256._works()
    monkeypatch.setattr(_sha256, "_STATE_BYTES", 100)
    assert not _sha256._works()


@pytest.mark.parametrize("missing", ["no __file__", "no functions"])
def test_a_python_without_libcrypto_is_none_the_worse(monkeypatch, missing):
    """A statically linked one has no library to look into, or one without these functions."""
    import _hashlib

    if missing == "no __file__":
        monkeypatch.delattr(_hashlib, "__file__", raising=False)
    else:
        import _socket

        monkeypatch.setattr(_hashlib, "__file__", getattr(_socket, "__file__", "/nonexistent"), raising=False)
    assert _sha256._load() is None
