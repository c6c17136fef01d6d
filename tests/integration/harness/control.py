"""A server that a test administers, without any of the front ends that administrators have."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.integration.harness.server import ServerProcess

PROGRAM = Path(__file__).with_name("controlled_server.py")
ANSWER_SECONDS = 20.0


class Refused(Exception):
    """The server did not do it; ``name`` is that of its exception."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name


class Gone(Exception):
    """The server ended before it answered."""


class ControlledServer(ServerProcess):
    """See ``controlled_server`` for what can be asked."""

    def __init__(
        self,
        configdir: Path,
        statedir: Path,
        arguments: Sequence[str] = (),
        host: str = "::1",
        wrapper: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(ANSWER_SECONDS)
        self._answers = self._socket.makefile("rb")
        self._asked = 0
        with theirs:
            program = ("-P", str(PROGRAM), str(theirs.fileno()))
            super().__init__(
                configdir, statedir, arguments, host, wrapper, environment, (theirs.fileno(),), program=program
            )

    def ask(self, **request: Any) -> Any:
        """Ask one thing, and wait for the answer. Raises Refused, Gone."""
        number = self.send(**request)
        answered, error, result = self.receive()
        assert answered == number
        if error is not None:
            raise error
        return result

    def send(self, **request: Any) -> int:
        """Ask one thing; the result is the number that the answer will have. Raises Gone."""
        self._asked += 1
        try:
            self._socket.sendall(json.dumps({"id": self._asked, **request}).encode("ascii") + b"\n")
        except OSError:
            raise Gone from None
        return self._asked

    def receive(self) -> tuple[int, Refused | None, Any]:
        """Wait for the next answer: its number, and what came of it. Raises Gone."""
        try:
            line = self._answers.readline()
        except ConnectionError:
            line = b""
        if not line.endswith(b"\n"):
            raise Gone
        answer = json.loads(line)
        error = Refused(*answer["error"]) if "error" in answer else None
        return answer["id"], error, answer.get("ok")

    def change(self, name: str, event: str, *arguments: object) -> Any:
        return self.ask(change=[name, event, *arguments])

    def clients(self) -> dict[str, Any]:
        clients: dict[str, Any] = self.ask(clients=None)
        return clients

    def clean_up(self) -> None:
        super().clean_up()
        self._answers.close()
        self._socket.close()
