"""The clients that the configuration directory defines: clients.conf, clients.d/*.conf, and their secfiles.

A directory or a file that does not exist defines no clients.  Whatever is wrong is found in one go.  The files of
clients.d are read in the order of their names, without those that begin with a dot.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sized
from typing import Final

from attrs import field, frozen

from mandos_tx import strict_modes
from mandos_tx.configuration_files import ConfigFiles
from mandos_tx.core.client import ClientDefinition
from mandos_tx.formats.clients_conf import SecretFile, parse_clients_conf
from mandos_tx.formats.complaint import Complaint, ConfigurationError, Fault, one_line
from mandos_tx.formats.ini import Document
from mandos_tx.formats.rfc3339 import format_duration

MAIN_FILE: Final = "clients.conf"
DIRECTORY: Final = "clients.d"
_SUFFIX: Final = ".conf"
_REMEDY_NO_CLIENTS: Final = "add what mandos-keygen prints for each client"


@frozen
class Configuration:
    """The clients, in the order of the files, and what the administrator should look at."""

    definitions: tuple[ClientDefinition, ...] = field(repr=False)
    warnings: tuple[Complaint, ...]


def load(
    configdir: str, files: ConfigFiles, *, strict: bool = True, refused: Callable[[str], object] = lambda path: None
) -> Configuration:
    """The clients that this (absolute) directory defines.

    :param strict: whether to refuse files that others may write; from then on no secfile is read
    :param refused: is called with the path of each of those files
    :raises ConfigurationError: something is wrong; it has everything that is.
    """
    reader = _Reader(files, strict, refused)
    clients = parse_clients_conf(reader.documents(configdir), reader.read_secfile)
    complaints = [*reader.complaints, *clients.complaints]
    warnings = [*reader.warnings, *clients.warnings]
    if complaints:
        raise ConfigurationError(complaints, warnings)
    if not clients.definitions:
        warnings.append(
            Complaint(os.path.join(configdir, MAIN_FILE), None, None, None, "No clients defined", _REMEDY_NO_CLIENTS)
        )
    return Configuration(tuple(clients.definitions), tuple(warnings))


def describe(outcome: Configuration | ConfigurationError) -> list[str]:
    """The lines of ``--check-config``: what is wrong or doubtful, each client, and how many of each there are."""
    warnings = [f"WARNING: {warning}" for warning in outcome.warnings]
    if isinstance(outcome, ConfigurationError):
        errors = [f"ERROR: {complaint}" for complaint in outcome.complaints]
        return [*warnings, *errors, f"{_count(errors, 'error')}, {_count(warnings, 'warning')}"]
    clients = list(map(_description, outcome.definitions))
    return [*warnings, *clients, f"{_count(clients, 'client')}, {_count(warnings, 'warning')}"]


def _count(things: Sized, name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def _description(definition: ClientDefinition) -> str:
    settings = definition.settings
    return (
        f"{one_line(definition.name)}: {'enabled' if definition.enabled else 'disabled'},"
        f" key ID {settings.key_id or 'none'}, secret of {len(settings.secret)} bytes,"
        f" timeout {format_duration(settings.timeout)}, interval {format_duration(settings.interval)}"
    )


class _Reader:
    """Reads the files, and looks at who else could have written them."""

    def __init__(self, files: ConfigFiles, strict: bool, refused: Callable[[str], object]) -> None:
        self.complaints: list[Complaint] = []
        self.warnings: list[Complaint] = []
        self._files = files
        self._strict = strict
        self._refused = refused
        self._trusted = files.trusted
        self._server_users = files.server_users
        self._misled = False
        """Whether a path may be the word of somebody who must not choose what root reads."""

    def documents(self, configdir: str) -> Iterator[Document]:
        """clients.conf, empty if there is none, and what is in clients.d."""
        main = os.path.join(configdir, MAIN_FILE)
        yield self._document(main, missing_is_empty=True)
        directory = os.path.join(configdir, DIRECTORY)
        try:
            access, names = self._files.directory(directory)
        except FileNotFoundError:
            return
        except OSError as error:
            self._complain(directory, _unreadable(error))
            return
        if self._strict:
            for fault in strict_modes.access_faults(access, self._trusted):
                self._complain(directory, fault)
                self._misled = True
        for name in names:
            if name.endswith(_SUFFIX) and not name.startswith("."):
                yield self._document(os.path.join(directory, name))

    def read_secfile(self, path: str, naming_file: str) -> SecretFile:
        """A secfile; one that is not absolute is looked for beside the file that names it."""
        if not path.startswith(("~", "$")):
            path = os.path.join(os.path.dirname(naming_file), path)
        if self._misled:
            raise PermissionError(errno.EPERM, "others may write the configuration")
        found = self._files.read(path)
        faults = tuple(strict_modes.secret_faults(found, self._trusted, self._server_users)) if self._strict else ()
        if faults:
            self._refused(path)
        return SecretFile(found.content, faults, tuple(strict_modes.doubts(found)))

    def _document(self, path: str, *, missing_is_empty: bool = False) -> Document:
        try:
            found = self._files.read(path)
        except FileNotFoundError as error:
            if not missing_is_empty:
                self._complain(path, _unreadable(error))
            return Document.decode(path, b"")
        except OSError as error:
            self._complain(path, _unreadable(error))
            return Document.decode(path, b"")
        faults = tuple(strict_modes.faults(found, self._trusted)) if self._strict else ()
        for fault in faults:
            self._complain(path, fault)
        if faults:
            self._misled = True
            self._refused(path)
        for doubt in strict_modes.doubts(found):
            self.warnings.append(_complaint(path, doubt))
        return Document.decode(path, found.content)

    def _complain(self, path: str, fault: Fault) -> None:
        self.complaints.append(_complaint(path, fault))


def _unreadable(error: OSError) -> Fault:
    return Fault(f"cannot be read: {error.strerror}", "see that it is a file that root can read")


def _complaint(path: str, fault: Fault) -> Complaint:
    return Complaint(path, None, None, None, fault.problem, fault.remedy)
