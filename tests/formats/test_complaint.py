"""Complaints are one printable line each."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.formats.complaint import Complaint, ConfigurationError, show

anything = st.text(max_size=300)


class ComplaintTests(SynchronousTestCase):
    def test_names_the_whole_place(self) -> None:
        complaint = Complaint("/etc/mandos/clients.conf", 7, "foo", "timeout", "wrong", "write PT5M")
        self.assertEqual("/etc/mandos/clients.conf:7: [foo] timeout: wrong; write PT5M", str(complaint))

    def test_names_as_much_of_the_place_as_there_is(self) -> None:
        self.assertEqual("f: wrong; right", str(Complaint("f", None, None, None, "wrong", "right")))
        self.assertEqual("f:1: wrong; right", str(Complaint("f", 1, None, None, "wrong", "right")))
        self.assertEqual("f:1: [s]: wrong; right", str(Complaint("f", 1, "s", None, "wrong", "right")))

    @settings(max_examples=50, deadline=None)
    @given(st.builds(Complaint, anything, st.none() | st.integers(1), anything, anything, anything, anything))
    def test_is_one_printable_line_whatever_the_file_contains(self, complaint: Complaint) -> None:
        self.assertTrue(str(complaint).isprintable())

    def test_what_is_long_is_cut(self) -> None:
        self.assertLess(len(show("x" * 10_000)), 100)

    def test_what_is_short_is_shown_whole(self) -> None:
        self.assertEqual("naïve \\x1b", show("naïve \x1b"))


class ConfigurationErrorTests(SynchronousTestCase):
    def test_has_all_complaints_one_to_a_line(self) -> None:
        complaints = [Complaint("f", line, None, None, "wrong", "right") for line in (1, 2, 3)]
        error = ConfigurationError(iter(complaints), iter(complaints[:1]))
        self.assertEqual((tuple(complaints), tuple(complaints[:1])), (error.complaints, error.warnings))
        self.assertEqual(["f:1: wrong; right", "f:2: wrong; right", "f:3: wrong; right"], str(error).splitlines())
