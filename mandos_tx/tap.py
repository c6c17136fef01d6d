"""The composition root: the only module that knows all the others, and puts a server together from them.

What is read is read in ``makeService``; what needs root happens in ``privilegedStartService``; everything else in
``startService``, first of all the shedding of root. Services start in the order of ``assemble``, so that each may rely
on those before it, and stop one by one in the reverse order.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, TypeAlias

from attrs import frozen
from twisted.application.service import IService, MultiService
from twisted.logger import Logger, LogLevel

from mandos_tx import logs
from mandos_tx.administration import Administration
from mandos_tx.audit import Audit
from mandos_tx.audit_file import AuditFile
from mandos_tx.auditing import Auditing
from mandos_tx.background import Background
from mandos_tx.checker import Checkers
from mandos_tx.clock import Clock, fresh_time_line, install
from mandos_tx.configuration_source import ConfigurationSource
from mandos_tx.core.client import Client
from mandos_tx.formats.checker_command import expand
from mandos_tx.gatekeeper import Gatekeeper
from mandos_tx.logbook import Logbook
from mandos_tx.privileges import (
    PrivilegeShedding,
    System,
    guard_memory,
    is_root,
    raise_descriptor_limit,
    unprivileged_identity,
)
from mandos_tx.process import ProcessGroups, environment_for_commands
from mandos_tx.registry import Registry
from mandos_tx.reloading import Reloading
from mandos_tx.restoring import Restoring
from mandos_tx.roster import Roster
from mandos_tx.sequence import Sequence
from mandos_tx.settings import Options, ServerSettings
from mandos_tx.startup import EX_CONFIG, EX_FAILURE, EX_NOPERM, Prepared, give_up, prepare
from mandos_tx.state.directory import StateDirectory
from mandos_tx.state.home import StateHome
from mandos_tx.state.keeper import Keeper
from mandos_tx.state.sqlite import SqliteStore
from mandos_tx.supervision import Readiness, Supervision
from mandos_tx.throttle import Throttle
from mandos_tx.wire.hall import Hall, Limits
from mandos_tx.wire.listener import CannotListen, Endpoint, KeyServer, inherited_socket, open_socket
from mandos_tx.wire.protocol import KeyServerFactory

__all__ = ["FrontEnd", "Parts", "assemble", "makeService"]

SPARE_DESCRIPTORS = 128
"""What the server needs besides connections that have proven nothing: deliveries, checkers, files."""

MOST_CLOSING = 256
"""Connections that we have ended and that wait for the peer's end, if there are descriptors enough."""


@frozen
class Parts:
    """What a front end may use."""

    reactor: Any
    settings: ServerSettings
    clock: Clock
    registry: Registry
    administration: Administration
    reloading: Reloading


FrontEnd: TypeAlias = Callable[[Parts], IService]


def makeService(options: Options) -> IService:
    """Make the server that the command line and the configuration describe; what twistd calls."""
    from twisted.internet import reactor

    guard_memory()
    return make_service(reactor, prepare(options), os.environ)


def make_service(reactor: Any, prepared: Prepared, environment: Mapping[str, str]) -> IService:
    """As ``makeService``, from what has been read already."""
    clock = Clock(fresh_time_line())
    install(reactor, clock)
    return assemble(reactor, clock, prepared, environment, descriptors=raise_descriptor_limit())


def assemble(
    reactor: Any,
    clock: Clock,
    prepared: Prepared,
    environment: Mapping[str, str],
    *,
    descriptors: int,
    front_ends: Iterable[FrontEnd] = (),
    system: System = os,
) -> Sequence:
    """Put the services together. Nothing happens before they are started."""
    settings = prepared.settings
    owner = unprivileged_identity() if is_root(system) else None
    refusals = Throttle(reactor, "refusals")
    failures = Throttle(reactor, "failures of peers")
    background = Background(reactor, "state")
    registry = Registry(reactor, clock)
    logbook = Logbook(clock, refusals, logs.threshold.wants)
    registry.observe(logbook.observe)
    keeper = Keeper(
        registry, SqliteStore(StateDirectory(settings.statedir, settings.strict_modes)), clock, reactor, background
    )
    roster = Roster(registry, keeper, clock)
    audit, audit_services = _audit(reactor, clock, registry, keeper, settings)
    gatekeeper = Gatekeeper(registry, audit)
    supervision = Supervision(reactor, environment)
    source = ConfigurationSource(settings.configdir, strict=settings.strict_modes, need_root=owner is not None)
    reloading = Reloading(
        reactor,
        source.read,
        Background(reactor, "configuration"),
        roster,
        supervision,
        _nothing if audit is None else audit.reopen,
    )
    checkers = Checkers(
        reactor,
        registry,
        ProcessGroups(reactor, environment_for_commands(environment)),
        _checker_command,
        settings.max_checkers,
        partial(logs.threshold.wants, LogLevel.debug),
    )
    parts = Parts(reactor, settings, clock, registry, Administration(registry, keeper), reloading)

    server = Sequence()
    services: list[IService] = [
        logs.Logging(_sinks(settings), settings.debuglevel, (*prepared.configuration.warnings, *_not_yet(settings))),
        StateHome(settings.statedir, owner),
        refusals,
        failures,
        source,
        PrivilegeShedding(_not_permitted, system),
        Restoring(
            registry,
            keeper,
            roster,
            prepared.configuration.definitions,
            settings.statedir,
            _misconfigured,
            restore=settings.restore,
            required=settings.state_required,
        ),
        *audit_services,
        _together(checkers, _key_server(reactor, prepared, gatekeeper, failures, environment, descriptors)),
        *(front_end(parts) for front_end in front_ends),
        reloading,
        supervision,
        Readiness(supervision),
    ]
    for service in services:
        service.setServiceParent(server)
    return server


def _key_server(
    reactor: Any,
    prepared: Prepared,
    gatekeeper: Gatekeeper,
    failures: Throttle,
    environment: Mapping[str, str],
    descriptors: int,
) -> KeyServer:
    settings = prepared.settings
    closing = min(MOST_CLOSING, descriptors // 8)
    room = max(descriptors - SPARE_DESCRIPTORS - closing, descriptors // 4)
    limits = Limits(
        handshake=settings.handshake_timeout.total_seconds(),
        unauthenticated=min(settings.max_unauthenticated, room),
        per_source=settings.max_unauthenticated_per_source,
        closing=closing,
    )

    def open_listener() -> socket.socket:
        endpoint = Endpoint(
            address=settings.address or "",
            port=settings.port or 0,
            interface=settings.interface or "",
            ipv6=settings.use_ipv6,
            descriptor=inherited_socket(environment) if settings.socket is None else settings.socket,
        )
        try:
            return open_socket(endpoint, Logger())
        except CannotListen as error:
            give_up(_status_of(error), [str(error)])

    hall = Hall(reactor, limits, failures)
    return KeyServer(reactor, open_listener, KeyServerFactory(gatekeeper, failures), hall, prepared.context)


def _audit(
    reactor: Any, clock: Clock, registry: Registry, keeper: Keeper, settings: ServerSettings
) -> tuple[Audit | None, list[IService]]:
    """The audit and its service, if there is to be one."""
    if settings.audit_log is None:
        return None, []
    file = AuditFile(settings.audit_log)
    audit = Audit(
        file, clock, reactor, Background(reactor, "audit"), lambda: keeper.generation, settings.audit_required
    )
    registry.observe(audit.observe)
    return audit, [Auditing(audit, file, _misconfigured)]


def _together(*services: IService) -> MultiService:
    """Services that do not rely on each other, and so stop at the same time."""
    several = MultiService()
    for service in services:
        service.setServiceParent(several)
    return several


def _misconfigured(message: str) -> None:
    give_up(EX_CONFIG, [message])


def _not_permitted(message: str) -> None:
    give_up(EX_NOPERM, [message])


def _nothing() -> None:
    """There is no log of our own to open anew."""


def _not_yet(settings: ServerSettings) -> Iterator[str]:
    """What was asked for, by default or not, that this version does not do."""
    if settings.zeroconf:
        yield "Zeroconf is not in this version: clients do not find the server by themselves, they need --connect"
    if settings.zeroconf and settings.port is None and settings.socket is None:
        yield "No port is set, so the kernel chooses one that no client knows: set port in mandos.conf"


def _status_of(error: CannotListen) -> int:
    if error.impossible:
        return EX_CONFIG
    return EX_NOPERM if error.denied else EX_FAILURE


def _sinks(settings: ServerSettings) -> list[logs.Sink]:
    """Where the log goes: to syslog; to the terminal as well if that was asked for, or if there is no syslog."""
    sinks: list[logs.Sink] = [logs.SyslogSink()]
    if settings.log_json:
        sinks.append(logs.JSONSink())
    elif settings.debug or (settings.foreground and not os.path.exists(logs.SYSLOG)):
        sinks.append(logs.ConsoleSink())
    return sinks


def _checker_command(client: Client) -> str:
    return expand(client.settings.checker, client)
