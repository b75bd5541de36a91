# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The keys are gpg's (2.2.40, `--quick-gen-key`, `--export`), and so are their fingerprints (`--show-keys`)."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._keyring import full_fingerprint, only_key

KEYS = Path(__file__).parent / "fixtures/keys"
FINGERPRINTS = {
    "ed25519.asc": "F0E5A36930C4AC9BCC5B13D34DFB95A63FCF9BD5",
    "rsa-with-subkey.asc": "4CE31738476F208EA4A94E1EC22DDB399ADEB95B",
}
EXPECTED = FINGERPRINTS["ed25519.asc"]


def armored(name: str) -> bytes:
    return (KEYS / name).read_bytes()


def binary(name: str) -> bytes:
    lines = armored(name).decode().splitlines()
    return base64.b64decode("".join(line for line in lines[2:-1] if not line.startswith("=")))


def refusal(data: bytes, fingerprint: str = EXPECTED) -> str:
    with pytest.raises(LlmError) as caught:
        only_key(data, fingerprint, "The key x.pub")
    text = str(caught.value)
    assert text.startswith("The key x.pub is ")
    assert "\n" not in text
    return text


@pytest.mark.parametrize(("name", "fingerprint"), FINGERPRINTS.items())
def test_the_expected_key_is_taken_armored_or_not(name, fingerprint):
    assert only_key(armored(name), fingerprint, "it") == binary(name)
    assert only_key(binary(name), fingerprint, "it") == binary(name)


def test_other_ways_to_write_the_armor():
    text = armored("ed25519.asc").decode()
    assert only_key(text.replace("\n", "\r\n").encode(), EXPECTED, "it") == binary("ed25519.asc")
    commented = text.replace("\n\n", "\nVersion: GnuPG v2\nComment: a key\n\n", 1)
    assert only_key(commented.encode(), EXPECTED, "it") == binary("ed25519.asc")
    without_checksum = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("="))
    assert only_key(without_checksum.encode(), EXPECTED, "it") == binary("ed25519.asc")


@pytest.mark.parametrize("size", [1, 2, 5])
def test_lengths_in_the_newer_format(size):
    old = binary("ed25519.asc")
    body = old[2 : 2 + old[1]]
    length = {1: bytes([len(body)]), 2: None, 5: b"\xff" + len(body).to_bytes(4, "big")}[size]
    if length is None:
        # Two bytes are for 192 to 8383: a user name of 200 characters behind the key.
        name = b"n" * 200
        data = bytes([0xC6, len(body)]) + body + bytes([0xCD, 192, 200 - 192]) + name
    else:
        data = b"\xc6" + length + body
    assert only_key(data, EXPECTED, "it") == data


def test_another_key_is_refused():
    text = refusal(armored("rsa-with-subkey.asc"))
    assert EXPECTED in text
    assert FINGERPRINTS["rsa-with-subkey.asc"] in text
    assert "Nothing was installed" in text


def test_a_second_key_beside_the_expected_one_is_refused():
    assert ", ".join(FINGERPRINTS.values()) in refusal(armored("both.asc"))
    assert ", ".join(FINGERPRINTS.values()) in refusal(armored("ed25519.asc") + armored("rsa-with-subkey.asc"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>Please log in", "the byte 0x3c where a packet has to begin"),
        (armored("ed25519.asc")[:-40], "not closed"),
        (armored("ed25519.asc").replace(b"PUBLIC", b"PRIVATE"), "not one of a public key"),
        (armored("ed25519.asc").replace(b"mDME", b"m!ME"), "is no OpenPGP public key"),
        (binary("ed25519.asc")[:-7], "7 bytes are missing at its end"),
        (binary("ed25519.asc")[:1], "its end is missing"),
        (b"\x99\x01", "its end is missing"),
        (b"\xc6\xff\x00", "its end is missing"),
        (b"\xc6\xe1" + b"x" * 64, "in several parts"),
        (b"\x9b" + b"x" * 64, "of unknown length"),
        (b"\xc5\x01\x04", "a packet of type 5 at byte 0"),
        (binary("ed25519.asc") + b"\xc5\x01\x04", "a packet of type 5 at byte"),
        (b"\xcd\x01n", "a packet of type 13 at byte 0"),
        (b"\xc6\x02\x06\x00", "a key of version 6"),
    ],
)
def test_what_is_no_public_key_is_refused(data, reason):
    assert reason in refusal(data)


def test_a_fingerprint_may_be_written_in_groups():
    assert full_fingerprint("f0e5 a369 30c4 ac9b cc5b  13d3 4dfb 95a6 3fcf 9bd5") == EXPECTED


@pytest.mark.parametrize("short", ["3FCF9BD5", "4DFB95A63FCF9BD5", "", EXPECTED + "0", "Z" * 40])
def test_a_short_id_is_refused(short):
    with pytest.raises(LlmError, match="expected all 40 hexadecimal digits"):
        full_fingerprint(short)
