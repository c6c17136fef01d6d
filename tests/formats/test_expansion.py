"""Start-time expansion is that of configparser, with bounds."""

from __future__ import annotations

from configparser import ConfigParser, InterpolationError

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.formats.complaint import Fault
from mandos_tx.formats.expansion import expand, references

texts = st.lists(st.sampled_from(["%(a)s", "%(B)s", "%(c)s", "%%", "%", "x", "(", ")s", "%(a", "%()s"]), max_size=4)


class ExpandTests(SynchronousTestCase):
    def fault(self, text: str, **options: str) -> str:
        with self.assertRaises(Fault) as caught:
            expand(text, options.get)
        problem: str = caught.exception.problem
        return problem

    @settings(max_examples=300, deadline=None)
    @given(st.fixed_dictionaries({name: texts.map("".join) for name in "abt"}))
    def test_is_that_of_configparser(self, options: dict[str, str]) -> None:
        parser = ConfigParser()
        parser.optionxform = str.lower  # type: ignore[assignment,method-assign]
        parser.add_section("s")
        parser._sections["s"].update(options)  # type: ignore[attr-defined]
        try:
            expected = parser.get("s", "t")
        except InterpolationError:
            self.fault(options["t"], **options)
        else:
            self.assertEqual(expected, expand(options["t"], options.get))

    def test_refers_ten_deep_and_no_deeper(self) -> None:
        options = {f"o{depth}": f"%(o{depth + 1})s" for depth in range(10)} | {"o10": "%%"}
        self.assertEqual("%", expand(options["o1"], options.get))
        self.assertIn("more than ten deep", self.fault(options["o0"], **options))

    def test_a_circle_is_a_fault(self) -> None:
        self.assertIn("more than ten deep", self.fault("%(a)s", a="%(b)s", b="%(a)s"))

    def test_what_multiplies_without_bound_is_a_fault(self) -> None:
        nested = {name: f"%({after})s" * 100 for name, after in zip("abcdef", "bcdefg", strict=True)}
        self.assertEqual("too long once expanded", self.fault("%(a)s", **nested, g=""))
        self.assertEqual("too long once expanded", self.fault("%(a)s" * 20, a="x" * 100_000))

    def test_names_what_is_not_there(self) -> None:
        self.assertEqual("refers to %(Host)s, which is no option here", self.fault("ping %(Host)s"))

    def test_a_percent_sign_by_itself_is_a_fault(self) -> None:
        for text in ("100%", "%d", "%(x)d", "%()s", "%(x"):
            self.assertEqual("a percent sign by itself", self.fault(text, x="1"))

    def test_what_has_no_percent_sign_is_the_same_object(self) -> None:
        nothing: dict[str, str] = {}
        text = "".join(["as", " it is"])
        self.assertIs(text, expand(text, nothing.get))


class ReferencesTests(SynchronousTestCase):
    def test_are_the_names_in_lower_case(self) -> None:
        self.assertEqual(["a", "b"], list(references("%(A)s %%(no)s %(b)s")))
        self.assertEqual([], list(references("100%%")))
