"""Who may import whom, and what else holds of every module: read from the source, held against tables."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from attrs import field, frozen
from twisted.trial.unittest import SynchronousTestCase

import mandos_tx

ROOT = Path(mandos_tx.__file__).parent

LONGEST_MODULE = 450
LONGEST_CORE = 800

MAY_IMPORT: dict[str, str] = {
    # what a server is, whatever it runs on
    "core": "",
    "formats": "core",
    "clock": "",
    "interfaces": "core clock",
    # small things that know nothing of clients
    "background": "",
    "memory": "",
    "pidfile": "",
    "privileges": "",
    "sequence": "",
    "supervision": "",
    "throttle": "",
    "logs": "clock",
    # what holds the clients, decides and lets in
    "registry": "core interfaces clock",
    "gatekeeper": "core interfaces",
    "roster": "core formats interfaces clock",
    "administration": "core formats interfaces",
    # adapters: none knows another
    "wire": "core interfaces throttle memory",
    "state": "core formats interfaces clock background privileges",
    "checker": "core interfaces",
    "process": "core",
    "logbook": "core clock throttle",
    "audit": "core interfaces clock background audit_file",
    "audit_file": "",
    # what is read
    "configuration_files": "",
    "strict_modes": "formats configuration_files",
    "configuration": "core formats configuration_files strict_modes",
    "privileged_reader": "formats configuration configuration_files",
    "settings": "formats configuration configuration_files wire",
    # services that give the others their place in the server's life
    "auditing": "audit audit_file",
    "configuration_source": "configuration configuration_files privileged_reader",
    "reloading": "formats background configuration privileged_reader roster supervision",
    "restoring": "core formats interfaces registry roster state",
    # a start, and what it may come to
    "selftest": "core formats clock wire",
    "startup": "formats logs selftest audit_file configuration configuration_files privileges settings wire",
    "tools": "core formats logs pidfile privileges settings startup tap wire",
}
"""For each module and package of ours, which others it may import; ``tap`` may import all of them."""

ONLY_IN = {
    "twisted.conch": ("frontends/manhole.py",),
    "txdbus": ("bus/", "announce/avahi.py", "frontends/dbus.py", "tools/"),
    "ldaptor": ("directory/",),
    "cffi": ("wire/gnutls_abi_source.py",),
    "_cffi_backend": ("wire/gnutls_abi.py",),
    "sqlite3": ("state/",),
    "pickle": (),
    "subprocess": ("tools/",),
}
"""Where a library may be used at all."""

PURE = ("core", "formats")
IMPURE = ("twisted", "zope", "os", "socket", "time", "threading")
IMPURE_ALL_THE_SAME = {
    ("formats/saved_state.py", "os"): "a fresh nonce for each secret that is sealed",
}

CLOCKS = {
    "time": ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "sleep"),
    "datetime": ("now", "utcnow", "today"),
}
OWN_CLOCK = {
    "clock.py": "it is the door",
    "logbook.py": "the wall time of a log event, for which it does what Twisted's Logger does",
    "tools/fetch.py": "a program of its own, which no server's clock is installed in",
}
"""Modules that read a clock themselves, and why."""


@frozen
class Module:
    path: Path
    source: str = field(repr=False)
    tree: ast.Module = field(repr=False)

    @property
    def name(self) -> str:
        """As below mandos_tx, with slashes."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def unit(self) -> str:
        """The package directly below mandos_tx, or the module if it is there itself."""
        return self.name.partition("/")[0].removesuffix(".py")

    def imported(self) -> set[str]:
        """Dotted names of everything that is imported anywhere in it."""
        return set(_imported(self.tree))


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "no relative imports"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules() -> list[Module]:
    return [
        Module(path, source := path.read_text("utf-8"), ast.parse(source))
        for path in sorted(ROOT.rglob("*.py"))
        if path.name != "gnutls_abi.py"  # written by cffi
    ]


def _is_or_below(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


class ImportTests(SynchronousTestCase):
    def test_each_module_imports_only_what_it_may(self) -> None:
        for module in modules():
            if module.unit in ("tap", "__init__"):
                continue
            self.assertIn(module.unit, MAY_IMPORT, "say what it may import")
            allowed = {module.unit, "__version__", *MAY_IMPORT[module.unit].split()}
            ours = {name.split(".")[1] for name in module.imported() if name.startswith("mandos_tx.")}
            self.assertEqual(set(), ours - allowed, f"{module.name} must not import that")

    def test_the_table_speaks_of_what_there_is(self) -> None:
        units = {module.unit for module in modules()}
        for unit, allowed in MAY_IMPORT.items():
            self.assertEqual(set(), {unit, *allowed.split()} - units)

    def test_nobody_imports_each_other(self) -> None:
        seen: list[str] = []
        for unit in MAY_IMPORT:
            self.visit(unit, (), seen)

    def visit(self, unit: str, path: tuple[str, ...], seen: list[str]) -> None:
        self.assertNotIn(unit, path, f"a circle: {path}")
        if unit not in seen and unit != "tap":
            for other in MAY_IMPORT[unit].split():
                self.visit(other, (*path, unit), seen)
            seen.append(unit)

    def test_what_is_pure_touches_nothing(self) -> None:
        for module in modules():
            if module.unit in PURE:
                impure = {name for name in module.imported() if any(_is_or_below(name, package) for package in IMPURE)}
                impure -= {name for path, name in IMPURE_ALL_THE_SAME if path == module.name}
                self.assertEqual(set(), impure, module.name)

    def test_a_library_is_used_where_its_adapter_is(self) -> None:
        for module in modules():
            for library, places in ONLY_IN.items():
                if any(_is_or_below(name, library) for name in module.imported()):
                    self.assertTrue(module.name.startswith(places or "nowhere"), f"{module.name} imports {library}")

    def test_the_reactor_is_nobodys_but_the_assemblys(self) -> None:
        for module in modules():
            if module.name in ("tap.py", "tools/mandos.py"):
                at_load = {name for node in module.tree.body for name in _imported(node) if not _is_function(node)}
                self.assertNotIn("twisted.internet.reactor", at_load, module.name)
            else:
                self.assertNotIn("twisted.internet.reactor", module.imported(), module.name)


def _is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.ClassDef)


class ClockTests(SynchronousTestCase):
    def test_nobody_reads_a_clock_of_its_own(self) -> None:
        for module in modules():
            if module.name in OWN_CLOCK:
                continue
            for node in ast.walk(module.tree):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    self.assertNotIn(node.attr, CLOCKS.get(node.value.id, ()), f"{module.name}:{node.lineno}")
            direct = {f"{library}.{name}" for library, names in CLOCKS.items() for name in names}
            self.assertEqual(set(), direct & module.imported(), module.name)

    def test_who_does_all_the_same_is_known(self) -> None:
        self.assertLessEqual(set(OWN_CLOCK), {module.name for module in modules()})


class SizeTests(SynchronousTestCase):
    def test_no_module_is_long(self) -> None:
        for module in modules():
            self.assertLessEqual(module.source.count("\n"), LONGEST_MODULE, module.name)

    def test_the_core_as_a_whole_is_small(self) -> None:
        self.assertLessEqual(sum(m.source.count("\n") for m in modules() if m.unit == "core"), LONGEST_CORE)

    def test_each_module_says_what_it_does_in_its_first_line(self) -> None:
        for module in modules():
            if module.source:
                first = (ast.get_docstring(module.tree) or "").partition("\n")[0]
                self.assertRegex(first, r"\A\S.*[.:?]\Z|\A\S.+\S\Z", module.name)

    def test_there_is_no_place_for_things_without_a_name(self) -> None:
        for module in modules():
            self.assertNotIn(module.path.stem, ("utils", "util", "common", "helpers", "managers", "misc"), module.name)
