"""The process that reads the configuration for the server, for real."""

from __future__ import annotations

import os
import pwd
import signal
import time

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from mandos_tx.configuration import load
from mandos_tx.formats.complaint import ConfigurationError
from mandos_tx.privileged_reader import PrivilegedReader, PrivilegedReadError, start


class PrivilegedReaderTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = os.path.abspath(self.mktemp())
        os.makedirs(self.directory, 0o700)
        self.write("clients.conf", f"[a]\nhost = h\nkey_id = {'a' * 64}\nsecfile = secret\n")
        self.write("secret", "first")

    def write(self, name: str, text: str) -> None:
        path = os.path.join(self.directory, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, 0o600)

    def start(self, strict: bool = False) -> PrivilegedReader:
        reader = start(self.directory, strict)
        self.addCleanup(reader.close)
        return reader

    def secret(self, reader: PrivilegedReader) -> bytes:
        [definition] = load(self.directory, reader.read(patience=30)).definitions
        return definition.settings.secret

    def test_each_reading_finds_what_is_in_the_files_then(self) -> None:
        reader = self.start()
        self.assertEqual(b"first", self.secret(reader))
        self.write("secret", "second")
        self.assertEqual(b"second", self.secret(reader))

    def test_it_follows_no_path_that_the_servers_user_has_written(self) -> None:
        if os.geteuid() != 0:
            raise SkipTest("only root can give a file to another user")
        secret = os.path.join(self.directory, "secret")
        try:
            user = pwd.getpwnam("_mandos")
        except KeyError:
            raise SkipTest("there is no _mandos") from None
        os.chown(os.path.join(self.directory, "clients.conf"), user.pw_uid, user.pw_gid)
        found = self.start(strict=True).read(patience=30)
        self.assertRaises(FileNotFoundError, found.read, secret)
        self.assertRaises(ConfigurationError, load, self.directory, found)

    def test_it_ends_with_its_socket_and_leaves_no_zombie(self) -> None:
        reader = self.start()
        self.secret(reader)
        pid = reader.pid
        assert pid is not None
        reader.close()
        self.assertRaises(ProcessLookupError, os.kill, pid, 0)
        self.assertRaises(PrivilegedReadError, reader.read)

    def test_one_that_hangs_is_not_waited_for(self) -> None:
        reader = self.start()
        self.secret(reader)
        pid = reader.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        self.addCleanup(os.waitpid, pid, 0)
        self.addCleanup(os.kill, pid, signal.SIGCONT)
        before = time.monotonic()
        reader.close()
        self.assertLess(time.monotonic() - before, 1)
        reader.close()

    def test_signals_from_the_terminal_do_not_end_it(self) -> None:
        reader = self.start()
        self.secret(reader)
        for number in (signal.SIGINT, signal.SIGHUP):
            os.kill(reader.pid or 0, number)
        self.assertEqual(b"first", self.secret(reader))

    def test_one_that_was_killed_is_an_error(self) -> None:
        reader = self.start()
        os.kill(reader.pid or 0, signal.SIGKILL)
        self.assertRaises(PrivilegedReadError, reader.read)
