"""What is wrong in a configuration file, where, and what would be right; as one line for people.

The line reads ``FILE:LINE: [section] option: what is wrong; what would be right``.  Whatever a file may
contain, it stays one line of printable characters.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen

_LONGEST_SHOWN = 80


def show(text: str) -> str:
    """Text out of a file, for a message: escaped, and cut when it is long."""
    if len(text) > _LONGEST_SHOWN:
        text = f"{text[: _LONGEST_SHOWN - 3]}..."
    return one_line(text)


def one_line(text: str) -> str:
    """The text with everything escaped that is no printable character."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class Fault(Exception):
    """What is wrong with a value and what would be right, by one who does not know where the value stands."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy


@frozen
class Complaint:
    """A fault, or a doubt, with its place; ``str()`` is the line to print."""

    file: str
    line: int | None
    section: str | None
    option: str | None
    problem: str
    remedy: str

    def __str__(self) -> str:
        place = one_line(self.file)
        if self.line is not None:
            place = f"{place}:{self.line}"
        names = []
        if self.section is not None:
            names.append(f"[{show(self.section)}]")
        if self.option is not None:
            names.append(show(self.option))
        subject = f" {' '.join(names)}:" if names else ""
        return f"{place}:{subject} {one_line(self.problem)}; {one_line(self.remedy)}"


class ConfigurationError(Exception):
    """A configuration that cannot be used: everything that is wrong with it, and what is doubtful besides."""

    def __init__(self, complaints: Iterable[Complaint], warnings: Iterable[Complaint] = ()) -> None:
        self.complaints = tuple(complaints)
        self.warnings = tuple(warnings)
        super().__init__(*self.complaints)

    def __str__(self) -> str:
        return "\n".join(map(str, self.complaints))
