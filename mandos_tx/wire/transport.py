"""One accepted connection: bytes first, then GnuTLS on the socket's own file descriptor, without blocking.

    greeting ---> handshake ---> proven ---> sending ---> closing ---> gone
        \\_____________\\____________\\____________\\______________________/

Each stage has a method that goes on when the socket is ready. TLS is on the descriptor itself, with no memory BIO and
no callback in between, which is what makes it fast (docs/performance.md).
"""

from __future__ import annotations

import errno
import socket
import termios
from collections.abc import Callable
from fcntl import ioctl
from typing import Protocol

from mandos_tx.core.client import KeyID
from mandos_tx.wire.anteroom import source_of
from mandos_tx.wire.gnutls import ConnectionEnded, Context, GnuTLSError, Session
from mandos_tx.wire.greeting import MAX_LINE

MAX_UNASKED = 64
"""TLS records that a peer may send although nobody wants to hear anything from it."""

SLICE = 1 << 18
"""Bytes of a secret sent before other connections get their turn."""

_NOTHING_YET = (errno.EAGAIN, errno.EINTR)


class Conversation(Protocol):
    """What a connection tells its protocol (``mandos_tx.wire.protocol``)."""

    def received(self, data: bytes) -> None: ...
    def key_proven(self, key_id: KeyID | None) -> None: ...
    def handshake_failed(self, reason: str) -> None: ...
    def delivered(self) -> None: ...
    def lost(self) -> None: ...


class Hall(Protocol):
    """What a connection needs of the place it is in (``mandos_tx.wire.hall``)."""

    @property
    def now(self) -> float:
        """Seconds on the server's clock, as of when this turn began."""
        ...

    def wake_to_write(self, connection: Connection) -> None:
        """Call ``connection.ready`` when there is room to write; before that, it is when there is something to read."""
        ...

    def moved(self, connection: Connection) -> None:
        """The connection has come to another stage, or got on within one."""
        ...

    def leaving(self, connection: Connection) -> None:
        """The connection is about to close its descriptor."""
        ...


class Connection:
    """The transport of one conversation."""

    __slots__ = (
        "_context",
        "_conversation",
        "_hall",
        "_heard",
        "_position",
        "_secret",
        "_session",
        "_socket",
        "_step",
        "_unasked",
        "_wants_to_write",
        "accepted",
        "address",
        "fd",
        "source",
        "stage",
    )

    def __init__(self, sock: socket.socket, host: str, hall: Hall, context: Context) -> None:
        self._socket = sock
        self._hall = hall
        self._context = context
        self._conversation: Conversation | None = None
        self._session: Session | None = None
        self._secret = b""
        self._position = 0
        self._unasked = 0
        self._wants_to_write = False
        self._step: Callable[[], None] = self._read_greeting
        self.fd = sock.fileno()
        self.address = host[7:] if host.startswith("::ffff:") and "." in host else host
        """The peer's address, without its port, for logs and facts."""
        self.source = source_of(host)
        self.stage = "greeting"
        self.accepted = self._heard = hall.now

    def begin(self, conversation: Conversation) -> None:
        """Have ``conversation`` told what happens from now on."""
        self._conversation = conversation

    def ready(self) -> None:
        """Go on with whatever the connection is at; the socket may be readable or writable."""
        try:
            self._step()
        except ConnectionEnded:
            self._failed("the peer closed the connection")
        except GnuTLSError as error:
            if self._session is not None:
                self._session.send_alert(error)
            self._failed(str(error))
        except OSError as error:
            if error.errno not in _NOTHING_YET:
                self._failed(error.strerror or str(error))

    def silent_for(self, now: float) -> float:
        waiting = bytearray(4)
        ioctl(self.fd, termios.FIONREAD, waiting)
        return 0.0 if any(waiting) else now - self._heard

    # -- what the protocol asks for ------------------------------------------------------------------

    def start_tls(self) -> None:
        """Begin the handshake, in which we are the TLS client."""
        self._session = self._context.session(self.fd)
        self._enter("handshake", self._answer_handshake)
        self._shake_hands()

    def send(self, secret: bytes) -> None:
        """Send the secret, then say good-bye."""
        self._secret = secret
        self._step = self._send
        self.ready()

    def refuse(self) -> None:
        """End TLS without having sent anything; every refusal looks like this one."""
        self._step = self._say_goodbye
        self.ready()

    def abort(self) -> None:
        """End the connection at once."""
        if self.stage == "gone":
            return
        self._hall.leaving(self)
        self.stage = "gone"
        if self._session is not None:
            self._session.close()
            self._session = None
        self._socket.close()
        self._secret = b""
        conversation, self._conversation = self._conversation, None
        self._step = _nothing
        if conversation is not None:
            conversation.lost()

    # -- stages --------------------------------------------------------------------------------------

    def _enter(self, stage: str, step: Callable[[], None]) -> None:
        self.stage = stage
        self._step = step
        self._hall.moved(self)

    def _read_greeting(self) -> None:
        data = self._socket.recv(MAX_LINE)
        if not data:
            self.abort()
            return
        self._heard = self._hall.now
        assert self._conversation is not None
        self._conversation.received(data)

    def _answer_handshake(self) -> None:
        """Everything that we have to say after the peer has proven its key leaves in as few packets as possible."""
        self._cork(True)
        try:
            self._shake_hands()
        finally:
            if self.stage != "gone":
                self._cork(False)

    def _cork(self, on: bool) -> None:
        try:  # noqa: SIM105 - suppress costs more than the call, and this is done for every delivery
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, on)
        except OSError:
            pass  # not every socket is one of tcp(7)

    def _shake_hands(self) -> None:
        assert self._session is not None
        assert self._conversation is not None
        self._heard = self._hall.now
        if self._session.handshake():
            self._enter("proven", self._hear_nothing)
            self._conversation.key_proven(self._session.peer_key_id())

    def _hear_nothing(self) -> None:
        """While somebody decides: the peer has nothing to say, but may go away."""
        assert self._session is not None
        while (data := self._session.receive()) is not None:
            self._unasked += 1
            if not data or self._unasked > MAX_UNASKED:
                self.abort()
                return

    def _send(self) -> None:
        assert self._session is not None
        start = self._position
        while self._position < len(self._secret):
            sent = self._session.send(self._secret, self._position)
            self._position += sent or 0
            if sent is None or self._position - start >= SLICE:
                self._go_on_later("sending")
                return
        self._step = self._say_goodbye
        self._say_goodbye()

    def _say_goodbye(self) -> None:
        assert self._session is not None
        if not self._session.bye():
            self._go_on_later("sending")
            return
        if self._secret and self._conversation is not None:
            self._secret = b""
            self._conversation.delivered()
        if self.stage != "gone":
            self._enter("closing", self._end)

    def _end(self) -> None:
        """The first look after close_notify: most peers have closed by now, the others are told in TCP's words too."""
        self._step = self._wait_for_end
        self._wait_for_end()
        if self.stage != "gone":
            self._socket.shutdown(socket.SHUT_WR)

    def _wait_for_end(self) -> None:
        """Closing a socket with unread bytes would reset the connection and could cost the peer its secret."""
        try:
            while self._socket.recv(4096):
                self._unasked += 1
                if self._unasked > MAX_UNASKED:
                    break
        except BlockingIOError:
            return
        self.abort()

    def _go_on_later(self, stage: str) -> None:
        self._enter(stage, self._step)
        if not self._wants_to_write:
            self._wants_to_write = True
            self._hall.wake_to_write(self)

    def _failed(self, reason: str) -> None:
        if self.stage == "handshake" and self._conversation is not None:
            self._conversation.handshake_failed(reason)
        self.abort()


def _nothing() -> None:
    """The step of a connection that is gone."""
