"""The life of a client: ``apply`` says what an event makes of it, ``deadline`` when time itself will.

==================  =========================================================================
Event               Effect on an enabled client
==================  =========================================================================
Enable              (disabled before) expires = first check + timeout
Disable             disabled; nothing but Enable undoes it
CheckDue            the time left stands still until the check starts or is given up: no client
                    may run out because there was no free place to check it
CheckFinished(0)    expires = max(expires, now + timeout); also Vouched
CheckFinished(!=0)  remembered, nothing else
SecretDelivered     expires = now + extended_timeout
Reconfigured        expires moves by what the timeout was changed
TimePassed          disabled if expires has come; waiting petitions get the default
==================  =========================================================================

A disabled client only remembers: checks started by hand and vouching leave it disabled.
"""

from __future__ import annotations

from datetime import datetime
from typing import TypeAlias, assert_never

from attrs import evolve

from mandos_tx.core import approval
from mandos_tx.core.client import Client, ClientDefinition, Disabled, Enabled, Exited
from mandos_tx.core.happenings import (
    Cause,
    CheckAbandoned,
    CheckDue,
    CheckerCompleted,
    CheckerStarted,
    CheckFinished,
    CheckStarted,
    CheckUnwanted,
    CheckWanted,
    ClientDisabled,
    ClientEnabled,
    DeliveryAbandoned,
    DeliveryBrokeOff,
    Disable,
    Enable,
    Event,
    Fact,
    GotSecret,
    Petitioned,
    PetitionRefused,
    PetitionWithdrawn,
    Reconfigured,
    Rejected,
    Ruled,
    SecretDelivered,
    StartCheck,
    StopCheck,
    TimePassed,
    Vouched,
)

Outcome: TypeAlias = tuple[Client, tuple[Fact, ...]]


def apply(client: Client, event: Event, now: datetime) -> Outcome:
    """Say what ``event`` at ``now`` makes of ``client``, and what there is to tell about it.

    A deadline that has come is applied before the event: nothing that arrives late can prolong.
    """
    due = deadline(client)
    if due is None or now < due:
        return _apply(client, event, now)
    late, passed = _time_passed(client, now)
    after, facts = _apply(late, event, now)
    if late.enabled and not after.enabled:
        # Who loses its trust at this very moment is not approved by default before that.
        return _apply(client, event, now)
    return after, passed + facts


def deadline(client: Client) -> datetime | None:
    """When ``TimePassed`` next has an effect, or None if never."""
    standing = client.standing
    expires = standing.expires if isinstance(standing, Enabled) and client.check_waiting_since is None else None
    if not client.petitions:
        return expires
    default = min(p.deadline for p in client.petitions)
    return default if expires is None else min(default, expires)


def newborn(definition: ClientDefinition, now: datetime, spread: float) -> Client:
    """Make the client that ``definition`` describes, never seen before; ``spread`` is that of Enable."""
    client = Client(definition, definition.name, definition.settings, standing=Disabled(), created=now)
    return _enable(client, now, spread)[0] if definition.enabled else client


def _apply(client: Client, event: Event, now: datetime) -> Outcome:
    match event:
        case SecretDelivered():
            allowance = now + client.settings.extended_timeout
            return _set_expiry(client, allowance, now), (GotSecret(event.address),)
        case CheckFinished():
            return _check_finished(client, event, now)
        case CheckStarted():
            return evolve(_end_waiting(client, now), running_check=event.command), (CheckerStarted(event.command),)
        case TimePassed():
            return client, ()
        case CheckDue():
            return (client if client.check_waiting_since else evolve(client, check_waiting_since=now)), ()
        case CheckAbandoned():
            if client.running_check is None and client.check_waiting_since is None:
                return client, ()
            return evolve(_end_waiting(client, now), running_check=None), ()
        case Vouched():
            return _vouched(client, now), ()
        case Enable():
            return _enable(client, now, event.spread)
        case Disable():
            return _disable(client, now, Cause.ADMINISTRATOR)
        case StartCheck():
            return client, () if client.running_check is not None else (CheckWanted(),)
        case StopCheck():
            return client, (CheckUnwanted(),)
        case Petitioned():
            return approval.petition(client, event.number, now)
        case PetitionWithdrawn():
            return approval.withdraw(client, event.number)
        case Ruled():
            return approval.rule(client, event.approve, now)
        case PetitionRefused():
            return client, (Rejected(event.reason, event.address),)
        case DeliveryAbandoned():
            return client, (DeliveryBrokeOff(event.address),)
        case Reconfigured():
            return _reconfigure(client, event, now)
        case _:
            assert_never(event)


def _time_passed(client: Client, now: datetime) -> Outcome:
    if not approval.eligible(client, now) and client.enabled:
        return _disable(client, now, Cause.EXPIRED)
    return approval.time_out(client, now)


def _enable(client: Client, now: datetime, spread: float) -> Outcome:
    if client.enabled:
        return client, ()
    first_check = now + spread * client.settings.interval
    standing = Enabled(since=now, expires=first_check + client.settings.timeout)
    # A check may have been waiting since before; that time is not to be given back.
    client = _end_waiting(client, now, still=True)
    after = evolve(client, standing=standing, last_enabled=now, first_check=first_check, had_grace=False)
    return after, (ClientEnabled(),)


def _disable(client: Client, now: datetime, cause: Cause) -> Outcome:
    if not client.enabled:
        return client, ()
    after, dismissed = approval.dismiss(client)
    after = evolve(after, standing=Disabled(since=now), first_check=None, check_waiting_since=None, running_check=None)
    return after, (ClientDisabled(cause), *dismissed)


def _check_finished(client: Client, event: CheckFinished, now: datetime) -> Outcome:
    completed = CheckerCompleted(event.outcome, event.command)
    client = evolve(_end_waiting(client, now), running_check=None)
    if event.outcome == Exited(0):
        return _vouched(client, now), (completed,)
    return evolve(client, last_outcome=event.outcome), (completed,)


def _vouched(client: Client, now: datetime) -> Client:
    client = evolve(client, last_checked_ok=now, last_outcome=Exited(0), had_grace=False)
    return _set_expiry(client, now + client.settings.timeout, now, only_later=True)


def _set_expiry(client: Client, expires: datetime, now: datetime, *, only_later: bool = False) -> Client:
    if client.check_waiting_since is not None:
        client = _end_waiting(client, now, still=True)
    standing = client.standing
    if not isinstance(standing, Enabled) or (only_later and expires <= standing.expires):
        return client
    return evolve(client, standing=Enabled(standing.since, expires))


def _end_waiting(client: Client, now: datetime, *, still: bool = False) -> Client:
    """Give back the time that stood still; ``still`` if it goes on standing still from now."""
    since = client.check_waiting_since
    if since is None:
        return client
    standing = client.standing
    if isinstance(standing, Enabled):
        standing = evolve(standing, expires=standing.expires + (now - since))
    return evolve(client, standing=standing, check_waiting_since=now if still else None)


def _reconfigure(client: Client, event: Reconfigured, now: datetime) -> Outcome:
    longer = event.settings.timeout - client.settings.timeout
    after = evolve(client, settings=event.settings, definition=event.definition or client.definition)
    if longer and isinstance(after.standing, Enabled):
        after = evolve(after, standing=evolve(after.standing, expires=after.standing.expires + longer))
        if not approval.eligible(after, now):
            return _disable(after, now, Cause.EXPIRED)
    return after, ()
