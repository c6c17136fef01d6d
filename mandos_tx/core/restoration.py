"""Bringing clients back after a restart, and applying a source that has been read again.

A setting that changed in the source wins over what was changed at run time; one that did not, does not.
"""

from __future__ import annotations

from datetime import datetime

from attrs import evolve, fields

from mandos_tx.core.client import Client, ClientDefinition, ClientSettings, Disabled, Enabled, Exited
from mandos_tx.core.happenings import (
    Cause,
    ClientDisabled,
    ClientRestored,
    Disable,
    Enable,
    Reconfigured,
)
from mandos_tx.core.lifecycle import Outcome, apply

SETTINGS = tuple(a.name for a in fields(ClientSettings))


def revive(client: Client, now: datetime, spread: float) -> Outcome:
    """Let a client as it was saved live on at ``now``.

    It keeps its expiry. If that passed while the server was down, a client whose last check succeeded gets one
    fresh timeout, and none again before the next good check; every other one is disabled.
    """
    client = evolve(client, petitions=(), running_check=None, check_waiting_since=None, first_check=None)
    standing = client.standing
    if not isinstance(standing, Enabled):
        return client, (ClientRestored(grace=False),)
    if grace := standing.expires <= now:
        if cause := _reason_to_disable(client):
            return evolve(client, standing=Disabled(since=now), ruling=None), (ClientDisabled(cause),)
        standing = evolve(standing, expires=now + client.settings.timeout)
    first_check = now + spread * min(client.settings.interval, (standing.expires - now) / 2)
    after = evolve(client, standing=standing, first_check=first_check, had_grace=client.had_grace or grace)
    return after, (ClientRestored(grace),)


def redefine(client: Client, definition: ClientDefinition, now: datetime, spread: float) -> Outcome:
    """Apply a definition that was read again, setting by setting."""
    old = client.definition
    if old == definition:
        return client, ()
    settings = merge(client.settings, definition.settings, old.settings if old else None)
    after, facts = apply(client, Reconfigured(settings, definition), now)
    # Of a client that had no definition an administrator has decided already; a definition may only be stricter.
    if definition.enabled != (True if old is None else old.enabled):
        after, more = apply(after, Enable(spread) if definition.enabled else Disable(), now)
        facts = (*facts, *more)
    return after, facts


def merge(current: ClientSettings, fresh: ClientSettings, remembered: ClientSettings | None) -> ClientSettings:
    """Take what changed between ``remembered`` and ``fresh`` from ``fresh``, and the rest from ``current``."""
    if remembered is None:
        return fresh
    redefined = changed_settings(remembered, fresh)
    kept = {name: getattr(current, name) for name in changed_settings(fresh, current) if name not in redefined}
    return evolve(fresh, **kept)


def changed_settings(before: ClientSettings, after: ClientSettings) -> list[str]:
    """The names of those that differ; names only, because one of them is the secret."""
    return [name for name in SETTINGS if getattr(before, name) != getattr(after, name)]


def _reason_to_disable(client: Client) -> Cause | None:
    if client.last_outcome is None:
        return Cause.NEVER_CHECKED
    if client.last_outcome != Exited(0):
        return Cause.CHECK_FAILED
    return Cause.GRACE_SPENT if client.had_grace else None
