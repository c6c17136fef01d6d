"""The search itself: it must find what it is there for."""

from __future__ import annotations

import base64
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.leaks.scanner import WINDOW, Scanner

SECRET = base64.b85decode("VPaz=Wn=;XWpZ<AZ*DXsHa0bEWpZ<AZ*FvQZ)s#TH8L+WIw1")

ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "as it is": bytes,
    "repr": lambda data: repr(data).encode("ascii"),
    "part of a repr": lambda data: repr({"secret": data}).encode("ascii"),
    "octal": lambda data: b"".join(b"\\%03o" % byte for byte in data),
    "hexadecimal": lambda data: data.hex().encode("ascii"),
    "HEXADECIMAL": lambda data: data.hex().upper().encode("ascii"),
    "hexadecimal, off by a digit": lambda data: b"f" + data.hex().encode("ascii"),
    "hexadecimal, spaced": lambda data: data.hex(" ").encode("ascii"),
    "hexadecimal, with colons": lambda data: data.hex(":").encode("ascii"),
    "base64": base64.b64encode,
    "base64 for URLs": base64.urlsafe_b64encode,
    "base64 at the second alignment": lambda data: base64.b64encode(b"1" + data),
    "base64 at the third alignment": lambda data: base64.b64encode(b"12" + data),
    "base64 in lines": lambda data: b"\n    ".join(
        base64.b64encode(data)[start : start + 10] for start in range(0, len(data) * 4 // 3, 10)
    ),
}


class Finding(SynchronousTestCase):
    def setUp(self) -> None:
        self.scanner = Scanner([("theirs", bytes(range(100, 140))), ("ours", SECRET)])

    def test_every_encoding_is_found(self) -> None:
        for name, encode in ENCODINGS.items():
            log = b"2026-11-21 INFO: here comes " + encode(SECRET) + b" and more.\n"
            self.assertEqual(self.scanner.find(log), {"ours"}, name)

    @settings(deadline=None, max_examples=200)
    @given(st.data())
    def test_any_part_is_found(self, data: st.DataObject) -> None:
        length = data.draw(st.integers(2 * WINDOW, len(SECRET)))
        start = data.draw(st.integers(0, len(SECRET) - length))
        encode = ENCODINGS[data.draw(st.sampled_from(sorted(ENCODINGS)))]
        before = data.draw(st.binary(max_size=20)) + b" "
        self.assertEqual(Scanner([("ours", SECRET)]).find(before + encode(SECRET[start : start + length])), {"ours"})

    def test_innocent_text_is_not_accused(self) -> None:
        log = b"key ID 0123456789ABCDEF0123456789ABCDEF, checker fping -q -- host.example exited with 0\n" * 50
        self.assertEqual(self.scanner.find(log), set())

    def test_padding_is_nobodys_secret(self) -> None:
        self.assertEqual(Scanner([("padding", bytes(1000))]).find(bytes(1000)), set())

    def test_a_huge_secret_is_known_by_its_start_and_its_end(self) -> None:
        huge = SECRET + bytes(2**20) + bytes(reversed(SECRET))
        scanner = Scanner([("huge", huge)])
        self.assertEqual(scanner.find(SECRET[:20]), {"huge"})
        self.assertEqual(scanner.find(bytes(reversed(SECRET))[:20]), {"huge"})
