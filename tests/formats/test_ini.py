"""The INI dialect is that of configparser, with the lines."""

from __future__ import annotations

import io
from configparser import Error, RawConfigParser
from typing import TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.formats.ini import DEFAULT, Document

Content: TypeAlias = dict[str, dict[str, str]]

TOKENS = [
    *("[a]", "[b]", "[DEFAULT]", "[", "]", "x", "Y", "y", "=", ":", "#", ";", "%(x)s", "[a]b]"),
    *("\n", "\n", "\n", "\n  ", "\n\t", "\n    ", " ", "\r", "\r\n", "\x0b", "\x1c", "\x85", "\u2003", "\u2028", "\0"),
]


def read(text: str) -> tuple[Content, list[str]]:
    document = Document.decode("f", text.encode())
    content = {DEFAULT: {name: value for name, (value, _) in document.defaults().items()}}
    for section in document.sections():
        content[section.name] = {name: value for name, (value, _) in section.options.items()}
    return content, list(map(str, document.complaints))


def by_configparser(text: str) -> Content | None:
    parser = RawConfigParser()
    try:
        parser.read_file(io.StringIO(text, newline=None))
    except Error:
        return None
    own = {name: {option: parser.get(name, option) for option in parser._sections[name]} for name in parser.sections()}  # type: ignore[attr-defined]
    return {DEFAULT: dict(parser.defaults()), **own}


class DialectTests(SynchronousTestCase):
    @settings(max_examples=500, deadline=None)
    @given(st.lists(st.sampled_from(TOKENS), max_size=25).map("".join), st.booleans())
    def test_is_that_of_configparser(self, text: str, with_section: bool) -> None:
        text = f"[s]\n{text}" if with_section else text
        expected = by_configparser(text)
        content, complaints = read(text)
        self.assertEqual(expected is None, bool(complaints), complaints)
        if expected is not None:
            self.assertEqual(expected, content)

    @settings(max_examples=100, deadline=None)
    @given(st.text(max_size=60))
    def test_is_that_of_configparser_for_any_text(self, text: str) -> None:
        text = text.encode("utf-8", "replace").decode()
        content, complaints = read(text)
        self.assertEqual(by_configparser(text), None if complaints else content)

    def test_values_go_on_over_deeper_lines_comments_and_blanks(self) -> None:
        content, complaints = read("[s]\nA = 1\n\n # c\n  2;3\n; c\n\t[t]\n\n\nb: \n  =\n")
        self.assertEqual({"a": "1\n\n2;3\n[t]", "b": "\n="}, content["s"])
        self.assertEqual([], complaints)

    def test_an_indented_option_needs_deeper_lines_to_go_on(self) -> None:
        content, _ = read("[s]\n    a = 1\n      2\n    b = 3\n  c = 4\n   5\n")
        self.assertEqual({"a": "1\n2", "b": "3", "c": "4\n5"}, content["s"])

    def test_defaults_may_come_in_pieces(self) -> None:
        content, complaints = read("[DEFAULT]\na = 1\n[s]\nx = 1\n[DEFAULT]\nb = 2\n[t]\n")
        self.assertEqual({"a": "1", "b": "2"}, content[DEFAULT])
        self.assertEqual([], complaints)


class ComplaintTests(SynchronousTestCase):
    def check(self, text: str | bytes, *expected: str) -> None:
        document = Document.decode("f", text.encode() if isinstance(text, str) else text)
        list(document.sections())
        self.assertEqual(list(expected), [str(complaint).partition(";")[0] for complaint in document.complaints])

    def test_text_before_the_first_section_once(self) -> None:
        self.check("\n# c\na = 1\nb\n[s]\n", "f:3: text before the first section")

    def test_lines_that_are_no_options(self) -> None:
        self.check(
            "[s]\nhello\n  its continuation\na = 1\n= 2\n",
            "f:2: [s]: a line that is no option",
            "f:5: [s]: an option without a name",
        )

    def test_sections_and_options_that_come_twice(self) -> None:
        self.check(
            "[s]\na = 1\nA: 2\n[s]\na = 3\n[DEFAULT]\nb = 1\n[DEFAULT]\nb = 2\n",
            "f:3: [s] a: this option is there already, in line 2",
            "f:4: [s]: this section is there already, in line 1",
            "f:9: [DEFAULT] b: this option is there already, in line 7",
        )

    def test_the_first_of_options_that_come_twice_stands(self) -> None:
        content, _ = read("[DEFAULT]\na = 1\na = 2\n[DEFAULT]\na = 3\n[s]\nb = 1\nb = 2\n")
        self.assertEqual({DEFAULT: {"a": "1"}, "s": {"b": "1"}}, content)

    def test_bytes_that_are_not_utf_8_on_each_line_and_the_rest_is_read(self) -> None:
        self.check(
            b"[s]\na = \xff\xff\nb\n\xe4\n",
            "f:2: not UTF-8",
            "f:4: not UTF-8",
            *(
                "f:3: [s]: a line that is no option",
                "f:4: [s]: a line that is no option",
            ),
        )

    def test_not_more_than_a_few_lines_that_are_not_utf_8(self) -> None:
        document = Document.decode("f", b"\xff\n" * 1000)
        self.assertEqual(20, len(document.complaints))

    def test_a_byte_order_mark(self) -> None:
        self.check("\ufeff[s]\na = 1\n", "f:1: starts with a byte order mark")

    def test_never_quote_the_line(self) -> None:
        document = Document.decode(
            "f", b"stray-secret\n[s]\nlost-secret\n= no-name-secret\na=1\na=double-secret\n\xff-secret"
        )
        list(document.sections())
        self.assertEqual(6, len(document.complaints))
        self.assertNotIn("secret", " ".join(map(str, document.complaints)))


class LineTests(SynchronousTestCase):
    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.sampled_from(["a", "\n", "\r\n", "\r"]), max_size=30).map("".join), st.data())
    def test_are_counted_from_one_in_whatever_order(self, text: str, data: st.DataObject) -> None:
        document = Document.decode("f", text.encode())
        for offset in data.draw(st.lists(st.integers(0, len(document.text)), max_size=5)):
            self.assertEqual(document.text[:offset].count("\n") + 1, document.line(offset))

    def test_each_option_knows_its_own(self) -> None:
        document = Document.decode("f", b"[s]\n# c\na = 1\n  2\n\nb = 3")
        [section] = document.sections()
        self.assertEqual({"a": 3, "b": 6}, {name: document.line(at) for name, (_, at) in section.options.items()})
        self.assertEqual(1, document.line(section.offset))
