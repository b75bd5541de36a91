# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SHA-256 that can be put aside and gone on with by another process. Private to this collection.

`hashlib` keeps its state to itself. That of OpenSSL's own functions is a plain structure, and they are as fast. They
are deprecated, so where they are missing, forbidden or different, `hashlib` computes, and `Sha256.state` is None.
"""

from __future__ import annotations

import ctypes
import hashlib
import typing as t
from pathlib import Path

# SHA256_CTX of openssl/sha.h: h[8], Nl, Nh, data[16], num, md_len, each of 32 bits.
_STATE_BYTES = 112
_DIGEST_BYTES = 32


class Sha256:
    """A SHA-256 sum in the making, as `hashlib.sha256()` is one; large updates run without the GIL."""

    def __init__(self, data: bytes = b"") -> None:
        self._sum: t.Any = _Resumable() if _libcrypto else hashlib.sha256()
        self._sum.update(data)

    def update(self, data: bytes | memoryview) -> None:
        """Go on with more bytes. A memoryview must be contiguous and writable."""
        self._sum.update(data)

    def hexdigest(self) -> str:
        """64 lower-case hexadecimal digits; `update` may follow."""
        return str(self._sum.hexdigest())

    def copy(self) -> Sha256:
        """An independent sum that stands where this one stands."""
        other = Sha256()
        other._sum = self._sum.copy()
        return other

    def state(self) -> bytes | None:
        """What `resumed` takes, also in another process on this host; None where that cannot be had."""
        return self._sum.state() if isinstance(self._sum, _Resumable) else None

    @classmethod
    def resumed(cls, state: bytes) -> Sha256 | None:
        """The sum that had this state; None where that cannot be had."""
        if not _libcrypto or len(state) != _STATE_BYTES:
            return None
        resumed = cls()
        resumed._sum = _Resumable(state)
        return resumed


class _Resumable:
    """The sum by OpenSSL's own functions."""

    def __init__(self, state: bytes = b"") -> None:
        # Some bytes more than the structure has: one that has grown would not fit, and the self-test notices.
        self._context = ctypes.create_string_buffer(state, 2 * _STATE_BYTES)
        if not state:
            _libcrypto.SHA256_Init(self._context)

    def update(self, data: bytes | memoryview) -> None:
        size = len(data)
        content = data if isinstance(data, bytes) else (ctypes.c_char * size).from_buffer(data)
        _libcrypto.SHA256_Update(self._context, content, ctypes.c_size_t(size))

    def hexdigest(self) -> str:
        digest = ctypes.create_string_buffer(_DIGEST_BYTES)
        _libcrypto.SHA256_Final(digest, self.copy()._context)  # ends what it is given
        return digest.raw.hex()

    def copy(self) -> _Resumable:
        return _Resumable(self.state())

    def state(self) -> bytes:
        return self._context.raw[:_STATE_BYTES]


def _load() -> t.Any:
    """The libcrypto that Python's `hashlib` has loaded, None if it cannot be used."""
    try:
        import _hashlib

        # Symbols are searched in what a library depends on, too; so nothing has to be guessed of the library's name.
        library = ctypes.CDLL(_hashlib.__file__)
        functions = (library.SHA256_Init, library.SHA256_Update, library.SHA256_Final)
    except (ImportError, AttributeError, OSError):
        return None
    del functions
    return library


def _works() -> bool:
    """Whether a sum goes on from its state, and comes out right."""
    data = bytes(range(200))
    first = _Resumable()
    first.update(data[:77])
    second = _Resumable(first.state())
    second.update(data[77:])
    return second.hexdigest() == hashlib.sha256(data).hexdigest()


def _in_fips_mode() -> bool:
    # Older libraries abort the process when their own functions are called in this mode.
    try:
        return Path("/proc/sys/crypto/fips_enabled").read_text().strip() == "1"
    except OSError:
        return False


_libcrypto: t.Any = None if _in_fips_mode() else _load()
if _libcrypto and not _works():
    _libcrypto = None
