"""Finds parts of secrets in bytes: as they are, escaped, in hexadecimal or in base64."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator

WINDOW = 12
"""Bytes in a row that give a secret away; fewer could be chance, or the headers that all OpenPGP messages share."""
_SEED = 8
_STEP = WINDOW - _SEED + 1
"""Looking for seeds only at every so manieth place misses no window, and is as much faster."""
MAX_INDEXED = 65536
"""Of a longer secret only so many bytes from its start and its end are looked for."""
_DIFFERENT = 6
"""Different bytes in a window; with fewer it could be padding."""

_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|([0-7]{3})|(.))", re.DOTALL)
_NAMED = {b"n": b"\n", b"t": b"\t", b"r": b"\r"}
_HEXADECIMAL = re.compile(rb"[0-9a-fA-F]{%d,}" % (2 * WINDOW))
_SPACED_HEXADECIMAL = re.compile(rb"(?:[0-9a-fA-F]{2}[ :]){%d,}[0-9a-fA-F]{2}" % (WINDOW - 1))
# White space inside, as base64 comes in lines.
_BASE64 = re.compile(rb"[\w+/-](?:[\w+/-]|\s(?=[\s\w+/-])){%d,}" % (WINDOW * 4 // 3), re.ASCII)
_URLSAFE = bytes.maketrans(b"-_", b"+/")


class Scanner:
    """Knows the secrets, and tells their names when it sees a part of one."""

    def __init__(self, secrets: Iterable[tuple[str, bytes]]) -> None:
        self._owners: dict[bytes, str] = {}
        for name, secret in secrets:
            parts = [secret] if len(secret) <= 2 * MAX_INDEXED else [secret[:MAX_INDEXED], secret[-MAX_INDEXED:]]
            for part in parts:
                for window in _windows(part):
                    self._owners[window] = name
        self._seeds = {window[i : i + _SEED] for window in self._owners for i in range(_STEP)}

    def find(self, data: bytes) -> set[str]:
        """The names of the secrets that are in ``data``, at least in part."""
        seeds, owners = self._seeds, self._owners
        return {
            owners[window]
            for view in _views(data)
            for place in range(0, len(view) - _SEED + 1, _STEP)
            if view[place : place + _SEED] in seeds
            for start in range(max(0, place - _STEP + 1), place + 1)
            if (window := view[start : start + WINDOW]) in owners
        }


def _windows(secret: bytes) -> Iterator[bytes]:
    for i in range(len(secret) - WINDOW + 1):
        window = secret[i : i + WINDOW]
        if len(set(window)) >= _DIFFERENT:
            yield window


def _views(data: bytes) -> Iterator[bytes]:
    """The data, and everything that a part of it could be the encoding of."""
    yield data
    if b"\\" in data:
        yield _ESCAPE.sub(_unescape, data)
    for match in _HEXADECIMAL.finditer(data):
        for digits in (match[0], match[0][1:]):
            yield binascii.unhexlify(digits[: len(digits) // 2 * 2])
    for match in _SPACED_HEXADECIMAL.finditer(data):
        yield bytes.fromhex(match[0].decode("ascii").replace(":", " "))
    for match in _BASE64.finditer(data):
        for characters in {b"".join(match[0].split()), *match[0].split()}:
            characters = characters.translate(_URLSAFE)
            for start in range(4):
                aligned = characters[start:]
                yield base64.b64decode(aligned[: len(aligned) // 4 * 4])


def _unescape(match: re.Match[bytes]) -> bytes:
    hexadecimal, octal, other = match.groups()
    if hexadecimal:
        return bytes([int(hexadecimal, 16)])
    if octal:
        return bytes([int(octal, 8) & 255])
    return _NAMED.get(other, other)
