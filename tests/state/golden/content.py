"""What the state files in this directory hold."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from attrs import evolve

from mandos_tx.clock import TimeLine
from mandos_tx.core.client import (
    Client,
    ClientDefinition,
    ClientSettings,
    Disabled,
    Enabled,
    Exited,
    Fingerprint,
    KeyID,
    Killed,
    Ruling,
)
from tests.fakes import BOOT_ID, START, definition_of

KEY = bytes(range(32))
LINE = TimeLine(BOOT_ID, START - timedelta(days=3, microseconds=1))
GENERATION = 42
SAVED_AT = START
MINUTE = timedelta(minutes=1)


def clients() -> Iterator[Client]:
    """One of every kind."""
    enabled = Enabled(START - MINUTE, START + MINUTE)
    yield Client(definition_of(1), "client1", definition_of(1).settings, enabled, START - MINUTE)
    yield Client(
        definition=definition_of(2),
        name="client2",
        settings=evolve(definition_of(2).settings, secret=b"of run time", timeout=timedelta(days=7)),
        standing=enabled,
        created=START - MINUTE,
        last_enabled=START - MINUTE,
        last_checked_ok=START,
        last_outcome=Exited(0),
        last_approval_request=START,
        ruling=Ruling(False, START + MINUTE),
        had_grace=True,
    )
    yield Client(
        definition=definition_of(3, enabled=False),
        name="client3",
        settings=definition_of(3).settings,
        standing=Disabled(),
        created=START,
        last_outcome=Killed(11, core_dumped=True),
    )
    yield Client(
        definition=None,
        name="klient vier \N{SNOWMAN}",
        settings=ClientSettings(
            key_id=KeyID("B" * 64),
            fingerprint=Fingerprint("A" * 40),
            secret=b"exists at run time only",
            checker="",
            host="2001:db8::4",
            approved_by_default=False,
            approval_delay=MINUTE,
        ),
        standing=Disabled(START),
        created=START,
        last_outcome=Exited(1),
    )


def tombstone() -> ClientDefinition:
    return definition_of(5)
