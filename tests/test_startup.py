"""Tests of ``mandos_tx.startup``."""

from __future__ import annotations

import io
import os
import socket
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.settings import Options
from mandos_tx.startup import EX_CONFIG, EX_FAILURE, Prepared, give_up, prepare

CLIENT = f"[a]\nkey_id = {'a' * 64}\nsecret = c2VjcmV0\n"


class StartupTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.write("clients.conf", CLIENT)

    def write(self, name: str, text: str) -> None:
        path = self.directory / name
        path.write_text(text)
        path.chmod(0o600)

    def prepare(self, *arguments: str) -> Prepared:
        options = Options()
        options.parseOptions(["--configdir", str(self.directory), "--no-strict-modes", *arguments])
        self.out, self.err = io.StringIO(), io.StringIO()
        with redirect_stdout(self.out), redirect_stderr(self.err):
            return prepare(options)

    def ends(self, status: int, *arguments: str) -> None:
        with self.assertRaises(SystemExit) as caught:
            self.prepare(*arguments)
        self.assertEqual(status, caught.exception.code)

    def test_what_is_good_is_ready_to_run(self) -> None:
        prepared = self.prepare("--port", "1234")
        self.assertEqual(1234, prepared.settings.port)
        self.assertEqual(["a"], [definition.name for definition in prepared.configuration.definitions])
        self.assertEqual(("", ""), (self.out.getvalue(), self.err.getvalue()))

    def test_what_is_wrong_is_told_line_by_line_with_status_78(self) -> None:
        self.write("clients.conf", "[a]\ntimeout = x\ninterval = y\n")
        self.ends(EX_CONFIG)
        lines = self.err.getvalue().splitlines()
        self.assertGreaterEqual(len(lines), 2)
        self.assertTrue(all(line.startswith(f"mandos: {self.directory}/clients.conf:") for line in lines), lines)

    def test_a_priority_string_is_blamed_where_it_stands(self) -> None:
        self.ends(EX_CONFIG, "--priority", "SECURE128:NONSENSE")
        self.assertIn("mandos: command line: --priority: ", self.err.getvalue())
        self.assertIn("at 'NONSENSE'; see gnutls_priority_init(3)", self.err.getvalue())
        self.write("mandos.conf", "[DEFAULT]\npriority = NONSENSE\n")
        self.ends(EX_CONFIG)
        self.assertIn(f"mandos: {self.directory}/mandos.conf: [DEFAULT] priority: ", self.err.getvalue())

    def test_a_configuration_is_checked_without_a_start(self) -> None:
        self.ends(0, "--check-config")
        self.assertIn("1 client", self.out.getvalue())
        self.write("clients.conf", "[a]\ntimeout = x\n")
        self.ends(EX_CONFIG, "--check-config")
        self.assertIn("timeout", self.out.getvalue())
        self.assertEqual("", self.err.getvalue())

    def test_a_standard_output_that_takes_nothing_is_a_line_and_status_1(self) -> None:
        options = Options()
        options.parseOptions(["--configdir", str(self.directory), "--no-strict-modes", "--check-config"])
        with open("/dev/full", "w") as full, redirect_stdout(full), redirect_stderr(io.StringIO()) as err:
            error = self.assertRaises(SystemExit, prepare, options)
        self.assertEqual(EX_FAILURE, error.code)
        self.assertEqual("mandos: standard output: No space left on device\n", err.getvalue())

    def test_what_the_terminal_cannot_show_is_escaped(self) -> None:
        self.write("clients.conf", CLIENT.replace("[a]", "[\xe5]"))
        options = Options()
        options.parseOptions(["--configdir", str(self.directory), "--no-strict-modes", "--check-config"])
        raw = io.BytesIO()
        terminal = io.TextIOWrapper(raw, "ascii")
        with redirect_stdout(terminal):
            error = self.assertRaises(SystemExit, prepare, options)
        self.assertEqual(0, error.code)
        self.assertIn(b"\\xe5: enabled", raw.getvalue())
        terminal.close()

    def test_an_audit_log_is_tried_as_who_will_write_it_and_not_made(self) -> None:
        with tempfile.TemporaryDirectory() as place:
            path = Path(place, "audit.log")
            os.chmod(place, 0o777)
            self.ends(0, "--check-config", "--audit-log", str(path))
            self.assertFalse(path.exists())
            path.touch()
            path.chmod(0o600)
            self.ends(EX_CONFIG if os.geteuid() == 0 else 0, "--check-config", "--audit-log", str(path))
            self.ends(EX_CONFIG, "--check-config", "--audit-log", str(path / "below"))
            self.assertIn("ERROR: command line: --audit-log: ", self.out.getvalue())
            self.write("mandos.conf", f"[DEFAULT]\naudit_log = {place}/none/audit.log\n")
            self.ends(EX_CONFIG, "--check-config")
            self.assertIn("audit.log: No such file or directory; ", self.out.getvalue())
        self.assertEqual("", self.err.getvalue())

    def test_a_descriptor_that_is_no_socket_to_listen_on_is_found(self) -> None:
        with socket.socket() as listener, open("/dev/null", "rb") as null:
            self.ends(0, "--check-config", "--socket", str(listener.fileno()))
            self.ends(EX_CONFIG, "--check-config", "--socket", str(null.fileno()))
        self.assertIn("ERROR: command line: --socket: ", self.out.getvalue())

    def test_the_installation_tests_itself(self) -> None:
        self.ends(0, "--check")
        self.assertEqual(4, self.out.getvalue().count(": ok\n"))
        self.ends(EX_FAILURE, "--check", "--priority", "NORMAL")
        self.assertIn("FAILED", self.out.getvalue())
        self.write("mandos.conf", "no section\n")
        self.ends(EX_FAILURE, "--check")
        self.assertIn("mandos.conf:1", self.err.getvalue())

    def test_who_gives_up_says_why_and_ends(self) -> None:
        with redirect_stderr(io.StringIO()) as err:
            error = self.assertRaises(SystemExit, give_up, 77, ["one", "two"])
        self.assertEqual((77, "mandos: one\nmandos: two\n"), (error.code, err.getvalue()))
