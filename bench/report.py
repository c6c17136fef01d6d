"""The report: Markdown, with what the project promises first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attrs import frozen


@frozen
class Promise:
    """A figure that the project promises, and what it is here."""

    what: str
    promised: str
    measured: str


@frozen
class Section:
    """What one of the measurements found."""

    title: str
    promises: Sequence[Promise]
    body: str


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column to the left, the others to the right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def render(command: str, when: str, machine: Iterable[tuple[str, str]], sections: Sequence[Section]) -> str:
    """The whole report."""
    promises = [promise for section in sections for promise in section.promises]
    parts = [
        "# Results of the last run",
        f"`{command}`, {when}. How to read it: [docs/performance.md](../docs/performance.md).",
        table(["Promise", "at most", "measured"], [(p.what, p.promised, p.measured) for p in promises]),
        *(f"## {section.title}\n\n{section.body}" for section in sections),
        "## The machine",
        table(["", ""], machine).replace("---:", "---"),
    ]
    return "\n\n".join(parts) + "\n"


def mebibytes(count: float) -> str:
    """A number of bytes, in MiB."""
    return f"{count / 1048576:.1f} MiB"
