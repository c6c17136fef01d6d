"""Who may have its secret now: the decision at the moment of sending, and rulings on those who wait.

enabled and not expired?  no  -> refuse (Disabled)
a ruling still valid?     yes -> as it says (Denied)
approval_delay > 0?       yes -> wait for a ruling until then
approved_by_default?      no  -> refuse (Denied)
                          yes -> grant
"""

from __future__ import annotations

from datetime import datetime
from typing import TypeAlias

from attrs import evolve, frozen

from mandos_tx.core.client import Client, Enabled, Petition, Ruling
from mandos_tx.core.happenings import Fact, NeedApproval, PetitionDecided, Refusal

MAX_PETITIONS = 256
"""Connections of one client that may wait for approval at the same time."""


@frozen
class Wait:
    """Neither granted nor refused: somebody has to be asked."""


Verdict: TypeAlias = Refusal | Wait | None
"""None grants."""


def decide(client: Client, now: datetime) -> Verdict:
    """Say whether ``client``, which has just proven its key, may have its secret."""
    if not eligible(client, now):
        return Refusal.DISABLED
    if client.ruling is not None and now < client.ruling.until:
        return None if client.ruling.approve else Refusal.DENIED
    if client.settings.approval_delay:
        return Wait()
    return None if client.settings.approved_by_default else Refusal.DENIED


def eligible(client: Client, now: datetime) -> bool:
    """Whether the client is enabled and its time has not run out, be the alarm late or not."""
    standing = client.standing
    if not isinstance(standing, Enabled):
        return False
    if client.check_waiting_since is not None:
        now = min(now, client.check_waiting_since)
    return now < standing.expires


def petition(client: Client, number: int, now: datetime) -> tuple[Client, tuple[Fact, ...]]:
    """Let a connection wait for a ruling."""
    settings = client.settings
    if not eligible(client, now):
        return client, (PetitionDecided(number, Refusal.DISABLED),)
    if len(client.petitions) >= MAX_PETITIONS:
        return client, (PetitionDecided(number, Refusal.OVERRUN),)
    waiting = Petition(number, now + settings.approval_delay)
    after = evolve(client, petitions=(*client.petitions, waiting), last_approval_request=now)
    return after, (NeedApproval(settings.approval_delay, settings.approved_by_default),)


def withdraw(client: Client, number: int) -> tuple[Client, tuple[Fact, ...]]:
    """Forget a connection that went away."""
    rest = tuple(p for p in client.petitions if p.number != number)
    return (client if len(rest) == len(client.petitions) else evolve(client, petitions=rest)), ()


def rule(client: Client, approve: bool, now: datetime) -> tuple[Client, tuple[Fact, ...]]:
    """Decide all who wait, and those who come while the ruling lasts."""
    ruling = Ruling(approve, now + client.settings.approval_duration)
    refusal = None if approve else Refusal.DENIED
    decided = tuple(PetitionDecided(p.number, refusal) for p in client.petitions)
    return evolve(client, petitions=(), ruling=ruling), decided


def time_out(client: Client, now: datetime) -> tuple[Client, tuple[Fact, ...]]:
    """Apply the default to those who have waited long enough."""
    late = [p for p in client.petitions if p.deadline <= now]
    if not late:
        return client, ()
    refusal = None if client.settings.approved_by_default else Refusal.TIMED_OUT
    rest = tuple(p for p in client.petitions if p.deadline > now)
    return evolve(client, petitions=rest), tuple(PetitionDecided(p.number, refusal) for p in late)


def dismiss(client: Client) -> tuple[Client, tuple[Fact, ...]]:
    """Refuse all who wait, because the client is no longer eligible; a ruling ends as well."""
    decided = tuple(PetitionDecided(p.number, Refusal.DISABLED) for p in client.petitions)
    return evolve(client, petitions=(), ruling=None), decided
