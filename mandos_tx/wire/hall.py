"""All connections of the key server: who is ready, who has had its time, who gives way.

The reactor watches one descriptor for all of them, an epoll(7) set of their own: that costs a third less CPU per
connection than a reader each, and no idle connection costs anything.

=========  ==========================================================================
Stage      Time limit
=========  ==========================================================================
greeting   ``GREETING`` after accept
handshake  ``Limits.handshake`` after accept, whatever trickles in
proven     none here: the approval delay of the client
sending    ``STALLED`` without progress, ``SENDING`` in all
closing    ``CLOSING``
=========  ==========================================================================
"""

from __future__ import annotations

import select
from collections.abc import Callable
from functools import partial
from typing import Any

from attrs import frozen
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mandos_tx.throttle import Throttle
from mandos_tx.wire.anteroom import Anteroom
from mandos_tx.wire.transport import Connection, Conversation

GREETING = 10.0
STALLED = 30.0
SENDING = 600.0
CLOSING = 5.0
TICK = 0.25
"""Seconds between two looks at the time limits."""

BATCH = 64
"""Connections that get their turn before the reactor's other work does."""

_UNPROVEN = ("greeting", "handshake")


@frozen
class Limits:
    """What one server allows peers."""

    handshake: float = 30.0
    """Seconds from accept to the end of the handshake."""
    unauthenticated: int = 4096
    per_source: int = 64


@implementer(IReadDescriptor)
class Hall:
    """The connections. ``start`` and ``close`` bracket its use."""

    def __init__(self, reactor: Any, limits: Limits, throttle: Throttle) -> None:
        self._reactor = reactor
        self._limits = limits
        self._throttle = throttle
        self._log = Logger()
        self._epoll: Any = None
        self._connections: dict[int, Connection] = {}
        self._anteroom = Anteroom(limits.unauthenticated, limits.per_source)
        self._stages: dict[str, dict[Connection, float]] = {
            stage: {} for stage in ("greeting", "handshake", "sending", "closing")
        }
        """Since when each connection is in its stage, oldest first; for sending, since when it has not got on."""
        self._sending_since: dict[Connection, float] = {}
        self._tick = LoopingCall(self._enforce)
        self._tick.clock = reactor
        self._emptied: list[Callable[[], None]] = []
        self.now = 0.0

    def __len__(self) -> int:
        return len(self._connections)

    def start(self) -> None:
        self._epoll = select.epoll()
        self._reactor.addReader(self)

    def close(self) -> None:
        """End every connection at once, and release the descriptor."""
        if self._epoll is None:
            return
        for connection in list(self._connections.values()):
            connection.abort()
        self._reactor.removeReader(self)
        self._epoll.close()
        self._epoll = None
        if self._tick.running:
            self._tick.stop()

    def look_at_clock(self) -> float:
        """Begin a turn: what happens in it happens now."""
        self.now = self._reactor.seconds()
        return self.now

    def dismiss_idle(self) -> None:
        """End the connections that do not have a secret under way."""
        for connection in list(self._connections.values()):
            if connection.stage not in ("sending", "closing"):
                connection.abort()

    def when_empty(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called once no connection is left; at once if there is none."""
        if self._connections:
            self._emptied.append(callback)
        else:
            callback()

    def admit(self, connection: Connection, conversation: Conversation) -> None:
        """Take in a connection and let it begin; another may have to go for it."""
        self._connections[connection.fd] = connection
        self._epoll.register(connection.fd, select.EPOLLIN)
        if not self._tick.running:
            self._tick.start(TICK, now=False)
        self._let(connection, partial(connection.begin, conversation))
        if connection.stage not in _UNPROVEN:
            return
        self._stages[connection.stage][connection] = connection.accepted
        victim = self._anteroom.enter(connection, greeted=connection.stage == "handshake")
        if isinstance(victim, Connection):
            self._give_way(victim)

    def make_room(self) -> bool:
        """Drop the connection that can best be spared, to get its descriptor; False if there is none."""
        victim = self._anteroom.make_room()
        if not isinstance(victim, Connection):
            return False
        self._give_way(victim)
        return True

    # -- what connections tell (transport.Hall) ------------------------------------------------------

    def wake_to_read(self, connection: Connection) -> None:
        self._epoll.modify(connection.fd, select.EPOLLIN)

    def wake_to_write(self, connection: Connection) -> None:
        self._epoll.modify(connection.fd, select.EPOLLOUT)

    def moved(self, connection: Connection) -> None:
        stages = self._stages
        stage = connection.stage
        if stage == "proven":
            stages["handshake"].pop(connection, None)  # it is not there if the peer was quick
            self._anteroom.leave(connection)
        elif stage == "closing":
            stages["sending"].pop(connection, None)
            self._sending_since.pop(connection, None)
            stages["closing"][connection] = self.now
        elif stage == "sending":
            stages["sending"].pop(connection, None)
            stages["sending"][connection] = self.now
            self._sending_since.setdefault(connection, self.now)
        elif connection in stages["greeting"]:
            del stages["greeting"][connection]
            stages["handshake"][connection] = connection.accepted
            self._anteroom.greeted(connection)

    def gone(self, connection: Connection) -> None:
        del self._connections[connection.fd]
        self._epoll.unregister(connection.fd)
        if connection.stage in _UNPROVEN:
            self._anteroom.leave(connection)
        self._stages.get(connection.stage, {}).pop(connection, None)
        self._sending_since.pop(connection, None)
        if not self._connections:
            self._emptied_now()

    # -- IReadDescriptor -----------------------------------------------------------------------------

    def fileno(self) -> int:
        return int(self._epoll.fileno()) if self._epoll is not None else -1

    def logPrefix(self) -> str:
        return "key server"

    def doRead(self) -> None:
        self.look_at_clock()
        connections = self._connections
        for fd, _ in self._epoll.poll(0, BATCH):
            connection = connections.get(fd)
            if connection is not None:
                self._let(connection, connection.ready)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor lets go of us; nothing to do, ``close`` has done it."""

    # ------------------------------------------------------------------------------------------------

    def _let(self, connection: Connection, go_on: Callable[[], None]) -> None:
        try:
            go_on()
        except Exception:
            self._log.failure("Connection from {address} failed", address=connection.address)
            connection.abort()

    def _give_way(self, connection: Connection) -> None:
        if self._throttle.admits():
            self._log.warn(
                "Too many connections without a key ({count}): dropped the oldest from {address}",
                count=len(self._anteroom) + 1,
                address=connection.address,
            )
        connection.abort()

    def _emptied_now(self) -> None:
        if self._tick.running:
            self._tick.stop()
        callbacks, self._emptied = self._emptied, []
        for callback in callbacks:
            callback()

    def _enforce(self) -> None:
        now = self.look_at_clock()
        for connection in self._overdue(now):
            connection.abort()
        for guest in self._anteroom.overdue(now):
            if isinstance(guest, Connection):
                self._give_way(guest)

    def _overdue(self, now: float) -> list[Connection]:
        allowed = (
            ("greeting", GREETING),
            ("handshake", self._limits.handshake),
            ("sending", STALLED),
            ("closing", CLOSING),
        )
        late: list[Connection] = []
        for stage, limit in allowed:
            for connection, since in self._stages[stage].items():
                if now - since < limit:
                    break
                late.append(connection)
        late.extend(c for c, since in self._sending_since.items() if now - since >= SENDING and c not in late)
        return late
