"""The server's settings: the command line over mandos.conf over the defaults.

The command line is that of mandos(8), and our own options besides.  A long option may be cut short as long as it is
clear which one of mandos(8) is meant: our own ones do not make a command line ambiguous that was not.  A usage error
prints what is wrong and ends the process with status 2, whoever started it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import islice, pairwise
from typing import Any, ClassVar, Final, NoReturn

from attrs import evolve, frozen
from twisted.python import usage

from mandos_tx import __version__, configuration
from mandos_tx.configuration import Configuration
from mandos_tx.configuration_files import ConfigFiles
from mandos_tx.formats.complaint import Complaint, ConfigurationError, Fault
from mandos_tx.formats.ini import DEFAULT
from mandos_tx.formats.mandos_conf import VALUES, MandosConf, parse_mandos_conf
from mandos_tx.wire.gnutls import DEFAULT_PRIORITY

MAIN_FILE: Final = "mandos.conf"
USAGE_ERROR: Final = 2

_MANDOS_8: Final = (
    *("--help", "--version", "--interface", "--address", "--port", "--check", "--debug", "--debuglevel", "--priority"),
    *("--servicename", "--configdir", "--no-dbus", "--no-ipv6", "--no-restore", "--statedir", "--socket"),
    *("--foreground", "--no-zeroconf"),
)


@frozen
class ServerSettings:
    """How the server is to run."""

    interface: str | None = None
    """Announce and listen on this network interface only."""
    address: str | None = None
    """Listen on this address only."""
    port: int | None = None
    """None: not given; 0: the kernel chooses one."""
    socket: int | None = None
    """Descriptor of a socket to listen on, that is open already."""
    priority: str = DEFAULT_PRIORITY
    servicename: str = "Mandos"
    configdir: str = "/etc/mandos"
    statedir: str = "/var/lib/mandos"
    check: bool = False
    check_config: bool = False
    debug: bool = False
    debuglevel: str = "WARNING"
    foreground: bool = False
    use_dbus: bool = True
    use_ipv6: bool = True
    zeroconf: bool = True
    restore: bool = True
    strict_modes: bool = True
    """Whether to refuse configuration files that others may write."""
    state_required: bool = False
    """Whether to refuse to start when the state cannot be saved."""
    audit_log: str | None = None
    audit_required: bool = False
    """Whether a delivery must be in the audit log before it is made."""
    max_checkers: int = 64
    handshake_timeout: timedelta = timedelta(seconds=30)
    max_unauthenticated: int = 4096
    max_unauthenticated_per_source: int = 64
    log_json: bool = False


class Options(usage.Options):
    """The command line; ``given`` has what it sets, under the names of `ServerSettings`."""

    synopsis = "Usage: mandos [options]"
    longdesc = "Gives encrypted passwords to authenticated Mandos clients; see mandos(8)."

    optFlags: ClassVar = [  # noqa: N815 - Twisted's name
        ["check", None, "Run self-tests, and exit."],
        ["check-config", None, "Say what is in the configuration and what is wrong with it, and exit."],
        ["debug", None, "Stay in the foreground and log everything, also to the terminal."],
        ["no-dbus", None, "Do not provide the D-Bus interface."],
        ["no-ipv6", None, "Do not use IPv6."],
        ["no-restore", None, "Do not restore the saved state."],
        ["foreground", None, "Stay in the foreground."],
        ["no-zeroconf", None, "Do not announce the server; needs --port or --socket."],
        ["no-strict-modes", None, "Accept configuration files that others may write."],
        ["state-required", None, "Refuse to start when the state cannot be saved."],
        ["audit-required", None, "Refuse a secret when its delivery cannot be put into the audit log."],
        ["log-json", None, "Log to the terminal as JSON lines."],
    ]
    optParameters: ClassVar = [  # noqa: N815 - Twisted's name
        ["interface", "i", None, "Listen and announce on this network interface only."],
        ["address", "a", None, "Listen on this address only."],
        ["port", "p", None, "Listen on this port; 0 lets the kernel choose."],
        ["debuglevel", None, None, "Log this and what is worse: CRITICAL, ERROR, WARNING, INFO or DEBUG."],
        ["priority", None, None, "GnuTLS priority string."],
        ["servicename", None, None, "Name to announce the server by."],
        ["configdir", None, "/etc/mandos", "Directory of mandos.conf and clients.conf."],
        ["statedir", None, None, "Directory to keep the state in."],
        ["socket", None, None, "Listen on the socket that this file descriptor is."],
        ["audit-log", None, None, "File to put a line into for each release and refusal of a secret."],
        ["max-checkers", None, None, "Run at most so many checkers at once."],
        ["handshake-timeout", None, None, "TIME until a client must have proven who it is, PT5S to PT2M."],
        ["max-unauthenticated", None, None, "Hold at most so many connections that have not proven who they are."],
        ["max-unauthenticated-per-source", None, None, "And at most so many of them from one address."],
    ]
    compData = usage.Completions(  # noqa: N815 - Twisted's name
        optActions={
            "configdir": usage.CompleteDirs(),
            "statedir": usage.CompleteDirs(),
            "audit-log": usage.CompleteFiles(),
            "interface": usage.CompleteNetInterfaces(),
            "debuglevel": usage.CompleteList(["CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG"]),
        }
    )

    def opt_version(self) -> NoReturn:
        """Display the version and exit."""
        print(f"mandos {__version__}")
        raise SystemExit(0)

    opt_v = opt_version
    opt_h = usage.Options.opt_help

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse the command line; does not return if it is wrong, or only asks for help."""
        try:
            super().parseOptions(list(self._spelled_out(sys.argv[1:] if options is None else options)))
        except usage.UsageError as error:
            self.refuse(str(error))

    def refuse(self, problem: str) -> NoReturn:
        """Print the problem as that of a usage error, and exit."""
        print(f"{self.synopsis}\nmandos: error: {problem}", file=sys.stderr)
        raise SystemExit(USAGE_ERROR)

    def absolute(self, name: str, path: str) -> str:
        """The path, wherever the process goes; a usage error if it is somewhere that is gone."""
        try:
            return os.path.abspath(path)
        except OSError as error:
            self.refuse(f"{name}: {path} is relative to the working directory: {error.strerror}; give it from / on")

    def postOptions(self) -> None:
        self.given: dict[str, Any] = {"configdir": self.absolute("configdir", self["configdir"])}
        for flag, (name, value) in _FLAGS.items():
            if self[flag]:
                self.given[name] = value
        for name, read in VALUES.items():
            parameter = name.replace("_", "-")
            if isinstance(text := self.get(parameter), str):
                try:
                    self.given[name] = read(text)
                except Fault as fault:
                    raise usage.UsageError(f"--{parameter}: {fault.problem}; {fault.remedy}") from None

    def _spelled_out(self, words: Sequence[str]) -> Iterator[str]:
        """The command line with the options of mandos(8) in full, where it is they that are cut short."""
        known = {f"--{name.rstrip('=')}" for name in self.longOpt}
        takes_value = {f"--{name[:-1]}" for name in self.longOpt if name.endswith("=")}
        takes_value |= {f"-{short}" for short, after in pairwise(f"{self.shortOpt} ") if after == ":"}
        remaining = iter(words)
        for word in remaining:
            if word == "--" or not word.startswith("-"):
                yield from (word, *remaining)
                return
            option, equals, value = word.partition("=")
            meant = [name for name in _MANDOS_8 if name.startswith(option)]
            if len(meant) == 1 and option not in known:
                option = meant[0]
            yield f"{option}{equals}{value}"
            if option in takes_value and not equals:
                yield from islice(remaining, 1)


_FLAGS: Final[dict[str, tuple[str, bool]]] = {
    "check": ("check", True),
    "check-config": ("check_config", True),
    "debug": ("debug", True),
    "no-dbus": ("use_dbus", False),
    "no-ipv6": ("use_ipv6", False),
    "no-restore": ("restore", False),
    "foreground": ("foreground", True),
    "no-zeroconf": ("zeroconf", False),
    "no-strict-modes": ("strict_modes", False),
    "state-required": ("state_required", True),
    "audit-required": ("audit_required", True),
    "log-json": ("log_json", True),
}
"""What each flag sets."""


def read_settings(options: Options, files: ConfigFiles) -> tuple[ServerSettings, tuple[Complaint, ...]]:
    """The settings, and the warnings about mandos.conf; ends the process if they cannot be together.

    :raises ConfigurationError: something is wrong in mandos.conf.
    """
    conf, complaints, warnings = _read_mandos_conf(options, files)
    if complaints:
        raise ConfigurationError(complaints, warnings)
    return _settings(options, conf), tuple(warnings)


def read_everything(options: Options, files: ConfigFiles) -> tuple[ServerSettings, Configuration]:
    """The settings and the clients, with the warnings about both; as `read_settings`.

    :raises ConfigurationError: something is wrong in any of the files; it has everything that is.
    """
    conf, complaints, warnings = _read_mandos_conf(options, files)
    strict = options.given.get("strict_modes", conf.strict_modes is not False)
    try:
        clients = configuration.load(options.given["configdir"], files, strict=strict)
    except ConfigurationError as error:
        raise ConfigurationError([*complaints, *error.complaints], [*warnings, *error.warnings]) from None
    warnings.extend(clients.warnings)
    if complaints:
        raise ConfigurationError(complaints, warnings)
    return _settings(options, conf), evolve(clients, warnings=tuple(warnings))


def _read_mandos_conf(options: Options, files: ConfigFiles) -> tuple[MandosConf, list[Complaint], list[Complaint]]:
    path = os.path.join(options.given["configdir"], MAIN_FILE)
    try:
        content = files.read(path).content
    except FileNotFoundError:
        return MandosConf(), [], []
    except OSError as error:
        remedy = "see that it is a file that root can read"
        return MandosConf(), [Complaint(path, None, None, None, f"cannot be read: {error.strerror}", remedy)], []
    conf, complaints, warnings = parse_mandos_conf(path, content)
    return conf, complaints + _complaints_of_address(path, conf, options), warnings


def _settings(options: Options, conf: MandosConf) -> ServerSettings:
    given = options.given
    in_file = {name: value for name in VALUES if (value := getattr(conf, name)) is not None}
    values = in_file | given
    if values.get("debug"):
        values |= {"foreground": True, "debuglevel": "DEBUG"}
    for path in ("statedir", "audit_log"):
        if values.get(path):
            values[path] = options.absolute(path, values[path])
    settings = ServerSettings(**values)
    if not settings.zeroconf and settings.port is None and settings.socket is None:
        options.refuse("Needs port or socket to work without Zeroconf")
    if settings.address is not None and (fault := _wrong_family(settings.address, settings.use_ipv6)):
        options.refuse(f"--address: {fault.problem}; {fault.remedy}")
    return settings


def _complaints_of_address(path: str, conf: MandosConf, options: Options) -> list[Complaint]:
    """Whether an address in the file can be listened on, if the command line leaves it at that."""
    if conf.address is None or "address" in options.given:
        return []
    fault = _wrong_family(conf.address, options.given.get("use_ipv6", conf.use_ipv6 is not False))
    if fault is None:
        return []
    return [Complaint(path, conf.lines["address"], DEFAULT, "address", fault.problem, fault.remedy)]


def _wrong_family(address: str, use_ipv6: bool) -> Fault | None:
    if ":" in address and not use_ipv6:
        return Fault(f"{address} is an IPv6 address, and IPv6 is off", "give an IPv4 address")
    if ":" not in address and use_ipv6:
        return Fault(f"{address} is an IPv4 address", f"write ::FFFF:{address}")
    return None
