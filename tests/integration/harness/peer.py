"""A Mandos client inside the test, one step at a time: for whatever a well-behaved client never does."""

from __future__ import annotations

import socket
import struct
from types import TracebackType

from mandos_tx.wire.gnutls import DEFAULT_PRIORITY, ConnectionEnded, GnuTLSError, Session
from tests.integration.harness.keys import Keys

SECONDS = 20


class Peer:
    """One connection. Every call blocks, but for no longer than ``SECONDS``; then it raises TimeoutError."""

    def __init__(self, address: tuple[str, int], keys: Keys | None = None, receive_buffer: int = 0) -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._keys = keys
        self._session: Session | None = None
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        limit = struct.pack("ll", SECONDS, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect(address)

    def say(self, line: bytes) -> None:
        self.socket.sendall(line)

    def prove(self, line: bytes = b"1\r\n") -> Peer:
        """Say the line and prove the key; what the server makes of that is what ``read`` returns."""
        assert self._keys is not None
        self.say(line)
        self._session = self._keys.tls_context(DEFAULT_PRIORITY).session(self.socket.fileno())
        if not self._session.handshake():
            raise TimeoutError
        return self

    def read(self) -> bytes:
        """Everything until close_notify; ConnectionError if the connection ends otherwise."""
        received = bytearray()
        while piece := self.read_some():
            received += piece
        return bytes(received)

    def read_some(self) -> bytes:
        """One record; empty at close_notify."""
        assert self._session is not None
        try:
            record = self._session.receive()
        except (ConnectionEnded, GnuTLSError) as error:
            raise ConnectionError(str(error)) from None
        if record is None:
            raise TimeoutError
        return record

    def read_without_tls(self) -> bytes:
        """Everything until the end of a connection that has no TLS, or is reset."""
        received = bytearray()
        try:
            while piece := self.socket.recv(65536):
                received += piece
        except ConnectionError:
            return bytes(received)
        except BlockingIOError:
            raise TimeoutError from None
        return bytes(received)

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
        self.socket.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def fetch(address: tuple[str, int], keys: Keys) -> bytes:
    """The secret as the server has it, or nothing."""
    with Peer(address, keys) as peer:
        return peer.prove().read()
