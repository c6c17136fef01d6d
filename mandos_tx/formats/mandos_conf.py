"""mandos.conf: the options of the server, each one optional; mandos.conf(5) and our own.

There is only ``[DEFAULT]``, an empty value means that the option is not set, and percent signs are just themselves.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any, Final

from attrs import field, frozen

from mandos_tx.formats.complaint import Complaint, Fault, show
from mandos_tx.formats.ini import DEFAULT, Document
from mandos_tx.formats.nearest import remedy_for_unknown
from mandos_tx.formats.option_values import boolean, duration_within, number

DEBUG_LEVELS: Final = ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG")

_MOST_DESCRIPTORS = 1 << 20


@frozen
class MandosConf:
    """What mandos.conf says; None where it says nothing."""

    interface: str | None = None
    address: str | None = None
    port: int | None = None
    """0: the kernel chooses."""
    socket: int | None = None
    """File descriptor."""
    priority: str | None = None
    servicename: str | None = None
    statedir: str | None = None
    debug: bool | None = None
    debuglevel: str | None = None
    foreground: bool | None = None
    use_dbus: bool | None = None
    use_ipv6: bool | None = None
    zeroconf: bool | None = None
    restore: bool | None = None
    strict_modes: bool | None = None
    state_required: bool | None = None
    audit_log: str | None = None
    audit_required: bool | None = None
    max_checkers: int | None = None
    handshake_timeout: timedelta | None = None
    max_unauthenticated: int | None = None
    max_unauthenticated_per_source: int | None = None
    log_json: bool | None = None

    lines: Mapping[str, int] = field(factory=dict, eq=False)
    """In which line each option that is set stands."""


def parse_mandos_conf(file: str, data: bytes) -> tuple[MandosConf, list[Complaint], list[Complaint]]:
    """What the file says, the complaints about it, and the warnings."""
    document = Document.decode(file, data)
    warnings = [
        Complaint(
            file, document.line(section.offset), section.name, None, "this section counts for nothing", _REMEDY_SECTION
        )
        for section in document.sections()
    ]
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for name, (text, offset) in document.defaults().items():
        line = document.line(offset)
        if name not in VALUES:
            warnings.append(Complaint(file, line, DEFAULT, name, "unknown option", remedy_for_unknown(name, VALUES)))
        elif text:
            try:
                values[name], lines[name] = VALUES[name](text), line
            except Fault as fault:
                document.complaints.append(Complaint(file, line, DEFAULT, name, fault.problem, fault.remedy))
    return MandosConf(**values, lines=lines), sorted(document.complaints, key=_by_line), sorted(warnings, key=_by_line)


def _by_line(complaint: Complaint) -> int:
    return complaint.line or 0


def _address(text: str) -> str:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise Fault(
            f'"{show(text)}" is no IP address', "write an IPv6 address such as ::1 or ::FFFF:192.0.2.3"
        ) from None
    return text


def _debug_level(text: str) -> str:
    if text.upper() not in DEBUG_LEVELS:
        raise Fault(f'"{show(text)}" is no level', f"write one of {', '.join(DEBUG_LEVELS)}")
    return text.upper()


def _printable(text: str) -> str:
    if not text.isprintable():
        raise Fault(f'"{show(text)}" has characters that cannot be printed', "write it on one line, without them")
    return text


VALUES: Final[Mapping[str, Callable[[str], Any]]] = {
    "interface": _printable,
    "address": _address,
    "port": partial(number, least=0, most=65535),
    "socket": partial(number, least=0, most=_MOST_DESCRIPTORS),
    "priority": _printable,
    "servicename": _printable,
    "statedir": _printable,
    "debug": boolean,
    "debuglevel": _debug_level,
    "foreground": boolean,
    "use_dbus": boolean,
    "use_ipv6": boolean,
    "zeroconf": boolean,
    "restore": boolean,
    "strict_modes": boolean,
    "state_required": boolean,
    "audit_log": _printable,
    "audit_required": boolean,
    "max_checkers": partial(number, least=1, most=_MOST_DESCRIPTORS),
    "handshake_timeout": partial(duration_within, least=timedelta(seconds=5), most=timedelta(seconds=120)),
    "max_unauthenticated": partial(number, least=1, most=_MOST_DESCRIPTORS),
    "max_unauthenticated_per_source": partial(number, least=1, most=_MOST_DESCRIPTORS),
    "log_json": boolean,
}
"""For each option, what reads its text, also where it stands on the command line; raises `Fault`."""

_REMEDY_SECTION = "put its options below [DEFAULT]"
