"""The listening socket of the key server, and the service that owns it and its connections."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Mapping
from ipaddress import AddressValueError, IPv6Address
from pathlib import Path
from typing import Any

from attrs import frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mandos_tx.wire.gnutls import Context
from mandos_tx.wire.hall import Hall
from mandos_tx.wire.protocol import KeyServerFactory
from mandos_tx.wire.transport import Connection

MOST_ACCEPTS = 32
"""Connections taken from the listen queue before others get their turn."""

PAUSE = 0.5
"""Seconds without accepting when no descriptor can be had."""

GRACE = 2.0
"""Seconds that deliveries under way get when the server stops."""

_FIRST_INHERITED = 3  # SD_LISTEN_FDS_START
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PEER_GONE = (  # accept(2): what has become of the connection that would have been the next one
    *(errno.ECONNABORTED, errno.EINTR, errno.EPERM, errno.EPROTO, errno.ENOPROTOOPT, errno.EOPNOTSUPP),
    *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENONET),
)


class CannotListen(Exception):
    """The listening socket cannot be had; the text says why and what to do."""

    def __init__(self, text: str, cause: OSError | None = None) -> None:
        super().__init__(text)
        self.denied = cause is not None and cause.errno in (errno.EACCES, errno.EPERM)
        """Whether it is for want of permission."""
        self.impossible = cause is None
        """Whether it can never work as it is configured."""


@frozen
class Endpoint:
    """Where to listen; the options of mandos(8)."""

    address: str = ""
    port: int = 0
    interface: str = ""
    ipv6: bool = True
    descriptor: int | None = None
    """An open socket to use instead of making one."""


def inherited_socket(environment: Mapping[str, str]) -> int | None:
    """The descriptor of the socket that the service manager opened for this process (sd_listen_fds(3)), if any."""
    if environment.get("LISTEN_PID") != str(os.getpid()) or environment.get("LISTEN_FDS", "0") == "0":
        return None
    return _FIRST_INHERITED


def open_socket(endpoint: Endpoint, log: Logger) -> socket.socket:
    """Make, or take over, the listening socket. Raises CannotListen; a bad interface is only logged."""
    if endpoint.descriptor is not None:
        return _adopt(endpoint.descriptor)
    sock = _new_socket(endpoint.ipv6)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if endpoint.ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if endpoint.interface:
            _bind_to_interface(sock, endpoint.interface, log)
        sock.bind(_socket_address(endpoint, log))
        _listen(sock)
    except OSError as error:
        sock.close()
        where = f"[{endpoint.address}]:{endpoint.port}" if endpoint.address else f"port {endpoint.port}"
        raise CannotListen(f"Cannot listen on {where}: {error.strerror or error}", error) from None
    except CannotListen:
        sock.close()
        raise
    return sock


def _new_socket(ipv6: bool) -> socket.socket:
    try:
        return socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        remedy = "; without IPv6, use --no-ipv6" if error.errno == errno.EAFNOSUPPORT else ""
        raise CannotListen(f"No socket to listen on can be made: {error.strerror}{remedy}", error) from None


def tcp_socket(descriptor: int) -> socket.socket:
    """The TCP socket that the descriptor is, on a descriptor of its own. Raises CannotListen if it is none."""
    try:
        os.set_inheritable(descriptor, False)
        sock = socket.socket(fileno=os.dup(descriptor))
    except OverflowError:
        raise CannotListen(f"File descriptor {descriptor} cannot be listened on: {os.strerror(errno.EBADF)}") from None
    except OSError as error:
        raise CannotListen(f"File descriptor {descriptor} cannot be listened on: {error.strerror}") from None
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
        sock.close()
        raise CannotListen(f"File descriptor {descriptor} cannot be listened on: it is not a TCP socket")
    return sock


def _adopt(descriptor: int) -> socket.socket:
    sock = tcp_socket(descriptor)
    try:
        _listen(sock)
    except OSError as error:
        sock.close()
        raise CannotListen(f"File descriptor {descriptor} cannot be listened on: {error.strerror}", error) from None
    return sock


def _listen(sock: socket.socket) -> None:
    # accepted sockets inherit these (tcp(7)), which saves system calls for each connection
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    sock.listen(_longest_queue())
    sock.setblocking(False)


def _longest_queue() -> int:
    try:
        return int(Path("/proc/sys/net/core/somaxconn").read_text("ascii"))
    except (OSError, ValueError):
        return socket.SOMAXCONN


def _bind_to_interface(sock: socket.socket, interface: str, log: Logger) -> None:
    try:
        socket.if_nametoindex(interface)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
    except OSError as error:
        log.error(
            "Cannot bind to interface {interface}: {reason}; listening on all interfaces",
            interface=interface,
            reason=error.strerror or str(error),
        )


def _socket_address(endpoint: Endpoint, log: Logger) -> tuple[Any, ...]:
    address, port = endpoint.address, endpoint.port
    if not endpoint.ipv6:
        return (address or "0.0.0.0", port)  # noqa: S104 - all interfaces are the documented default
    text, _, zone = address.partition("%")
    try:
        parsed = IPv6Address(text or "::")
    except AddressValueError:
        raise CannotListen(
            f"{address!r} is not an IPv6 address; write an IPv4 address as ::FFFF:192.0.2.3, or use --no-ipv6"
        ) from None
    scope = 0
    if parsed.is_link_local:
        name = zone or endpoint.interface
        if not name:
            raise CannotListen(f"The link-local address {address} needs an interface: use --interface")
        try:
            scope = socket.if_nametoindex(name)
        except OSError:
            raise CannotListen(f"The link-local address {address} needs an interface, and {name!r} is none") from None
    return (str(parsed), port, 0, scope)


@implementer(IReadDescriptor)
class KeyServer(Service):
    """Listens, and gives each connection its protocol.

    The socket is opened in ``privilegedStartService``; connections are accepted between ``startService`` and
    ``stopService``, which gives deliveries under way a few seconds.
    """

    def __init__(
        self,
        reactor: Any,
        open_listener: Callable[[], socket.socket],
        factory: KeyServerFactory,
        hall: Hall,
        context: Context,
    ) -> None:
        self._reactor = reactor
        self._open = open_listener
        self._factory = factory
        self._hall = hall
        self._context = context
        self._log = Logger()
        self._socket: socket.socket | None = None
        self._paused: Any = None
        self._accepts = 1
        self._family = 0

    @property
    def port(self) -> int:
        """The port that is listened on; 0 before the socket is open."""
        return int(self._socket.getsockname()[1]) if self._socket is not None else 0

    def privilegedStartService(self) -> None:
        if self._socket is None:
            self._socket = self._open()
            self._family = int(self._socket.family)

    def startService(self) -> None:
        self.privilegedStartService()
        super().startService()
        assert self._socket is not None
        self._hall.start()
        self._reactor.addReader(self)
        host = self._socket.getsockname()[0]
        self._log.info("Listening on {address}:{port}", address=f"[{host}]" if ":" in host else host, port=self.port)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        if self._socket is None:
            return succeed(None)
        if self._paused is not None and self._paused.active():
            self._paused.cancel()
        self._reactor.removeReader(self)
        self._socket.close()
        self._socket = None
        self._hall.dismiss_idle()
        return self._finish_deliveries()

    def _finish_deliveries(self) -> Deferred[None]:
        finished: Deferred[None] = Deferred()

        def end() -> None:
            if late.active():
                late.cancel()
            self._hall.close()
            finished.callback(None)

        late = self._reactor.callLater(GRACE, end)
        self._hall.when_empty(end)
        return finished

    # -- IReadDescriptor -----------------------------------------------------------------------------

    def fileno(self) -> int:
        return self._socket.fileno() if self._socket is not None else -1

    def logPrefix(self) -> str:
        return "key server"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor lets go of us; ``stopService`` has done what there is to do."""

    def doRead(self) -> None:
        self._hall.look_at_clock()
        accepted, wanted = 0, self._accepts
        while accepted < wanted and self._socket is not None:
            try:
                # socket.accept would work out enumerations for each connection, which costs more than the call
                descriptor, address = self._socket._accept()  # type: ignore[attr-defined]  # not in typeshed
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in _PEER_GONE:
                    continue
                if error.errno in _NO_DESCRIPTOR and self._hall.make_room():
                    # for one; accept(2) would want a descriptor also to say that nobody else is there
                    wanted = accepted + 1
                    continue
                self._pause(error)
                break
            accepted += 1
            sock = socket.socket(self._family, socket.SOCK_STREAM, 0, descriptor)
            sock.setblocking(False)
            connection = Connection(sock, address[0], self._hall, self._context)
            self._hall.admit(connection, self._factory.build(connection))
        # as many as came will come: whether there are more need not be asked each time
        self._accepts = min(2 * accepted, MOST_ACCEPTS) if accepted == self._accepts else max(accepted, 1)

    def _pause(self, error: OSError) -> None:
        self._log.error("Cannot accept connections for the moment: {reason}", reason=error.strerror)
        self._reactor.removeReader(self)
        self._paused = self._reactor.callLater(PAUSE, self._reactor.addReader, self)
