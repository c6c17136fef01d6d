"""The INI dialect of mandos.conf and clients.conf, read with line numbers.

It is what Python's ``configparser`` accepts and as it reads it, since files in the field rely on that::

    [section]            what follows the last "]" of the line counts for nothing
    name = value         or "name: value"; the first of both characters divides; names are case-insensitive
      more of the value  lines with more leading white space than the option's own; blank ones belong to it
    # comment            or "; comment", on lines of their own, also between the lines of a value

``[DEFAULT]`` may come in pieces anywhere; the other sections, and the options of a section, only once.  What
``configparser`` stops at becomes a complaint, and reading goes on.  A line is never quoted in a complaint: it may
be a piece of a secret.

A fleet's file has millions of lines, most of them continuations, so these are swallowed by regular expressions
(possessive: no backtracking) and sections are handed out one at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, TypeAlias

from attrs import Factory, define, frozen

from mandos_tx.formats.complaint import Complaint

DEFAULT: Final = "DEFAULT"

Options: TypeAlias = dict[str, tuple[str, int]]
"""By lower-case name: the value, before any expansion, and the offset of its line in the text."""

_IGNORED = re.compile(r"(?:[^\S\n]*+(?:[#;][^\n]*+)?\n)*+")
_HEAD = re.compile(r"([^\S\n]*+)(?:\[([^\n]+)\][^\n]*|([^\n=:]*+)[=:]([^\n]*+)|[^\n]*+)\n")
_COMMENT = re.compile(r"^[^\S\n]*+[#;][^\n]*+\n", re.MULTILINE)
_UNDECODABLE = re.compile("[\udc80-\udcff]")
_MOST_UNDECODABLE = 20


@frozen
class Section:
    """A section, or one piece of ``[DEFAULT]``, and the offset of its header in the text."""

    name: str
    offset: int
    options: Options


@define
class Document:
    """The text of one file, ready to be gone through."""

    file: str
    text: str
    complaints: list[Complaint] = Factory(list)
    """Grows while `sections` is gone through."""
    _counted: tuple[int, int] = (0, 1)

    @classmethod
    def decode(cls, file: str, data: bytes) -> Document:
        """The document that the bytes of a file make; those that are not UTF-8 are complained about, line by line."""
        try:
            text, valid = data.decode("utf-8"), True
        except UnicodeDecodeError:
            text, valid = data.decode("utf-8", "surrogateescape"), False
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        if not text.endswith("\n"):
            text += "\n"
        document = cls(file, text)
        if text.startswith("\ufeff"):
            document.text = text[1:]
            document.complain(0, None, None, "starts with a byte order mark", "save the file as UTF-8 without it")
        if not valid:
            document._complain_of_encoding()
        return document

    def line(self, offset: int) -> int:
        """The number of the line (from 1) that this offset is in; quick near the one asked for last."""
        counted, line = self._counted
        line += self.text.count("\n", counted, offset) - self.text.count("\n", offset, counted)
        self._counted = offset, line
        return line

    def complain(self, offset: int, section: str | None, option: str | None, problem: str, remedy: str) -> None:
        """Take down what is wrong with the line at this offset."""
        self.complaints.append(Complaint(self.file, self.line(offset), section, option, problem, remedy))

    def defaults(self) -> Options:
        """What the pieces of ``[DEFAULT]`` say together; without complaints, which are for `sections`."""
        found: Options = {}
        last = self.text.rfind(f"[{DEFAULT}]")
        if last >= 0:
            for section in Document(self.file, self.text)._scan():
                if section.offset > last:
                    break
                if section.name == DEFAULT:
                    found = section.options | found
        return found

    def sections(self) -> Iterator[Section]:
        """Every section but ``[DEFAULT]``, in order; to be gone through once, to the end."""
        return (section for section in self._scan() if section.name != DEFAULT)

    def _scan(self) -> Iterator[Section]:
        text, end = self.text, len(self.text)
        first_seen: dict[str, int] = {}
        in_defaults: Options = {}
        section: Section | None = None
        seen: Options = {}
        strayed = False
        pos = _end(_IGNORED, text, 0)
        while pos < end:
            start = pos
            head = _HEAD.match(text, start)
            assert head is not None, "the text ends with a line feed"
            indent, header, name, value = head.groups()
            if header is not None:
                if section is not None:
                    yield section
                pos = _end(_IGNORED, text, head.end())
                section = Section(header, start, {})
                seen = in_defaults if header == DEFAULT else section.options
                if first_seen.setdefault(header, start) != start and header != DEFAULT:
                    self._complain_of_repetition(start, header, None, first_seen[header])
                continue
            body = _body(len(indent)).match(text, head.end())
            assert body is not None, "it may be empty"
            pos = body.end()
            if section is None:
                if not strayed:
                    self.complain(start, None, None, "text before the first section", _REMEDY_SECTION)
                    strayed = True
            elif name is None:
                self.complain(start, section.name, None, "a line that is no option", _REMEDY_LINE)
            elif not (name := name.rstrip().lower()):
                self.complain(start, section.name, None, "an option without a name", _REMEDY_LINE)
            elif name in seen:
                self._complain_of_repetition(start, section.name, name, seen[name][1])
            else:
                seen[name] = section.options[name] = _value(value, body[0]), start
        if section is not None:
            yield section

    def _complain_of_repetition(self, offset: int, section: str, option: str | None, first: int) -> None:
        line = self.line(first)
        what, remedy = ("option", _REMEDY_OPTION) if option is not None else ("section", _REMEDY_NAME)
        self.complain(offset, section, option, f"this {what} is there already, in line {line}", remedy)

    def _complain_of_encoding(self) -> None:
        undecodable = dict.fromkeys(self.line(match.start()) for match in _UNDECODABLE.finditer(self.text))
        for line in list(undecodable)[:_MOST_UNDECODABLE]:
            self.complaints.append(Complaint(self.file, line, None, None, "not UTF-8", "save the file as UTF-8"))
        self.text = _UNDECODABLE.sub("\ufffd", self.text)


_REMEDY_SECTION = "begin with [DEFAULT] or with the [name] of a client"
_REMEDY_LINE = "write name = value, and white space before each further line of a value"
_REMEDY_OPTION = "keep one of them"
_REMEDY_NAME = "give each section a name of its own"


@lru_cache(maxsize=64)
def _body(indent: int) -> re.Pattern[str]:
    """Lines that may follow an option with so much white space before it, without ending it."""
    return re.compile(rf"(?:[^\S\n]{{{indent + 1}}}[^\n]*+\n|[^\S\n]*+(?:[#;][^\n]*+)?\n)*+")


def _value(first: str, body: str) -> str:
    if not body:
        return first.strip()
    if "#" in body or ";" in body:
        body = _COMMENT.sub("", body)
    return "\n".join(map(str.strip, (first, *body.split("\n")))).rstrip()


def _end(pattern: re.Pattern[str], text: str, start: int) -> int:
    match = pattern.match(text, start)
    return match.end() if match else start
