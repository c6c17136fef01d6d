"""A place for the state: made while we are root, for whom we are going to be."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from twisted.application.service import Service
from twisted.logger import Logger

from mandos_tx.privileges import Identity


class StateHome(Service):
    """Before root is shed, sees to it that the server's user has a state directory.

    One that is missing is made, and one that is empty is given to that user; what holds files already is never touched.
    """

    _log = Logger()

    def __init__(self, path: str, owner: Identity | None) -> None:
        self._path = Path(path)
        self._owner = owner
        """Whom we are going to be; None if we are nobody else than we are."""

    def privilegedStartService(self) -> None:
        try:
            if self._owner is None:
                self._path.mkdir(mode=0o700, exist_ok=True)
            else:
                self._make_for(self._owner)
        except OSError as error:
            self._log.error(
                "The state directory {path} cannot be made: {reason}", path=str(self._path), reason=error.strerror
            )

    def _make_for(self, owner: Identity) -> None:
        try:
            self._path.mkdir(mode=0o700)
        except FileExistsError:
            status = self._path.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or any(self._path.iterdir()):
                return
            if status.st_mode & stat.S_ISVTX:
                return  # a directory for everybody, such as /tmp
            self._log.info("Giving the empty directory {path} to {user}", path=str(self._path), user=owner.name)
        os.chown(self._path, owner.uid, owner.gid, follow_symlinks=False)
