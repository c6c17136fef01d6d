"""Durations and instants as text: RFC 3339, and the older notations of the Mandos programs.

A duration is what RFC 3339, Appendix A, calls so (``P1DT12H``), or, as before Mandos 1.6.1, a sum of numbers with
a unit each (``1d 12h``; s, m, h, d and w), or empty, which is zero.  A year has 364 days and a month 28, as in the
original.  An instant is RFC 3339 section 5.6 with microseconds, always in UTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache

LONGEST = timedelta(days=36525)
"""The longest duration accepted: 100 years of the calendar."""

_MOST_DIGITS = len(str(LONGEST // timedelta(milliseconds=1)))
_TOO_LONG = "longer than 100 years"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_RFC_3339_SECONDS = {
    "years": 364 * 86400,
    "months": 28 * 86400,
    "weeks": 7 * 86400,
    "days": 86400,
    "hours": 3600,
    "minutes": 60,
    "seconds": 1,
}

# dur-date and dur-time of the grammar: what is left out is left out at either end, never in between.
_RFC_3339 = re.compile(
    r"""
    P (?: (?P<weeks>[0-9]+)W
        | (?= [0-9T] )
          (?: (?P<years>[0-9]+)Y (?![0-9]+D) )?
          (?: (?P<months>[0-9]+)M )?
          (?: (?P<days>[0-9]+)D )?
          (?: T (?= [0-9] )
              (?: (?P<hours>[0-9]+)H (?![0-9]+S) )?
              (?: (?P<minutes>[0-9]+)M )?
              (?: (?P<seconds>[0-9]+)S )?
          )?
      )
    """,
    re.VERBOSE,
)
_OLD_TERM = re.compile(r"([0-9]+)([smhdw])")
_INSTANT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


class DurationError(ValueError):
    """Text that is no duration, or one that is out of range; says in one line what is wrong."""


class InstantError(ValueError):
    """Text that is no instant."""


@lru_cache(maxsize=1024)
def parse_duration(text: str) -> timedelta:
    """A TIME of clients.conf.

    :raises DurationError: it is none, or longer than `LONGEST`.
    """
    if not text:
        return timedelta(0)
    if match := _RFC_3339.fullmatch(text):
        return _sum((digits, _RFC_3339_SECONDS[unit]) for unit, digits in match.groupdict().items() if digits)
    terms = [_OLD_TERM.fullmatch(word) for word in text.split()]
    if terms and all(terms):
        return _sum((term[1], _SECONDS[term[2]]) for term in terms if term)
    raise DurationError("not a duration")


def parse_duration_or_milliseconds(text: str) -> timedelta:
    """A TIME of mandos-ctl(8): as `parse_duration`, and a number alone counts milliseconds.

    :raises DurationError: it is neither, or longer than `LONGEST`.
    """
    if text.isascii() and text.isdigit():
        return _bounded(_number(text))
    return parse_duration(text)


def format_duration(duration: timedelta) -> str:
    """RFC 3339's way to write a duration; `parse_duration` reads it back.

    A fraction of a second, which only the D-Bus interface can set, is written as ISO 8601 has it (``PT0.5S``).

    :raises DurationError: it is negative, which RFC 3339 cannot write.
    """
    if duration < timedelta(0):
        raise DurationError("a negative duration")
    minutes, seconds = divmod(duration.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    fraction = f".{duration.microseconds:06}".rstrip("0") if duration.microseconds else ""
    date = f"{duration.days}D" if duration.days else ""
    time = ""
    if hours:
        time += f"{hours}H"
    if minutes or (hours and (seconds or fraction)):
        time += f"{minutes}M"
    if seconds or fraction or not (date or time):
        time += f"{seconds}{fraction}S"
    return f"P{date}T{time}" if time else f"P{date}"


def format_instant(instant: datetime) -> str:
    """An aware instant as ``2026-11-20T14:56:06.739593Z``."""
    return instant.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def parse_instant(text: str) -> datetime:
    """The instant that the text names, in UTC.

    :raises InstantError: it is not RFC 3339, or names no instant (a leap second, the thirteenth month).
    """
    if not _INSTANT.fullmatch(text):
        raise InstantError("not an RFC 3339 date and time")
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InstantError("no such date and time") from None


def _sum(terms: Iterable[tuple[str, int]]) -> timedelta:
    return _bounded(sum(_number(digits) * seconds for digits, seconds in terms) * 1000)


def _number(digits: str) -> int:
    significant = digits.lstrip("0")
    if len(significant) > _MOST_DIGITS:
        raise DurationError(_TOO_LONG)
    return int(significant or "0")


def _bounded(milliseconds: int) -> timedelta:
    if milliseconds > LONGEST // timedelta(milliseconds=1):
        raise DurationError(_TOO_LONG)
    return timedelta(milliseconds=milliseconds)
