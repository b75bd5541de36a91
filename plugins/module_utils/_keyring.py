# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""OpenPGP public keys: which key a file holds, told without gpg, which a bare host lacks. Private to this collection.

The formats are those of RFC 4880: packets (section 4), fingerprints (12.2), ASCII armor (6).
"""

from __future__ import annotations

import base64
import hashlib
import re
import typing as t

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError

_ARMOR = re.compile(
    rb"^-----BEGIN PGP PUBLIC KEY BLOCK-----[ \t\r]*\n(?:[^\n]*:[^\n]*\n)*[ \t\r]*\n"
    rb"(.*?)^-----END PGP PUBLIC KEY BLOCK-----",
    re.MULTILINE | re.DOTALL,
)
# The checksum at the end of an armored block. It would find a slip of the pen; the fingerprint finds a forgery.
_CHECKSUM = re.compile(rb"^=[A-Za-z0-9+/]{4}\s*\Z", re.MULTILINE)
_PUBLIC_KEY = 6
# Signature, trust, user name, subkey, user attribute: what a primary key brings along.
_COMPANIONS = frozenset({2, 12, 13, 14, 17})


def full_fingerprint(text: str) -> str:
    """A fingerprint as 40 upper-case hexadecimal digits. Blanks and lower case are accepted.

    :raises LlmError: for anything else, above all for the short ids that anybody can make a second key for.
    """
    digits = "".join(text.split()).upper()
    if not re.fullmatch(r"[0-9A-F]{40}", digits):
        raise LlmError(
            f"The fingerprint {text!r} is refused: expected all 40 hexadecimal digits, found {len(digits)} characters. "
            "A short key id proves nothing, because another key with the same one can be made."
        )
    return digits


def only_key(data: bytes, fingerprint: str, where: str) -> bytes:
    """The key in `data`, armored or not, as the packets that apt reads, once it is proved to be the expected one.

    :param fingerprint: the expected one, as `full_fingerprint` returns it.
    :param where: what `data` is, for the message.
    :raises LlmError: for another key, for a second primary key beside it (it would be trusted, too), for what no public
        key brings along, and for what is no key at all.
    """
    try:
        packets = _dearmored(data)
        found = [_fingerprint(body) for tag, body in _packets(packets) if tag == _PUBLIC_KEY]
    except (ValueError, IndexError) as exc:
        reason = "its end is missing" if isinstance(exc, IndexError) else exc
        raise LlmError(
            f"{where} is no OpenPGP public key ({reason}). Check the address, and whether a proxy or a login page "
            "answers in its place."
        ) from exc
    if found != [fingerprint]:
        raise LlmError(
            f"{where} is refused: expected the key {fingerprint} and no other, found {', '.join(found) or 'none'}. "
            "Nothing was installed. Ask who runs the repository which key signs it, by another way than this one."
        )
    return packets


def _dearmored(data: bytes) -> bytes:
    if not data.lstrip().startswith(b"-----"):
        return data
    blocks = _ARMOR.findall(data)
    if not blocks:
        raise ValueError("an armored block that is not closed, or not one of a public key")
    return b"".join(base64.b64decode(b"".join(_CHECKSUM.sub(b"", block).split()), validate=True) for block in blocks)


def _packets(data: bytes) -> t.Iterator[tuple[int, bytes]]:
    """Tag and body of each packet.

    :raises ValueError: for what does not belong into the file of a public key.
    :raises IndexError: when the data ends too early.
    """
    if not data:
        raise ValueError("it is empty")
    at = 0
    while at < len(data):
        tag, start, size = _header(data, at)
        if tag != _PUBLIC_KEY and (tag not in _COMPANIONS or at == 0):
            raise ValueError(f"a packet of type {tag} at byte {at}")
        at = start + size
        if at > len(data):
            raise ValueError(f"{at - len(data)} bytes are missing at its end")
        yield tag, data[start:at]


def _header(data: bytes, at: int) -> tuple[int, int, int]:
    """Tag of the packet at the offset `at`, offset of its body, and size of that in bytes."""
    first = data[at]
    if not first & 0x80:
        raise ValueError(f"the byte {first:#04x} where a packet has to begin")
    if first & 0x40:
        start, size = _new_length(data, at + 1)
        return first & 0x3F, start, size
    width = 1 << (first & 3)
    if width == 8:
        raise ValueError("a packet of unknown length")
    if at + 1 + width > len(data):
        raise IndexError
    return first >> 2 & 0x0F, at + 1 + width, int.from_bytes(data[at + 1 : at + 1 + width], "big")


def _new_length(data: bytes, at: int) -> tuple[int, int]:
    """Offset of the body and its size, from a length in the newer format, which has one, two or five bytes."""
    first = data[at]
    if first < 192:
        return at + 1, first
    if first < 224:
        return at + 2, ((first - 192) << 8) + data[at + 1] + 192
    if first < 255:
        raise ValueError("a packet in several parts")
    if at + 5 > len(data):
        raise IndexError
    return at + 5, int.from_bytes(data[at + 1 : at + 5], "big")


def _fingerprint(body: bytes) -> str:
    """Fingerprint of a key of version 4, the only version that the tools of apt know."""
    if body[0] != 4:
        raise ValueError(f"a key of version {body[0]}; only version 4 is known")
    # SHA-1 is what the format prescribes; nothing but the identity of the key hangs on it.
    digest = hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body, usedforsecurity=False)
    return digest.hexdigest().upper()
