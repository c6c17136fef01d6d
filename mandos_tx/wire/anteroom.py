"""Who may wait at the door: connections that have not yet proven a key, and which of them give way.

A new connection is always let in. Above ``limit`` connections in all, the oldest of the source that has the most gives
way at once. A source that has more than ``per_source`` loses its oldest as well, but only those that have been silent
for a while: a fleet behind one address that boots after a power cut is busy, an attacker's idle connections are not.
Connections that have not sent their line go first.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Protocol

from attrs import define, field

PATIENCE = 1.0
"""Seconds of silence after which a connection above its source's limit gives way."""


class Guest(Protocol):
    """A connection, as the anteroom sees it."""

    @property
    def source(self) -> str: ...

    def silent_for(self, now: float) -> float:
        """Seconds since the peer's last bytes; zero if there are some that we have not read yet."""
        ...


def source_of(host: str) -> str:
    """What counts as one source: an IPv4 address, an IPv6 /64, or a whole link-local address."""
    if ":" not in host:
        return host
    if host.startswith("::ffff:") and "." in host:
        return host[7:]
    if host.startswith("fe80:"):
        return host
    return socket.inet_pton(socket.AF_INET6, host.partition("%")[0])[:8].hex()


@define(eq=False)
class _Source:
    name: str
    silent: dict[Guest, None] = field(factory=dict)
    """Those whose line has not come, oldest first."""
    greeted: dict[Guest, None] = field(factory=dict)

    def __len__(self) -> int:
        return len(self.silent) + len(self.greeted)

    def oldest_first(self) -> Iterator[Guest]:
        yield from self.silent
        yield from self.greeted


@define(eq=False)
class Anteroom:
    """The connections that have proven nothing yet."""

    limit: int
    per_source: int
    given_way: int = 0
    """How many have had to leave, in all."""
    _count: int = 0
    _sources: dict[str, _Source] = field(factory=dict)
    _by_size: dict[int, dict[str, None]] = field(factory=dict)
    """Which sources have how many guests; no entry is empty."""
    _most: int = 0

    def __len__(self) -> int:
        return self._count

    def enter(self, guest: Guest, *, greeted: bool = False) -> Guest | None:
        """Let ``guest`` in; the result has to be dropped to make room for it."""
        source = self._sources.get(guest.source)
        if source is None:
            source = self._sources[guest.source] = _Source(guest.source)
        (source.greeted if greeted else source.silent)[guest] = None
        self._count += 1
        self._resized(source, len(source) - 1)
        return self.make_room() if self._count > self.limit else None

    def make_room(self) -> Guest | None:
        """The guest that has to give way now, whatever it is doing; it has left the anteroom already."""
        if not self._count:
            return None
        name = next(iter(self._by_size[self._most]))
        victim = next(self._sources[name].oldest_first())
        self._dismiss(victim)
        return victim

    def greeted(self, guest: Guest) -> None:
        """Note that the guest's line has come."""
        source = self._sources[guest.source]
        del source.silent[guest]
        source.greeted[guest] = None

    def leave(self, guest: Guest) -> None:
        """Let a guest go, because it has proven a key or is gone; does nothing if it has left before."""
        source = self._sources.get(guest.source)
        if source is None:
            return
        if guest in source.silent:
            del source.silent[guest]
        elif guest in source.greeted:
            del source.greeted[guest]
        else:
            return
        self._count -= 1
        self._resized(source, len(source) + 1)

    def overdue(self, now: float) -> list[Guest]:
        """The guests above their source's limit that have been silent for too long; they have left already."""
        victims: list[Guest] = []
        for size in [size for size in self._by_size if size > self.per_source]:
            for name in list(self._by_size[size]):
                spare = size - self.per_source
                for guest in self._sources[name].oldest_first():
                    if guest.silent_for(now) >= PATIENCE:
                        victims.append(guest)
                        spare -= 1
                        if not spare:
                            break
        for guest in victims:
            self._dismiss(guest)
        return victims

    def _dismiss(self, guest: Guest) -> None:
        self.leave(guest)
        self.given_way += 1

    def _resized(self, source: _Source, old: int) -> None:
        name, new = source.name, len(source)
        if old:
            peers = self._by_size[old]
            del peers[name]
            if not peers:
                del self._by_size[old]
        if new:
            self._by_size.setdefault(new, {})[name] = None
        else:
            del self._sources[name]
        if new > self._most or (old == self._most and old not in self._by_size):
            self._most = new
