"""Hypothesis strategies for what configurations consist of."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime, timedelta

from attrs import frozen
from hypothesis import strategies as st

from mandos_tx.core.client import Client, ClientDefinition, ClientSettings, Disabled, Enabled, Fingerprint, KeyID
from mandos_tx.formats.checker_command import RUN_TIME_NAMES
from mandos_tx.formats.rfc3339 import LONGEST, format_duration

HEXADECIMAL = "0123456789ABCDEF"

durations = st.integers(0, LONGEST // timedelta(seconds=1)).map(lambda seconds: timedelta(seconds=seconds))
"""What clients.conf can say: whole seconds, up to 100 years."""

instants = st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1)).map(lambda naive: naive.replace(tzinfo=UTC))
key_ids = st.text(HEXADECIMAL, min_size=64, max_size=64).map(KeyID)
fingerprints = st.text(HEXADECIMAL, min_size=40, max_size=40).map(Fingerprint)
secrets = st.binary(min_size=1, max_size=200)

lines = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), max_size=30).map(str.strip)
"""Values of one line."""

names = lines.filter(lambda name: name not in ("", "DEFAULT") and "]" not in name)
"""Names of clients, as a section header can give them."""

checkers = st.lists(
    st.sampled_from(["fping -q -- ", "%%", " ", "'", "true; ", *(f"%({name})s" for name in sorted(RUN_TIME_NAMES))]),
    max_size=6,
).map(lambda pieces: "".join(pieces).strip())
"""Templates for run-time expansion."""


@st.composite
def client_settings(draw: st.DrawFn) -> ClientSettings:
    """Settings that clients.conf can hold."""
    return ClientSettings(
        key_id=draw(key_ids),
        fingerprint=draw(st.none() | fingerprints),
        secret=draw(secrets),
        checker=draw(checkers),
        host=draw(lines),
        timeout=draw(durations),
        extended_timeout=draw(durations),
        interval=draw(durations.filter(bool)),
        approval_delay=draw(durations),
        approval_duration=draw(durations),
        approved_by_default=draw(st.booleans()),
    )


definitions = st.builds(ClientDefinition, name=names, settings=client_settings(), enabled=st.booleans())

fleets = st.lists(definitions, max_size=4, unique_by=(lambda one: one.name, lambda one: one.settings.key_id))
"""Clients that can stand in one clients.conf."""

clients = st.builds(
    Client,
    definition=st.none(),
    name=names,
    settings=client_settings(),
    standing=st.builds(Enabled, since=instants, expires=instants) | st.builds(Disabled),
    created=instants,
    last_enabled=st.none() | instants,
    last_checked_ok=st.none() | instants,
    last_approval_request=st.none() | instants,
)


@frozen
class Written:
    """A value, and a way to write it in a file."""

    text: str
    value: timedelta


@st.composite
def written_durations(draw: st.DrawFn) -> Written:
    """Every form of TIME that clients.conf takes, with what it means by the words of RFC 3339 and the manual."""
    number = st.integers(0, 40)
    form = draw(st.sampled_from(["weeks", "date", "time", "old", "empty"]))
    if form == "empty":
        return Written("", timedelta(0))
    if form == "weeks":
        weeks = draw(number)
        return Written(f"P{weeks}W", timedelta(weeks=weeks))
    if form == "old":
        terms = draw(st.lists(st.tuples(number, st.sampled_from("smhdw")), min_size=1, max_size=4))
        units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
        total = sum((timedelta(**{units[unit]: count}) for count, unit in terms), timedelta(0))
        return Written(" ".join(f"{count}{unit}" for count, unit in terms), total)
    date, time = "", ""
    total = timedelta(0)
    if form == "date":
        date, total = _run(draw, [("Y", timedelta(364)), ("M", timedelta(28)), ("D", timedelta(1))])
    if form == "time" or draw(st.booleans()):
        units_of_time = [("H", timedelta(hours=1)), ("M", timedelta(minutes=1)), ("S", timedelta(seconds=1))]
        time, of_time = _run(draw, units_of_time)
        total += of_time
    return Written(f"P{date}T{time}" if time else f"P{date}", total)


def _run(draw: st.DrawFn, units: list[tuple[str, timedelta]]) -> tuple[str, timedelta]:
    """Units that follow each other without a gap, at least one."""
    first = draw(st.integers(0, len(units) - 1))
    last = draw(st.integers(first, len(units) - 1))
    counts = [(draw(st.integers(0, 40)), letter, unit) for letter, unit in units[first : last + 1]]
    text = "".join(f"{count}{letter}" for count, letter, _ in counts)
    return text, sum((count * unit for count, _, unit in counts), timedelta(0))


def clients_conf(fleet: list[ClientDefinition]) -> str:
    """The file that defines these clients."""
    return "\n".join(["[DEFAULT]", *map(_section, fleet), ""])


def _section(definition: ClientDefinition) -> str:
    settings = definition.settings
    options = {
        "key_id": settings.key_id,
        "fingerprint": settings.fingerprint or "",
        "secret": "\n    ".join(b64encode(settings.secret).decode("ascii")[i : i + 64] for i in range(0, 300, 64)),
        "checker": settings.checker,
        "host": settings.host,
        "timeout": format_duration(settings.timeout),
        "extended_timeout": format_duration(settings.extended_timeout),
        "interval": format_duration(settings.interval),
        "approval_delay": format_duration(settings.approval_delay),
        "approval_duration": format_duration(settings.approval_duration),
        "approved_by_default": "yes" if settings.approved_by_default else "no",
        "enabled": "yes" if definition.enabled else "no",
    }
    return "\n".join([f"[{definition.name}]", *(f"{name} = {_escaped(text)}" for name, text in options.items())])


def _escaped(text: str | None) -> str:
    return (text or "").replace("%", "%%")
