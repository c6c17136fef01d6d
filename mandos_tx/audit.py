"""The audit: who got a secret, who was refused, and who changed what, in a file of JSON lines.

==========  ===========================================================================================
time        RFC 3339, UTC, as the wall clock showed it
event       secret, change, start, lost
outcome     secret: released or refused. change: what became of the client. start: started
client      its name; absent if no client has the key
key_id      that of the client, or the one that no client has
address     of the peer
reason      of a refusal or a disabling
settings    the names of those that were changed
by          who wanted it; absent if the server did it by itself
count       how many refusals, or lost records, this line stands for; absent if one
generation  of the state: it never goes back, unless somebody brought back an older state
==========  ===========================================================================================

A release is on disk before the secret goes out. The disk never holds up the reactor: it is written to in a thread,
what waits for it is bounded in bytes and in time, and what is lost is counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator

from attrs import define, field
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mandos_tx.audit_file import AuditFile
from mandos_tx.background import RunInThread
from mandos_tx.clock import Clock
from mandos_tx.core.client import Client, KeyID
from mandos_tx.core.happenings import (
    Cause,
    Change,
    CheckUnwanted,
    CheckWanted,
    ClientAdded,
    ClientDisabled,
    ClientEnabled,
    ClientNotFound,
    ClientRemoved,
    ClientRestored,
    Rejected,
)
from mandos_tx.core.restoration import changed_settings

QUEUE_BYTES = 1 << 20
"""What may wait to be written."""

PATIENCE = 5.0
"""Seconds that a secret waits for a disk that does not answer."""

PERIOD = 60.0
"""Seconds over which refusals are counted, and between two errors in the log."""

REFUSALS_OF_A_CLIENT = 60
REFUSALS_OF_STRANGERS = 20
"""How many in a period get a line of their own: nobody must be able to fill the disk."""

STOP_LIMIT = 1.0
"""Seconds that the last records may take."""

UNKNOWN_KEY = "unknown key"


class NotRecorded(Exception):
    """The record may not be on disk."""


@define(eq=False)
class Audit:
    """Writes records. ``required``: no secret without its record on disk."""

    _file: AuditFile
    _clock: Clock
    _reactor: IReactorTime
    _run_in_thread: RunInThread
    _generation: Callable[[], int]
    _required: bool = False
    _log: Logger = field(factory=Logger)
    _queue: list[bytes] = field(init=False, factory=list)
    _bytes: int = field(init=False, default=0)
    """How many are in the queue or on their way to the disk."""
    _waiting: list[Deferred[None]] = field(init=False, factory=list)
    _under_way: list[Deferred[None]] | None = field(init=False, default=None)
    """Those who wait for what is being written; None if nothing is."""
    _patience: IDelayedCall | None = field(init=False, default=None)
    _hangs: bool = field(init=False, default=False)
    _lost: int = field(init=False, default=0)
    _reminded: float | None = field(init=False, default=None)
    _admitted: Counter[str | None] = field(init=False, factory=Counter)
    _kept_back: Counter[tuple[str | None, str]] = field(init=False, factory=Counter)
    _period: IDelayedCall | None = field(init=False, default=None)

    def start(self, last_generation: int | None) -> None:
        """Begin, and warn if the state is older than what the audit last knew."""
        generation = self._generation()
        if last_generation is not None and last_generation > generation:
            self._log.warn(
                "The saved state is older than the audit log: generation {state}, but there was {audit}. If somebody"
                " has brought back an older state, clients that were disabled since may be enabled again",
                state=generation,
                audit=last_generation,
            )
        self._record(None, event="start", outcome="started")

    def stop(self) -> Deferred[None]:
        """Write what is left, unless that takes too long, and close the file."""
        self._end_period()
        closed = self._run_in_thread(self._finish, self._take())
        return closed.addTimeout(STOP_LIMIT, self._reactor).addErrback(self._failed_at_last)

    def reopen(self) -> Deferred[None]:
        """Go on with the file that has the name now, after a rotation."""
        return self._run_in_thread(self._file.reopen).addErrback(self._not_reopened)

    def before_release(self, client: Client, address: str) -> Deferred[None]:
        """Put on record that the secret goes out; fires when it may, and fails with NotRecorded if it must not."""
        recorded = self.append(
            event="secret", outcome="released", client=client.name, key_id=client.settings.key_id, address=address
        )
        return recorded if self._required else recorded.addErrback(_never_mind)

    def append(self, **entry: object) -> Deferred[None]:
        """Write a record; fires when it is on disk, and fails with NotRecorded if that is in doubt."""
        recorded: Deferred[None] = Deferred()
        self._record(recorded, **entry)
        return recorded

    def observe(self, change: Change) -> None:
        unasked = ""
        for fact in change.facts:
            match fact:
                case Rejected(reason, address) if change.after is not None:
                    self._refusal(change.after.name, change.after.settings.key_id, address, reason.value)
                case ClientNotFound(key_id, address):
                    self._refusal(None, key_id, address, UNKNOWN_KEY)
                case ClientDisabled(cause) if cause is not Cause.ADMINISTRATOR:
                    unasked = cause.value
        client = change.after or change.before
        if client is not None and (change.by or unasked):
            self._record(
                None,
                event="change",
                outcome=", ".join(_outcomes(change)),
                client=client.name,
                key_id=client.settings.key_id,
                reason=unasked,
                settings=_changed_settings(change),
                by=change.by,
            )

    # -- refusals ------------------------------------------------------------------------------------

    def _refusal(self, name: str | None, key_id: KeyID | None, address: str, reason: str) -> None:
        if self._period is None:
            self._period = self._reactor.callLater(PERIOD, self._end_period)
        self._admitted[name] += 1
        if self._admitted[name] > (REFUSALS_OF_STRANGERS if name is None else REFUSALS_OF_A_CLIENT):
            self._kept_back[name, reason] += 1
            return
        self._record(
            None, event="secret", outcome="refused", client=name, key_id=key_id, address=address, reason=reason
        )

    def _end_period(self) -> None:
        if self._period is not None and self._period.active():
            self._period.cancel()
        self._period = None
        self._admitted.clear()
        for (name, reason), count in self._kept_back.items():
            self._record(None, event="secret", outcome="refused", client=name, reason=reason, count=count)
        self._kept_back.clear()

    # -- writing -------------------------------------------------------------------------------------

    def _record(self, recorded: Deferred[None] | None, **entry: object) -> None:
        line = self._line(entry)
        if self._bytes + len(line) > QUEUE_BYTES:
            self._lost += 1
            self._remind("the queue is full")
            if recorded is not None:
                recorded.errback(NotRecorded())
            return
        self._bytes += len(line)
        self._queue.append(line)
        if recorded is not None:
            if self._hangs:
                recorded.errback(NotRecorded())
            else:
                self._waiting.append(recorded)
        if self._under_way is None:
            self._write()

    def _line(self, entry: dict[str, object]) -> bytes:
        """One line of ASCII, whatever the names of clients are."""
        told = {option: value for option, value in entry.items() if value not in (None, "", [])}
        time = self._clock.shown(self._clock.now()).isoformat()
        return json.dumps({"time": time, **told, "generation": self._generation()}).encode("ascii") + b"\n"

    def _take(self) -> bytes:
        """Empty the queue."""
        if self._lost:
            self._queue.append(self._line({"event": "lost", "count": self._lost}))
        lines = b"".join(self._queue)
        self._queue.clear()
        return lines

    def _write(self) -> None:
        count, lost = len(self._queue), self._lost
        lines = self._take()
        self._under_way, self._waiting = self._waiting, []
        self._patience = self._reactor.callLater(PATIENCE, self._lose_patience)
        written = self._run_in_thread(self._file.write, lines)
        written.addCallbacks(
            self._written, self._not_written, callbackArgs=(len(lines), lost), errbackArgs=(len(lines), count)
        )
        written.addErrback(lambda failure: self._log.failure("The audit failed", failure))

    def _written(self, _: None, size: int, lost: int) -> None:
        self._lost -= lost
        self._reminded = None
        self._settled(size, None)

    def _not_written(self, failure: Failure, size: int, count: int) -> None:
        self._lost += count
        self._remind(failure.getErrorMessage())
        self._settled(size, NotRecorded())

    def _settled(self, size: int, problem: NotRecorded | None) -> None:
        if self._patience is not None and self._patience.active():
            self._patience.cancel()
        self._hangs = False
        heard, self._under_way = self._under_way or [], None
        # What stands in the queue is at most what was not yet written.
        self._bytes = sum(map(len, self._queue))
        if self._queue:
            self._write()
        for recorded in heard:
            if problem is None:
                recorded.callback(None)
            else:
                recorded.errback(problem)

    def _lose_patience(self) -> None:
        """Let nobody wait any longer; the records themselves may yet be written."""
        self._hangs = True
        self._remind(f"the disk has not answered for {PATIENCE:.0f} s")
        heard, self._under_way, self._waiting = [*(self._under_way or []), *self._waiting], [], []
        for recorded in heard:
            recorded.errback(NotRecorded())

    def _remind(self, problem: str) -> None:
        now = self._reactor.seconds()
        if self._reminded is None or now - self._reminded >= PERIOD:
            self._reminded = now
            self._log.error(
                "The audit cannot be written: {problem}. {lost} records are lost so far; {consequence}",
                problem=problem,
                lost=self._lost,
                consequence="no secret is given out" if self._required else "secrets are given out all the same",
            )

    def _finish(self, lines: bytes) -> None:
        if lines:
            self._file.write(lines)
        self._file.close()

    def _failed_at_last(self, failure: Failure) -> None:
        problem = "it takes too long" if failure.check(TimeoutError) else failure.getErrorMessage()
        self._log.error("The last records of the audit are lost: {problem}", problem=problem)

    def _not_reopened(self, failure: Failure) -> None:
        self._log.error(
            "The audit goes on in the old file: {problem}",
            problem=failure.getErrorMessage(),
        )


def _never_mind(failure: Failure) -> None:
    failure.trap(NotRecorded)


def _changed_settings(change: Change) -> list[str]:
    """Their names only: one of them is the secret."""
    before, after = change.before, change.after
    if before is None or after is None or before.settings is after.settings:
        return []
    return changed_settings(before.settings, after.settings)


def _outcomes(change: Change) -> Iterator[str]:
    """What became of the client, in words."""
    before, after = change.before, change.after
    for fact in change.facts:
        match fact:
            case ClientAdded():
                yield "added"
            case ClientRestored():
                yield "restored"
            case ClientRemoved():
                yield "removed"
            case ClientEnabled():
                yield "enabled"
            case ClientDisabled():
                yield "disabled"
            case CheckWanted():
                yield "check started"
            case CheckUnwanted():
                yield "check stopped"
    if before is None or after is None:
        return
    if _changed_settings(change):
        yield "reconfigured"
    if after.ruling is not None and after.ruling != before.ruling:
        yield "approved" if after.ruling.approve else "denied"
    if after.last_checked_ok != before.last_checked_ok:
        yield "vouched for"
