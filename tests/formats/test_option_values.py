"""What the text of options means."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.formats.complaint import Fault
from mandos_tx.formats.option_values import base64, boolean, duration, duration_within, hexadecimal, number


class OptionValueTests(SynchronousTestCase):
    def fault(self, read: Callable[..., object], *arguments: object) -> str:
        with self.assertRaises(Fault) as caught:
            read(*arguments)
        return f"{caught.exception.problem}; {caught.exception.remedy}"

    def test_truth_values(self) -> None:
        for text in ("1", "yes", "true", "on", "Yes", "TRUE"):
            self.assertTrue(boolean(text))
        for text in ("0", "no", "false", "off", "No", "OFF"):
            self.assertFalse(boolean(text))

    def test_no_truth_values(self) -> None:
        for text in ("", "2", "y", "ja", "yes no", "\0"):
            self.assertIn("neither yes nor no; write yes or no", self.fault(boolean, text))

    def test_numbers(self) -> None:
        self.assertEqual(0, number("0", 0, 5))
        self.assertEqual(5, number("005", 0, 5))

    def test_no_numbers(self) -> None:
        for text in ("", "-1", "+1", "0x1", "1.0", "1 0", "\N{SUPERSCRIPT TWO}", "five"):
            self.assertIn("is not a number; write a number from 0 to 5", self.fault(number, text, 0, 5))

    def test_numbers_out_of_range(self) -> None:
        for text in ("6", "0", "9" * 5000):
            self.assertIn("is out of range", self.fault(number, text, 1, 5))

    def test_durations(self) -> None:
        self.assertEqual(timedelta(minutes=5), duration("PT5M"))
        self.assertEqual('"5 minutes" is not a duration', self.fault(duration, "5 minutes").partition(";")[0])

    def test_durations_within_limits(self) -> None:
        least, most = timedelta(seconds=5), timedelta(minutes=2)
        for text in ("PT5S", "PT2M"):
            self.assertEqual(duration(text), duration_within(text, least, most))
        for text in ("PT4S", "PT2M1S", ""):
            fault = self.fault(duration_within, text, least, most)
            self.assertIn("out of range; write a duration from PT5S to PT2M", fault)

    def test_hexadecimal_without_spaces_or_case(self) -> None:
        self.assertEqual("ABCDEF01", hexadecimal("ab cd\n\tEF 01", 8))
        self.assertEqual("", hexadecimal("  ", 8))

    def test_what_is_not_hexadecimal(self) -> None:
        self.assertIn("is not hexadecimal; write 8 or 9", self.fault(hexadecimal, "0123456g", 8, 9))
        self.assertIn("7 hexadecimal digits; write 8", self.fault(hexadecimal, "0123456", 8))

    @settings(max_examples=100, deadline=None)
    @given(st.binary(min_size=1), st.sampled_from(["\n", " ", "\t\n "]), st.integers(1, 80))
    def test_base64_with_white_space_anywhere(self, secret: bytes, gap: str, width: int) -> None:
        text = b64encode(secret).decode()
        self.assertEqual(secret, base64(gap.join(text[at : at + width] for at in range(0, len(text), width))))

    def test_an_empty_secret_is_a_fault(self) -> None:
        for text in ("", " \n"):
            self.assertIn("empty; ", self.fault(base64, text))

    def test_what_is_not_base64_without_quoting_it(self) -> None:
        for text, problem in {
            "QUJD\nQ*JD": "not base64: a character that is none of its alphabet, in line 2 of the value",
            "QUJ\N{LATIN SMALL LETTER E WITH ACUTE}": "a character that is none of its alphabet, in line 1",
            "QUI=QUI=": 'there is text after the "=" that ends it',
            "QUJ": "it is cut short or damaged",
            "QUI==": "it is cut short or damaged",
            "=": "it is cut short or damaged",
        }.items():
            fault = self.fault(base64, text)
            self.assertIn(problem, fault)
            self.assertNotIn("QU", fault)
