"""clients.conf and the files beside it: from sections of text to client definitions; mandos-clients.conf(5).

``[DEFAULT]`` of clients.conf holds for the clients of every file; another file's own ``[DEFAULT]`` goes before it, for
the clients of that file.  Everything that is wrong is found in one go.  Nothing here reads a file: what a ``secfile``
names is asked for.

In a large fleet most values are the same, so each is read once and shared: the defaults once for a file, durations
and checkers through the caches of what reads them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from functools import lru_cache, partial
from itertools import islice
from typing import Any, Final, TypeAlias

from attrs import Factory, define, field, frozen

from mandos_tx.core.client import ClientDefinition, ClientSettings, KeyID
from mandos_tx.formats.checker_command import RUN_TIME_NAMES, CheckerCommandError, UnknownNameError, check_template
from mandos_tx.formats.complaint import Complaint, Fault, show
from mandos_tx.formats.expansion import expand, references
from mandos_tx.formats.ini import DEFAULT, Document, Section
from mandos_tx.formats.nearest import remedy_for_unknown
from mandos_tx.formats.option_values import base64, boolean, duration, hexadecimal


@frozen
class SecretFile:
    """What a secfile holds, and what is wrong with, or doubtful about, the file itself."""

    content: bytes = field(repr=False)
    faults: tuple[Fault, ...] = ()
    doubts: tuple[Fault, ...] = ()


ReadSecretFile: TypeAlias = Callable[[str, str], SecretFile]
"""From a secfile as it is written, and the file that it is written in; raises OSError."""


@frozen
class Clients:
    """The clients of all files in order, and what there is to say about them."""

    definitions: list[ClientDefinition] = field(repr=False)
    complaints: list[Complaint]
    warnings: list[Complaint]


def parse_clients_conf(documents: Iterable[Document], read_secfile: ReadSecretFile) -> Clients:
    """The clients that the documents define; the first is clients.conf, whose ``[DEFAULT]`` holds for all."""
    run = _Run(read_secfile)
    base = _Defaults()
    for number, document in enumerate(documents):
        run.files[document.file] = number
        defaults = run.read_defaults(document, base)
        if number == 0:
            base = defaults
        for section in document.sections():
            definition = _SectionReader(run, section, defaults, _Place(document, section.offset)).read()
            if definition is not None:
                run.definitions.append(definition)
        run.complaints.extend(document.complaints)
    run.warn_of_unknown_defaults()
    return Clients(run.definitions, run.in_order(run.complaints), run.in_order(run.warnings))


@frozen
class _Place:
    document: Document
    offset: int

    def __str__(self) -> str:
        return f"{self.document.file}:{self.document.line(self.offset)}"

    def complaint(self, section: str, option: str | None, problem: str, remedy: str) -> Complaint:
        return Complaint(self.document.file, self.document.line(self.offset), section, option, problem, remedy)


@frozen
class _Defaults:
    """What holds where a section says nothing."""

    values: Mapping[str, Any] = Factory(dict)
    """Those that are the same in every section, read."""
    faulty: frozenset[str] = frozenset()
    """Those that have been complained about."""
    templates: tuple[str, ...] = ()
    """Those that refer to other options, so that each section has its own."""
    texts: Mapping[str, str] = Factory(dict)
    """All of them, as they are written."""
    places: Mapping[str, _Place] = Factory(dict)
    references: frozenset[str] = frozenset()
    """What they refer to."""


@define
class _Run:
    """One reading of all documents."""

    read_secfile: ReadSecretFile
    definitions: list[ClientDefinition] = Factory(list)
    complaints: list[Complaint] = Factory(list)
    warnings: list[Complaint] = Factory(list)
    files: dict[str, int] = Factory(dict)
    names: dict[str, _Place] = Factory(dict)
    """Where each client is defined."""
    key_ids: dict[KeyID, _Place] = Factory(dict)
    warned_of_defaults: set[Complaint] = Factory(set)
    unknown_defaults: dict[str, _Place] = Factory(dict)
    references: set[str] = Factory(set)

    def read_defaults(self, document: Document, base: _Defaults) -> _Defaults:
        """What holds for the sections of this document, where the base holds for those of all documents."""
        own = document.defaults()
        if not own:
            return base
        texts = {**base.texts, **{name: text for name, (text, _) in own.items()}}
        places = {**base.places, **{name: _Place(document, offset) for name, (_, offset) in own.items()}}
        values = {name: value for name, value in base.values.items() if name not in own}
        faulty = set(base.faulty).difference(own)
        for name in own:
            if name not in _READERS:
                self.unknown_defaults.setdefault(name, places[name])
            elif not any(references(texts[name])):
                try:
                    values[name] = _READERS[name](expand(texts[name], texts.get))
                except Fault as fault:
                    self.complaints.append(places[name].complaint(DEFAULT, name, fault.problem, fault.remedy))
                    faulty.add(name)
        referring = {name: frozenset(references(text)) for name, text in texts.items()}
        self.references.update(*referring.values())
        return _Defaults(
            values=values,
            faulty=frozenset(faulty),
            templates=tuple(name for name, names in referring.items() if names and name in _READERS),
            texts=texts,
            places=places,
            references=frozenset().union(*referring.values()),
        )

    def warn_of_unknown_defaults(self) -> None:
        for name, place in self.unknown_defaults.items():
            if name not in self.references:
                self.warnings.append(
                    place.complaint(DEFAULT, name, "unknown option", remedy_for_unknown(name, _READERS))
                )

    def in_order(self, complaints: Iterable[Complaint]) -> list[Complaint]:
        return sorted(complaints, key=lambda complaint: (self.files[complaint.file], complaint.line or 0))


class _SectionReader:
    """Reads one section: its client, or complaints."""

    def __init__(self, run: _Run, section: Section, defaults: _Defaults, place: _Place) -> None:
        self._run = run
        self._name = section.name
        self._options = section.options
        self._defaults = defaults
        self._place = place
        self._values = dict(defaults.values)
        self._faulty = set(defaults.faulty)

    def read(self) -> ClientDefinition | None:
        before = len(self._run.complaints)
        for name in dict.fromkeys((*self._options, *self._defaults.templates)):
            if name in _READERS:
                self._read_option(name)
        self._look_at_unknown_options()
        values = self._values
        self._identify(values.setdefault("key_id", None), values.setdefault("fingerprint", None))
        values["secret"] = self._secret(values.get("secret"), values.pop("secfile", None))
        enabled = values.pop("enabled", True)
        if self._faulty or len(self._run.complaints) > before:
            return None
        settings = ClientSettings(**values)
        self._doubt(settings)
        return ClientDefinition(self._name, settings, enabled)

    def _read_option(self, name: str) -> None:
        text = self._text(name) or ""
        try:
            self._values[name] = _READERS[name](expand(text, self._text) if "%" in text else text)
            self._faulty.discard(name)
        except Fault as fault:
            self._complain(name, fault.problem, fault.remedy)

    def _text(self, name: str) -> str | None:
        """An option's text before its expansion."""
        option = self._options.get(name)
        return self._defaults.texts.get(name) if option is None else option[0]

    def _where(self, option: str | None) -> _Place:
        if option in self._options:
            return _Place(self._place.document, self._options[option][1])
        return self._defaults.places.get(option or "", self._place)

    def _complain(self, option: str | None, problem: str, remedy: str) -> None:
        self._run.complaints.append(self._where(option).complaint(self._name, option, problem, remedy))
        if option is not None:
            self._faulty.add(option)

    def _warn(self, option: str, problem: str, remedy: str) -> None:
        """Warn of the option; once for all clients, if it is a default."""
        default = option not in self._options and option in self._defaults.places
        warning = self._where(option).complaint(DEFAULT if default else self._name, option, problem, remedy)
        if default and warning in self._run.warned_of_defaults:
            return
        if default:
            self._run.warned_of_defaults.add(warning)
        self._run.warnings.append(warning)

    def _look_at_unknown_options(self) -> None:
        unknown = [name for name in self._options if name not in _READERS]
        if not unknown and not self._run.unknown_defaults:
            return
        used = self._defaults.references.union(*(references(text) for text, _ in self._options.values()))
        self._run.references |= used
        for name in unknown:
            if self._seems_to_end_the_secret(name):
                self._complain("secret", "its last line seems to be cut off", _REMEDY_INDENT)
            elif name not in used:
                self._warn(name, "unknown option", remedy_for_unknown(name, _READERS))

    def _seems_to_end_the_secret(self, name: str) -> bool:
        """Whether an option looks as base64 does without the white space before it (``4T2zw4dxS5NswXWU0sVEXxo=``)."""
        before = dict(zip(islice(self._options, 1, None), self._options, strict=False)).get(name)
        return before == "secret" and self._options[name][0] in ("", "=") and bool(_END_OF_BASE64.fullmatch(name))

    def _identify(self, key_id: KeyID | None, fingerprint: str | None) -> None:
        if "\0" in self._name:
            self._complain(None, "a NUL character in the name", "leave it out")
        if (first := self._run.names.setdefault(self._name, self._place)) is not self._place:
            if first.document is not self._place.document:
                self._complain(None, f"a client of this name is at {first} already", "give each client its own name")
            return
        if key_id is not None:
            if (first := self._run.key_ids.setdefault(key_id, self._place)) is not self._place:
                self._complain("key_id", f"the client at {first} has the same", "make a key of its own for each client")
        elif fingerprint is not None:
            self._warn("fingerprint", "no client is known by its fingerprint since GnuTLS 3.6", _REMEDY_KEY_ID)
        elif self._faulty.isdisjoint(("key_id", "fingerprint")):
            remedy = "call the section [DEFAULT]" if self._name.upper() == DEFAULT else _REMEDY_KEY_ID
            self._complain("key_id", "missing", remedy)

    def _secret(self, secret: bytes | None, secfile: str | None) -> bytes:
        if secret is not None or "secret" in self._faulty:
            return secret or b""
        if secfile is None:
            if "secfile" not in self._faulty:
                self._complain(
                    "secret", "missing", "give the secret that mandos-keygen --password prints, or a secfile"
                )
            return b""
        try:
            found = self._run.read_secfile(secfile, self._where("secfile").document.file)
        except OSError as error:
            why = error.strerror or type(error).__name__
            self._complain("secfile", f"{show(secfile)} cannot be read: {why}", "name a file that root can read")
            return b""
        for fault in found.faults:
            self._complain("secfile", fault.problem, fault.remedy)
        for doubt in found.doubts:
            self._warn("secfile", doubt.problem, doubt.remedy)
        if not found.content:
            self._complain("secfile", f"{show(secfile)} is empty", "put the encrypted secret, not in base64, into it")
        return found.content

    def _doubt(self, settings: ClientSettings) -> None:
        """Warn of what is allowed and yet hardly meant."""
        if not settings.approved_by_default and not settings.approval_delay:
            self._warn(
                "approved_by_default",
                "without an approval_delay the client is denied at once, unless it has been approved beforehand",
                "set approval_delay to the time that an approval may take, such as PT30S",
            )
        if not settings.timeout:
            self._warn("timeout", "the client is disabled as soon as it is enabled", "set it to PT5M, the default")
        elif settings.timeout <= settings.interval:
            self._warn("timeout", "the client is disabled before its next check", "set it to more than the interval")
        if not settings.host and "%(host)s" in settings.checker:
            self._warn("host", "not set, but the checker needs it", "set it to the address of the client")


@lru_cache(maxsize=256)
def _checker(text: str) -> str:
    """The template, one and the same for all clients that have it."""
    command = _text(text)
    try:
        check_template(command)
    except UnknownNameError as error:
        raise Fault(str(error), _REMEDY_RUN_TIME_NAME) from None
    except CheckerCommandError as error:
        raise Fault(f"{error}, when the checker is to start", _REMEDY_RUN_TIME_PERCENT) from None
    return command


def _text(text: str) -> str:
    if "\0" in text:
        raise Fault("a NUL character", "leave it out")
    return text


def _interval(text: str) -> timedelta:
    interval = duration(text)
    if not interval:
        raise Fault("checks without a pause", "write a duration of a second (PT1S) or more")
    return interval


def _identifier(text: str, lengths: tuple[int, ...]) -> str | None:
    return hexadecimal(text, *lengths) or None


_READERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "key_id": partial(_identifier, lengths=(64,)),
    "fingerprint": partial(_identifier, lengths=(32, 40, 64)),
    "secret": base64,
    "secfile": _text,
    "host": _text,
    "checker": _checker,
    "timeout": duration,
    "extended_timeout": duration,
    "interval": _interval,
    "approval_delay": duration,
    "approval_duration": duration,
    "approved_by_default": boolean,
    "enabled": boolean,
}
"""For each option of a client, what reads its text after start-time expansion; raises `Fault`."""

_END_OF_BASE64 = re.compile(r"[a-z0-9+/]+")
_REMEDY_INDENT = "put white space before each line of the secret"
_REMEDY_KEY_ID = "set key_id to what mandos-keygen prints for the client"
_REMEDY_RUN_TIME_NAME = f"write one of {', '.join(sorted(RUN_TIME_NAMES))}"
_REMEDY_RUN_TIME_PERCENT = "write %%%% for a percent sign, %%(host)s for the host"
