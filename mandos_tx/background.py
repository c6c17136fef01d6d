"""One thread beside the reactor's, for calls that may block."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import ParamSpec, Protocol, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

P = ParamSpec("P")
T = TypeVar("T")


class RunInThread(Protocol):
    """Runs a call where it may block, one after the other, and gives its result to the reactor's thread."""

    def __call__(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]: ...


@define(eq=False)
class Background:
    """Runs what it is given in order. Its thread starts with the first call.

    Not Twisted's thread pool, because the process must be able to end while a call hangs in a disk that does not
    answer: so the thread is a daemon, and nobody waits for it.
    """

    _reactor: IReactorFromThreads
    _name: str
    _calls: SimpleQueue[Callable[[], None] | None] = field(init=False, factory=SimpleQueue)
    _thread: Thread | None = field(init=False, default=None)

    def __call__(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        result: Deferred[T] = Deferred()

        def run() -> None:
            answer: T | Failure
            try:
                answer = call(*args, **kwargs)
            except Exception:
                answer = Failure()
            self._reactor.callFromThread(result.callback, answer)

        self._calls.put(run)
        if self._thread is None:
            self._thread = Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        return result

    def stop(self) -> None:
        """End the thread when it has done what it was given so far."""
        if self._thread is not None:
            self._thread = None
            self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
