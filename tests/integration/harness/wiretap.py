"""What goes over the wire from a server to its peers, as anybody on the way sees it."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Wiretap:
    """A port in front of a server's; ``heard`` has the bytes that each connection got from the server."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
        self._threads: list[threading.Thread] = []
        self.heard: list[bytearray] = []
        self.address: tuple[str, int] = ("::1", self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def records(self, number: int) -> list[tuple[int, int]]:
        """The TLS records of a connection that has ended: the type and the length of each (RFC 8446, 5.1)."""
        for thread in self._threads:
            thread.join(10.0)
        rest = bytes(self.heard[number])
        found = []
        while rest:
            length = int.from_bytes(rest[3:5], "big")
            found.append((rest[0], length))
            rest = rest[5 + length :]
        return found

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                peer, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                heard = bytearray()
                self.heard.append(heard)
                self._pass_on(peer, server, bytearray())
                self._pass_on(server, peer, heard)

    def _pass_on(self, source: socket.socket, target: socket.socket, heard: bytearray) -> None:
        def run() -> None:
            with suppress(OSError):
                while piece := source.recv(65536):
                    heard.extend(piece)
                    target.sendall(piece)
                target.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()
