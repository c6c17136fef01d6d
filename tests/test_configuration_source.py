"""Tests of ``mandos_tx.configuration_source``."""

from __future__ import annotations

import socket
from pathlib import Path

from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.configuration_source import ConfigurationSource
from mandos_tx.privileged_reader import PrivilegedReader, PrivilegedReadError
from tests.fakes import Log


class ConfigurationSourceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.log = Log()
        self.log.listen(self)
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        (self.directory / "clients.conf").write_text(f"[a]\nkey_id = {'a' * 64}\nsecret = c2VjcmV0\n")
        self.started: list[tuple[str, bool]] = []

    def source(self, *, need_root: bool) -> ConfigurationSource:
        return ConfigurationSource(str(self.directory), strict=False, need_root=need_root, start_reader=self.start)

    def start(self, configdir: str, strict: bool) -> PrivilegedReader:
        self.started.append((configdir, strict))
        ours, theirs = socket.socketpair()
        theirs.close()
        return PrivilegedReader(ours)

    def test_who_may_read_the_files_does(self) -> None:
        source = self.source(need_root=False)
        source.privilegedStartService()
        [definition] = source.read().definitions
        self.assertEqual(("a", []), (definition.name, self.started))
        source.stopService()

    def test_who_will_not_be_root_any_more_has_them_read(self) -> None:
        source = self.source(need_root=True)
        source.privilegedStartService()
        self.assertEqual([(str(self.directory), False)], self.started)
        with self.assertRaises(PrivilegedReadError):
            source.read()
        source.stopService()
        source.stopService()

    def test_a_process_that_cannot_be_started_is_missed_only_at_a_reload(self) -> None:
        def fail(configdir: str, strict: bool) -> PrivilegedReader:
            raise OSError(11, "Resource temporarily unavailable")

        source = ConfigurationSource(str(self.directory), strict=False, need_root=True, start_reader=fail)
        source.privilegedStartService()
        self.assertEqual(
            [
                "The process that reads the configuration at a reload cannot be started: "
                "Resource temporarily unavailable"
            ],
            self.log.texts(LogLevel.error),
        )
