"""Hypothesis strategies for what happens to one client in the course of time."""

from __future__ import annotations

from datetime import timedelta

from attrs import evolve
from hypothesis import strategies as st

from mandos_tx.core.client import CheckOutcome, ClientSettings, Exited, Killed
from mandos_tx.core.happenings import (
    CheckAbandoned,
    CheckDue,
    CheckFinished,
    CheckStarted,
    Disable,
    Enable,
    Event,
    Petitioned,
    PetitionRefused,
    PetitionWithdrawn,
    Reconfigured,
    Refusal,
    Ruled,
    SecretDelivered,
    StartCheck,
    StopCheck,
    TimePassed,
    Vouched,
)
from tests.fakes import settings_of

SECOND = timedelta(seconds=1)

durations = st.sampled_from([0, 1, 2, 5, 7, 30]).map(lambda seconds: seconds * SECOND)
"""Few and short, so that they meet."""

client_settings: st.SearchStrategy[ClientSettings] = st.builds(
    lambda **chosen: evolve(settings_of(), **chosen),
    timeout=durations,
    extended_timeout=durations,
    interval=durations.filter(bool),
    approval_delay=durations,
    approval_duration=durations,
    approved_by_default=st.booleans(),
)

numbers = st.integers(1, 4)
outcomes: st.SearchStrategy[CheckOutcome] = st.sampled_from([Exited(0), Exited(0), Exited(1), Killed(9)])

events: st.SearchStrategy[Event] = st.one_of(
    st.sampled_from([0.0, 0.25, 0.5]).map(Enable),
    st.just(Disable()),
    st.just(StartCheck()),
    st.just(StopCheck()),
    st.just(CheckDue()),
    st.just(CheckStarted("fping")),
    outcomes.map(lambda outcome: CheckFinished(outcome, "fping")),
    st.just(CheckAbandoned()),
    st.just(Vouched()),
    numbers.map(Petitioned),
    numbers.map(PetitionWithdrawn),
    st.booleans().map(Ruled),
    st.just(PetitionRefused(Refusal.DENIED, "::1")),
    st.just(SecretDelivered("::1")),
    client_settings.map(Reconfigured),
    st.just(TimePassed()),
)

histories = st.lists(st.tuples(durations, events), max_size=25)
"""Each event, and how long after the one before."""
