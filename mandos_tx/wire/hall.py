"""All connections of the key server: who is ready, who has had its time, who gives way.

The reactor watches one descriptor for all of them, an epoll(7) set of their own: that costs much less CPU per
connection than a reader each, and no idle connection costs any. What need not be done at once is done a few times a
second for all: most connections have come and gone between two such moments.

=========  ==========================================================================
Stage      Time limit
=========  ==========================================================================
greeting   ``GREETING`` after accept
handshake  ``Limits.handshake`` after accept, whatever trickles in
proven     none here: the approval delay of the client
sending    ``STALLED`` without progress, ``SENDING`` in all
closing    ``CLOSING``; the peer's end is looked for at each tick
=========  ==========================================================================
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

from attrs import frozen
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mandos_tx.memory import give_back
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

CROWD = 256
"""Connections that leave behind enough memory to give it back."""

_UNPROVEN = ("greeting", "handshake")
_LIMITED = (*_UNPROVEN, "sending", "closing")


@frozen
class Limits:
    """What one server allows peers."""

    handshake: float = 30.0
    """Seconds from accept to the end of the handshake."""
    unauthenticated: int = 4096
    per_source: int = 64
    closing: int = 256
    """Connections that we have ended, and that wait for the peer to do so too."""


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
        self._fresh: dict[Connection, None] = {}
        """Those that came since the last tick and have proven nothing yet."""
        self._anteroom = Anteroom(limits.unauthenticated, limits.per_source)
        """The rest of those that have proven nothing yet."""
        self._since: dict[str, dict[Connection, float]] = {stage: {} for stage in _LIMITED}
        """Since when connections have been in a stage; in the handshake, since when they are here; for sending, since
        when they have not got on. Oldest first, but for the handshake."""
        self._sending_since: dict[Connection, float] = {}
        self._tick = LoopingCall(self._enforce)
        self._tick.clock = reactor
        self._emptied: list[Callable[[], None]] = []
        self._most = 0
        """How many connections there were at the most since memory was last given back."""
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
        self._look_for_ends()
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
        self._fresh[connection] = None
        if len(self._fresh) + len(self._anteroom) > self._limits.unauthenticated:
            self._seat_the_fresh()
        connection.begin(conversation)
        self._go_on(connection)

    def make_room(self) -> bool:
        """Drop the connection that can best be spared, to get its descriptor; False if there is none."""
        closing = len(self._since["closing"])
        self._look_for_ends()
        self._leave_oldest(max(closing - 1, 0))
        if len(self._since["closing"]) < closing:
            return True
        self._seat_the_fresh()
        victim = self._anteroom.make_room()
        if not isinstance(victim, Connection):
            return False
        self._give_way(victim)
        return True

    # -- what connections tell (transport.Hall) ------------------------------------------------------

    def wake_to_write(self, connection: Connection) -> None:
        self._epoll.modify(connection.fd, select.EPOLLOUT)

    def moved(self, connection: Connection) -> None:
        stage = connection.stage
        if stage == "handshake":
            if self._since["greeting"].pop(connection, None) is not None:
                self._since["handshake"][connection] = connection.accepted
                self._anteroom.greeted(connection)
        elif stage == "proven":
            self._leave_unproven(connection)
        elif stage == "sending":
            self._since["sending"].pop(connection, None)
            self._since["sending"][connection] = self.now
            self._sending_since.setdefault(connection, self.now)
        elif stage == "closing":
            if self._sending_since.pop(connection, None) is not None:
                del self._since["sending"][connection]
            self._epoll.unregister(connection.fd)
            self._since["closing"][connection] = self.now
            if len(self._since["closing"]) > self._limits.closing:
                self._look_for_ends()
                self._leave_oldest(self._limits.closing // 2)

    def leaving(self, connection: Connection) -> None:
        del self._connections[connection.fd]
        if self._since["closing"].pop(connection, None) is not None:
            return
        self._epoll.unregister(connection.fd)
        self._leave_unproven(connection)
        if self._sending_since.pop(connection, None) is not None:
            del self._since["sending"][connection]

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
                self._go_on(connection)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor lets go of us; nothing to do, ``close`` has done it."""

    # ------------------------------------------------------------------------------------------------

    def _go_on(self, connection: Connection) -> None:
        try:
            connection.ready()
        except Exception:
            self._log.failure("Connection from {address} failed", address=connection.address)
            connection.abort()

    def _leave_unproven(self, connection: Connection) -> None:
        if connection in self._fresh:
            del self._fresh[connection]
            return
        for stage in _UNPROVEN:
            self._since[stage].pop(connection, None)
        self._anteroom.leave(connection)

    def _seat_the_fresh(self) -> None:
        fresh, self._fresh = self._fresh, {}
        for connection in fresh:
            self._since[connection.stage][connection] = connection.accepted
            victim = self._anteroom.enter(connection, greeted=connection.stage == "handshake")
            if isinstance(victim, Connection):
                self._give_way(victim)

    def _give_way(self, connection: Connection) -> None:
        if self._throttle.admits():
            self._log.warn(
                "Too many connections without a key ({count}): dropped the oldest from {address}",
                count=len(self._anteroom) + 1,
                address=connection.address,
            )
        connection.abort()

    # -- the tick ------------------------------------------------------------------------------------

    def _enforce(self) -> None:
        now = self.look_at_clock()
        self._seat_the_fresh()
        self._look_for_ends()
        for connection in self._overdue(now):
            connection.abort()
        for guest in self._anteroom.overdue(now):
            if isinstance(guest, Connection):
                self._give_way(guest)
        self._most = max(self._most, len(self._connections))
        if self._most >= CROWD and len(self._connections) <= self._most // 4:
            give_back()
            self._most = 0
        if not self._connections:
            self._tick.stop()
            callbacks, self._emptied = self._emptied, []
            for callback in callbacks:
                callback()

    def _look_for_ends(self) -> None:
        """Release the connections that the peer has ended as well."""
        for connection in list(self._since["closing"]):
            self._go_on(connection)

    def _leave_oldest(self, most: int) -> None:
        """Wait no longer for the end of the oldest, so that there are ``most`` left; they have all that they get."""
        closing = self._since["closing"]
        for connection in list(closing)[: max(len(closing) - most, 0)]:
            connection.abort()

    def _overdue(self, now: float) -> list[Connection]:
        late: list[Connection] = []
        for stage, limit in (("greeting", GREETING), ("sending", STALLED), ("closing", CLOSING)):
            for connection, since in self._since[stage].items():
                if now - since < limit:
                    break
                late.append(connection)
        # these two are not in the order in which their time began
        late.extend(c for c, since in self._since["handshake"].items() if now - since >= self._limits.handshake)
        late.extend(c for c, since in self._sending_since.items() if now - since >= SENDING and c not in late)
        return late
