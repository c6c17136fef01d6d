"""The ``mandos`` server with a front end for tests: a JSON object a line on the socket that it was started with.

    python -P controlled_server.py FD [OPTION...]

======================================  ==============================================================
Request                                 What happens
======================================  ==============================================================
{"change": [NAME, EVENT, ARGUMENT...]}  ``Administration.change`` with an event of ``core.happenings``
{"reconfigure": [NAME, {SETTING: ...}]} durations in seconds
{"add": [NAME, {SETTING: ...}]}         the secret in base64
{"remove": NAME}
{"clients": null}                       answers with the clients, without their secrets
{"left": null}                          answers with the seconds that each enabled client has left
======================================  ==============================================================

Every answer has the request's ``id``, and ``ok`` or ``error``: the name and the text of an exception. It is sent when
the Deferred fires, so what was answered is durable.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.protocol import Factory
from twisted.logger import globalLogBeginner
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from mandos_tx import logs
from mandos_tx.clock import Clock, fresh_time_line, install
from mandos_tx.core import happenings
from mandos_tx.core.client import Client, ClientDefinition, ClientSettings
from mandos_tx.privileges import raise_descriptor_limit
from mandos_tx.settings import Options
from mandos_tx.startup import prepare
from mandos_tx.tap import Parts, assemble

BY = "a test"


class ControlProtocol(LineOnlyReceiver):
    delimiter = b"\n"
    MAX_LENGTH = 1 << 24

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._commands: dict[str, Callable[[Any], Any]] = {
            "change": self._change,
            "reconfigure": self._reconfigure,
            "add": self._add,
            "remove": self._remove,
            "clients": self._clients,
            "left": self._left,
        }

    def lineReceived(self, line: bytes) -> None:
        request = json.loads(line)
        number = request.pop("id")
        ((command, argument),) = request.items()
        done: Deferred[Any] = maybeDeferred(self._commands[command], argument)
        done.addCallbacks(lambda result: {"ok": result}, _error)
        done.addCallback(lambda answer: self.sendLine(json.dumps({"id": number, **answer}).encode("ascii")))

    def _change(self, argument: Sequence[Any]) -> Deferred[Any]:
        name, event, *arguments = argument
        changed = self._parts.administration.change(name, getattr(happenings, event)(*arguments), BY)
        return changed.addCallback(describe)

    def _reconfigure(self, argument: Sequence[Any]) -> Deferred[Any]:
        name, settings = argument
        return self._parts.administration.reconfigure(name, BY, **_settings(settings)).addCallback(describe)

    def _add(self, argument: Sequence[Any]) -> Deferred[Any]:
        name, settings = argument
        values = {"key_id": None, "fingerprint": None, **_settings(settings)}
        definition = ClientDefinition(name, ClientSettings(**values))
        return self._parts.administration.add(definition, BY).addCallback(describe)

    def _remove(self, name: str) -> Deferred[None]:
        return self._parts.administration.remove(name, BY)

    def _clients(self, _: None) -> dict[str, Any]:
        return {name: describe(client) for name, client in self._parts.registry.clients.items()}

    def _left(self, _: None) -> dict[str, float]:
        registry = self._parts.registry
        now = registry.now()
        expiries = {name: client.expires for name, client in registry.clients.items()}
        return {name: (expires - now).total_seconds() for name, expires in expiries.items() if expires is not None}


class Control(Service):
    """Serves the one peer that the process was started for."""

    def __init__(self, parts: Parts, descriptor: int) -> None:
        self._parts = parts
        self._descriptor = descriptor

    def startService(self) -> None:
        super().startService()
        factory = Factory.forProtocol(lambda: ControlProtocol(self._parts))
        self._parts.reactor.adoptStreamConnection(self._descriptor, socket.AF_UNIX, factory)
        os.close(self._descriptor)


def describe(client: Client) -> dict[str, Any]:
    """What tests want to know of a client."""
    return {
        "enabled": client.enabled,
        "expires": client.expires.isoformat() if client.expires is not None else None,
        "waiting": len(client.petitions),
        "checked_ok": client.last_checked_ok.isoformat() if client.last_checked_ok is not None else None,
        "host": client.settings.host,
        "timeout": client.settings.timeout.total_seconds(),
    }


def _settings(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _CONVERTERS.get(name, _as_it_is)(value) for name, value in values.items()}


def _as_it_is(value: Any) -> Any:
    return value


def _duration(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


_DURATIONS = ("interval", "timeout", "extended_timeout", "approval_delay", "approval_duration")
_CONVERTERS: dict[str, Callable[[Any], Any]] = {**dict.fromkeys(_DURATIONS, _duration), "secret": base64.b64decode}


def _error(failure: Failure) -> dict[str, Any]:
    assert failure.value is not None
    return {"error": [type(failure.value).__name__, str(failure.value)]}


def main(descriptor: int, arguments: Sequence[str]) -> None:
    from twisted.internet import reactor

    os.set_inheritable(descriptor, False)
    options = Options()
    options.parseOptions(arguments)
    prepared = prepare(options)
    globalLogBeginner.beginLoggingTo([logs.Discard()], redirectStandardIO=False)
    clock = Clock(fresh_time_line())
    install(reactor, clock)  # type: ignore[arg-type]  # a module that passes for a reactor

    def control(parts: Parts) -> IService:
        service: IService = Control(parts, descriptor)
        return service

    service = assemble(reactor, clock, prepared, os.environ, descriptors=raise_descriptor_limit(), front_ends=[control])
    service.privilegedStartService()
    service.startService()
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.run()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
