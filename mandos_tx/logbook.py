"""The observer that words Changes for the log: one wording per fact, and never a secret."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from time import time
from typing import assert_never

from attrs import define, field
from twisted.logger import Logger, LogLevel

from mandos_tx.clock import Clock
from mandos_tx.core.client import CheckOutcome, Client, Exited, Killed
from mandos_tx.core.happenings import (
    Cause,
    Change,
    CheckerCompleted,
    CheckerStarted,
    CheckUnwanted,
    CheckWanted,
    ClientAdded,
    ClientDisabled,
    ClientEnabled,
    ClientNotFound,
    ClientRemoved,
    ClientRestored,
    DeliveryBrokeOff,
    Fact,
    GotSecret,
    NeedApproval,
    PetitionDecided,
    Rejected,
)
from mandos_tx.core.restoration import changed_settings
from mandos_tx.throttle import Throttle


@define(eq=False)
class Logbook:
    """Writes down what happens to clients."""

    _clock: Clock
    _refusals: Throttle
    """Peers can be refused as often as they like; but strangers must not keep a client's refusals out of the log."""
    _wants: Callable[[object], bool]
    """Whether a log level is wanted at all; facts of every check are not worded in vain."""
    _log: Logger = field(factory=Logger)

    def observe(self, change: Change) -> None:
        for fact in change.facts:
            self._write(fact, change)
        before, after = change.before, change.after
        if before is not None and after is not None and before.settings is not after.settings:
            self._settings_changed(before, after, change.by)

    def _write(self, fact: Fact, change: Change) -> None:
        client = change.after or change.before
        name = client.name if client is not None else ""
        match fact:
            case GotSecret():
                self._got_secret(name, fact.address)
            case CheckerStarted():
                if self._wants(LogLevel.info):
                    self._log.info("Client {client}: checker started: {command}", client=name, command=fact.command)
            case CheckerCompleted():
                if self._wants(LogLevel.info):
                    self._log.info(
                        "Client {client}: checker {outcome}", client=name, outcome=describe_outcome(fact.outcome)
                    )
            case DeliveryBrokeOff():
                self._log.warn(
                    "Client {client} at {address} went away, or was cut off, before it had all of its secret",
                    client=name,
                    address=fact.address,
                    audit=True,
                )
            case Rejected():
                if self._refusals.admits(name):
                    self._log.warn(
                        "Client {client} at {address} was refused its secret: {reason}",
                        client=name,
                        address=fact.address,
                        reason=fact.reason.value,
                        audit=True,
                    )
            case ClientNotFound():
                if self._refusals.admits():
                    self._log.warn(
                        "Refused {address}: no client has the key ID {key_id}",
                        address=fact.address,
                        key_id=fact.key_id,
                        audit=True,
                    )
            case ClientDisabled():
                assert client is not None
                self._disabled(client, fact.cause, change)
            case ClientEnabled():
                self._log.info("Client {client} enabled{by}", client=name, by=_by(change.by), audit=True)
            case ClientRemoved():
                why = _by(change.by) if fact.by_administrator else ": it is no longer configured"
                self._log.info("Client {client} removed{why}", client=name, why=why, audit=True)
            case ClientAdded():
                if change.by:
                    self._log.info("Client {client} added{by}", client=name, by=_by(change.by), audit=True)
                else:
                    self._log.debug("Client {client} is new", client=name)
            case ClientRestored():
                self._restored(name, fact)
            case NeedApproval():
                self._log.info(
                    "Client {client} needs approval within {within}; otherwise its secret is {default}",
                    client=name,
                    within=fact.within,
                    default="sent" if fact.by_default else "not sent",
                    audit=True,
                )
            case PetitionDecided() | CheckWanted() | CheckUnwanted():
                pass  # what comes of them is written
            case _:
                assert_never(fact)

    def _got_secret(self, name: str, address: str) -> None:
        # as Logger.info would, at a third of its price: this line is part of the cost of every delivery
        self._log.observer(
            {
                "log_level": LogLevel.info,
                "log_namespace": self._log.namespace,
                "log_source": None,
                "log_format": "Client {client} at {address} got its secret",
                "log_time": time(),
                "client": name,
                "address": address,
                "audit": True,
            }
        )

    def _disabled(self, client: Client, cause: Cause, change: Change) -> None:
        if cause is Cause.ADMINISTRATOR:
            self._log.info("Client {client} disabled{by}", client=client.name, by=_by(change.by), audit=True)
            return
        self._log.warn(
            "Client {client} is disabled: {cause}. Last good check: {last}; last checker: {outcome}. "
            "It gets nothing until an administrator enables it",
            client=client.name,
            cause=cause.value,
            last=self._shown(client.last_checked_ok),
            outcome="none has ended yet" if client.last_outcome is None else describe_outcome(client.last_outcome),
        )

    def _restored(self, name: str, fact: ClientRestored) -> None:
        if fact.grace:
            self._log.warn(
                "Client {client} expired while the server was down; its last check had succeeded, so it gets one "
                "fresh timeout",
                client=name,
            )
        else:
            self._log.debug("Client {client} is back as it was saved", client=name)

    def _settings_changed(self, before: Client, after: Client, by: str) -> None:
        changed = changed_settings(before.settings, after.settings)
        if changed:
            self._log.info(
                "Client {client}: {options} changed{by}",
                client=after.name,
                options=", ".join(changed),
                by=_by(by),
                audit=True,
            )

    def _shown(self, instant: datetime | None) -> str:
        return "never" if instant is None else f"{self._clock.shown(instant):%Y-%m-%d %H:%M:%S} UTC"


def describe_outcome(outcome: CheckOutcome) -> str:
    """How a checker ended, as the end of a sentence."""
    match outcome:
        case Exited(0):
            return "succeeded"
        case Exited(code):
            return f"failed with exit status {code}"
        case Killed(signal):
            return f"was killed by signal {signal}"
        case _:
            assert_never(outcome)


def _by(who: str) -> str:
    return f" by {who}" if who else ""
