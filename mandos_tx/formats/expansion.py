"""Start-time expansion: what ``%(name)s`` and ``%%`` in clients.conf become when it is read.

As ``configparser`` does it: ``%(name)s`` is the value of another option, itself expanded, up to ten deep, and
``%%`` one percent sign.  Any other percent sign is a fault.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from mandos_tx.formats.complaint import Fault, show

_DEEPEST = 10
_LONGEST = 1 << 20
_MOST_REFERENCES = 10_000

_REMEDY_UNKNOWN = (
    "set it in this section or in [DEFAULT], or, for what a checker is to get as it starts, write %%(name)s"
)
_REMEDY_STRAY = "write %% for a percent sign (%%%% in a checker) and %(name)s for the value of another option"

_PERCENT = re.compile(r"%(?:(%)|\(([^)]+)\)s)?")


def expand(text: str, lookup: Callable[[str], str | None]) -> str:
    """The text expanded; ``lookup`` knows the other options by their lower-case names.

    :raises Fault: it refers to an option that does not exist, or to itself, or has a stray percent sign.
    """
    if "%" not in text:
        return text
    return _Expansion(lookup).expand(text)


def references(text: str) -> Iterable[str]:
    """The lower-case names that the text refers to directly."""
    return (match[2].lower() for match in _PERCENT.finditer(text) if match[2]) if "%(" in text else ()


class _Expansion:
    """One run, so that references to references cannot multiply without bound."""

    def __init__(self, lookup: Callable[[str], str | None]) -> None:
        self._lookup = lookup
        self._references = 0
        self._length = 0

    def expand(self, text: str, depth: int = 1) -> str:
        if depth > _DEEPEST:
            raise Fault("options refer to each other more than ten deep", "see whether they go in a circle")
        return _PERCENT.sub(lambda match: self._replacement(match, depth), text)

    def _replacement(self, match: re.Match[str], depth: int) -> str:
        percent, name = match.groups()
        if percent:
            return "%"
        if name is None:
            raise Fault("a percent sign by itself", _REMEDY_STRAY)
        value = self._lookup(name.lower())
        if value is None:
            raise Fault(f"refers to %({show(name)})s, which is no option here", _REMEDY_UNKNOWN)
        self._references += 1
        self._length += len(value)
        if self._references > _MOST_REFERENCES or self._length > _LONGEST:
            raise Fault("too long once expanded", "refer to less text")
        return self.expand(value, depth + 1) if "%" in value else value
