"""Tests of ``mandos_tx.wire.greeting``."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.wire.greeting import MAX_LINE, BadGreeting, read_greeting

fields = st.text("01 2x\t\0", max_size=6).map(lambda text: text.encode("ascii"))
lines = st.builds(lambda start, rest, end: start + rest + end, fields, fields, st.sampled_from([b"\n", b"\r\n", b""]))
floods = st.binary(max_size=2 * MAX_LINE)


def judge(*chunks: bytes) -> str:
    """What a conversation makes of bytes that come in these pieces: it stops reading when it knows."""
    line = b""
    for chunk in chunks:
        line += chunk
        try:
            if read_greeting(line):
                return "good"
        except BadGreeting as error:
            return str(error)
    return "more"


class GreetingTests(SynchronousTestCase):
    def test_one_is_the_version_however_the_line_ends_and_goes_on(self) -> None:
        for line in (
            b"1\r\n",
            b"1\n",
            b" \t1\r\n",
            b"1 and whatever follows\r\n",
            b"1\t\xff\0\n",
            b"1" + b" " * 254 + b"\n",
        ):
            self.assertTrue(read_greeting(line), line)

    def test_nothing_else_is(self) -> None:
        for line in (
            b"\n",
            b"\r\n",
            b"2\r\n",
            b"0\n",
            b"01\n",
            b"-1\n",
            b"1.0\n",
            b"11\n",
            b"\0\n",
            b"GET / HTTP/1.1\r\n",
        ):
            with self.assertRaises(BadGreeting, msg=repr(line)):
                read_greeting(line)

    def test_a_line_that_goes_on_is_waited_for(self) -> None:
        for line in (b"", b"1", b"1\r", b"x" * (MAX_LINE - 1)):
            self.assertFalse(read_greeting(line), line)

    def test_a_line_has_at_most_256_bytes_its_end_included(self) -> None:
        self.assertTrue(read_greeting(b"1" + b"x".rjust(MAX_LINE - 2) + b"\n"))
        with self.assertRaisesRegex(BadGreeting, "no end of line within 256 bytes"):
            read_greeting(b"1" + b"x".rjust(MAX_LINE - 1) + b"\n")
        with self.assertRaisesRegex(BadGreeting, "no end of line within 256 bytes"):
            read_greeting(b"1".ljust(MAX_LINE))

    def test_nothing_may_follow_the_line(self) -> None:
        with self.assertRaisesRegex(BadGreeting, "more bytes than the line"):
            read_greeting(b"1\r\n\x16\x03")

    @settings(max_examples=200, deadline=None)
    @given(lines | floods, st.lists(st.integers(0, 2 * MAX_LINE), max_size=5))
    def test_the_verdict_does_not_depend_on_how_the_bytes_were_cut_up(self, sent: bytes, cuts: list[int]) -> None:
        # what follows the line is another matter: in a later chunk, TLS gets to see it
        end = sent.find(b"\n")
        sent = sent[: end + 1] if end >= 0 else sent
        edges = [0, *sorted(cut for cut in cuts if cut < len(sent)), len(sent)]
        pieces = [sent[start:stop] for start, stop in pairwise(edges)]
        self.assertEqual(judge(sent), judge(*pieces))

    @settings(max_examples=200, deadline=None)
    @given(st.binary(max_size=MAX_LINE - 1))
    def test_what_is_said_of_a_bad_one_is_short_and_printable(self, line: bytes) -> None:
        verdict = judge(line + b"\n")
        self.assertTrue(verdict.isprintable() and verdict.isascii(), verdict)
        self.assertLess(len(verdict), 120)

    def test_a_long_field_is_cut(self) -> None:
        with self.assertRaisesRegex(BadGreeting, r"unknown protocol version 'x{20}'\.\.\."):
            read_greeting(b"x" * 30 + b"\n")
