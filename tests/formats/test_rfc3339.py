"""Durations and instants: what RFC 3339 allows, what Mandos always took, and nothing else."""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.formats.rfc3339 import (
    LONGEST,
    DurationError,
    InstantError,
    format_duration,
    format_instant,
    parse_duration,
    parse_duration_or_milliseconds,
    parse_instant,
)
from tests.strategies import Written, durations, instants, written_durations

NO_DURATIONS = [
    *("P", "PT", "T", "5", "-PT5M", "+PT5M", "PT5m", "pt5m", "P1DT", "P1H", "PT1D", "PT1W", "P1W1D", "P1WT1H"),
    *("PT1H30S", "P1Y1D", "P1D2H", "PT0.5S", "PT1,5S", "PT5M ", " PT5M", "P 1D", "P1D1Y", "PT1S1M", "P1D1D", "PT5M5M"),
    *("1", "1 2", "1D", "1x", "s", "1s2m", "-1s", "1.5s", "1_0s", "1 s", "forever", "None", "\0", " ", "\n"),
    *("PT\N{FULLWIDTH DIGIT FIVE}M", "\N{FULLWIDTH DIGIT FIVE}m", "PT\N{SUPERSCRIPT TWO}S"),
]

TOO_LONG = ["P102Y", "P36526D", "PT3155760001S", "5219w", "PT99999999999999999999S", f"PT{'9' * 5000}S", "1d 36525d"]

# An independent reading of Appendix A: every way to leave something out, spelled out.
NUMBER = "[0-9]+"
SECOND = f"{NUMBER}S"
MINUTE = f"{NUMBER}M({SECOND})?"
HOUR = f"{NUMBER}H({MINUTE})?"
TIME = f"T({HOUR}|{MINUTE}|{SECOND})"
DAY = f"{NUMBER}D"
MONTH = f"{NUMBER}M({DAY})?"
YEAR = f"{NUMBER}Y({MONTH})?"
GRAMMAR = re.compile(f"P(({DAY}|{MONTH}|{YEAR})({TIME})?|{TIME}|{NUMBER}W)")


class ParseDurationTests(SynchronousTestCase):
    def test_takes_the_examples_of_the_manuals(self) -> None:
        for text, value in {
            "PT5M": timedelta(minutes=5),
            "P1DT12H": timedelta(days=1, hours=12),
            "P2W": timedelta(weeks=2),
            "PT0S": timedelta(0),
            "P1Y2M3DT4H5M6S": timedelta(days=423, hours=4, minutes=5, seconds=6),
            "1d 2h": timedelta(days=1, hours=2),
            "1m 5s": timedelta(minutes=1, seconds=5),
            "\t1w  1w ": timedelta(weeks=2),
            "": timedelta(0),
            "PT0000000000000000000000000005M": timedelta(minutes=5),
            "PT3155760000S": LONGEST,
        }.items():
            self.assertEqual(value, parse_duration(text), text)

    @settings(max_examples=300, deadline=None)
    @given(written_durations())
    def test_takes_every_form_for_what_it_means(self, written: Written) -> None:
        self.assertEqual(written.value, parse_duration(written.text))

    def test_refuses_what_is_no_duration(self) -> None:
        for text in NO_DURATIONS:
            with self.assertRaises(DurationError, msg=repr(text)) as caught:
                parse_duration(text)
            self.assertEqual("not a duration", str(caught.exception))

    def test_refuses_what_is_too_long(self) -> None:
        for text in TOO_LONG:
            with self.assertRaises(DurationError, msg=text[:30]) as caught:
                parse_duration(text)
            self.assertEqual("longer than 100 years", str(caught.exception))

    @settings(max_examples=300, deadline=None)
    @given(st.text("PT0123YMWDHS", max_size=9).map(lambda text: f"P{text}"))
    def test_agrees_with_the_grammar_of_the_rfc(self, text: str) -> None:
        try:
            parse_duration(text)
        except DurationError as error:
            taken = str(error) == "longer than 100 years"
        else:
            taken = True
        self.assertEqual(GRAMMAR.fullmatch(text) is not None, taken)

    @settings(max_examples=200, deadline=None)
    @given(st.text(max_size=40))
    def test_takes_or_refuses_whatever_it_gets(self, text: str) -> None:
        with contextlib.suppress(DurationError):
            self.assertLessEqual(parse_duration(text), LONGEST)

    def test_gives_the_same_object_for_the_same_text(self) -> None:
        self.assertIs(parse_duration("PT17M"), parse_duration("PT17M"))


class ParseDurationOrMillisecondsTests(SynchronousTestCase):
    def test_takes_a_number_alone_as_milliseconds(self) -> None:
        self.assertEqual(timedelta(milliseconds=1500), parse_duration_or_milliseconds("1500"))
        self.assertEqual(timedelta(0), parse_duration_or_milliseconds("000"))

    def test_takes_what_clients_conf_takes(self) -> None:
        self.assertEqual(timedelta(minutes=5), parse_duration_or_milliseconds("PT5M"))

    def test_refuses_too_many_milliseconds(self) -> None:
        for text in ("3155760000001", "9" * 5000):
            self.assertRaises(DurationError, parse_duration_or_milliseconds, text)

    def test_refuses_the_rest(self) -> None:
        for text in ("-5", "1.5", "five", "\N{FULLWIDTH DIGIT FIVE}"):
            self.assertRaises(DurationError, parse_duration_or_milliseconds, text)


class FormatDurationTests(SynchronousTestCase):
    @settings(max_examples=200, deadline=None)
    @given(durations)
    def test_is_read_back(self, duration: timedelta) -> None:
        text = format_duration(duration)
        self.assertEqual(duration, parse_duration(text))
        self.assertIsNotNone(GRAMMAR.fullmatch(text))

    def test_is_short(self) -> None:
        for text in ("PT0S", "PT5M", "PT2H", "PT1H0M30S", "P1D", "P1DT12H", "P36525D"):
            self.assertEqual(text, format_duration(parse_duration(text)))

    def test_writes_fractions_of_a_second_as_iso_8601_has_them(self) -> None:
        self.assertEqual("PT0.5S", format_duration(timedelta(milliseconds=500)))
        self.assertEqual("PT1H0M0.000001S", format_duration(timedelta(hours=1, microseconds=1)))

    def test_refuses_a_negative_one(self) -> None:
        self.assertRaises(DurationError, format_duration, timedelta(seconds=-1))


class InstantTests(SynchronousTestCase):
    @settings(max_examples=100, deadline=None)
    @given(instants)
    def test_is_read_back(self, instant: datetime) -> None:
        self.assertEqual(instant, parse_instant(format_instant(instant)))
        self.assertIs(UTC, parse_instant(format_instant(instant)).tzinfo)

    def test_is_written_in_utc_with_microseconds(self) -> None:
        instant = datetime(2026, 11, 20, 15, 56, 6, tzinfo=timezone(timedelta(hours=1)))
        self.assertEqual("2026-11-20T14:56:06.000000Z", format_instant(instant))

    def test_takes_every_way_of_the_rfc(self) -> None:
        instant = datetime(2026, 11, 20, 14, 56, 6, 500000, UTC)
        for text in ("2026-11-20T14:56:06.5Z", "2026-11-20t14:56:06.50z", "2026-11-20 16:26:06.500+01:30"):
            self.assertEqual(instant, parse_instant(text))

    def test_refuses_the_rest(self) -> None:
        for text in (
            *(
                "",
                "2026-11-20",
                "2026-11-20T14:56:06",
                "2026-13-20T14:56:06Z",
                "2026-11-20T14:56:60Z",
                "20261120T145606Z",
            ),
            *("2026-11-20T14:56:06+01", "0001-01-01T00:00:00+23:59", "2026-11-20T14:56:06,5Z", "x"),
        ):
            self.assertRaises(InstantError, parse_instant, text)
