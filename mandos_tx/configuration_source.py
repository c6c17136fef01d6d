"""Where the clients are read from again: by ourselves, or by the process that stays root for it."""

from __future__ import annotations

from collections.abc import Callable

from twisted.application.service import Service
from twisted.logger import Logger

from mandos_tx import configuration, privileged_reader
from mandos_tx.configuration import Configuration
from mandos_tx.configuration_files import ConfigFiles, LocalFiles
from mandos_tx.privileged_reader import PrivilegedReader


class ConfigurationSource(Service):
    """Reads clients.conf and what belongs to it, also when only root may."""

    _log = Logger()

    def __init__(
        self,
        configdir: str,
        *,
        strict: bool,
        need_root: bool,
        start_reader: Callable[[str, bool], PrivilegedReader] = privileged_reader.start,
    ) -> None:
        self._configdir = configdir
        self._strict = strict
        self._need_root = need_root
        self._start_reader = start_reader
        self._reader: PrivilegedReader | None = None

    def privilegedStartService(self) -> None:
        if self._need_root:
            try:
                self._reader = self._start_reader(self._configdir, self._strict)
            except OSError as error:
                self._log.error(
                    "The process that reads the configuration at a reload cannot be started: {reason}",
                    reason=error.strerror or str(error),
                )

    def read(self) -> Configuration:
        """Read the configuration; blocks. Raises ConfigurationError, PrivilegedReadError."""
        files: ConfigFiles = LocalFiles() if self._reader is None else self._reader.read()
        return configuration.load(self._configdir, files, strict=self._strict)

    def stopService(self) -> None:
        super().stopService()
        if self._reader is not None:
            self._reader.close()
            self._reader = None
