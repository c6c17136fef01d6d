"""What a client is: an immutable value, made of what was decided about it and what became of it.

Durations are ``timedelta``, instants aware UTC ``datetime`` on the server's own time line
(``mandos_tx.clock``), which no step of the wall clock moves.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NewType, TypeAlias

from attrs import field, frozen

KeyID = NewType("KeyID", str)
"""SHA-256 of a public key's SubjectPublicKeyInfo (RFC 7250): 64 upper-case hexadecimal digits."""

Fingerprint = NewType("Fingerprint", str)
"""OpenPGP fingerprint, upper-case hexadecimal digits; kept and shown, never looked up (RFC 6091 is gone)."""

DEFAULT_CHECKER = "fping -q -- %(host)s"


@frozen
class ClientSettings:
    """What the administrator decided about one client; the options of mandos-clients.conf(5)."""

    key_id: KeyID | None
    fingerprint: Fingerprint | None
    secret: bytes = field(repr=False)
    """The OpenPGP blob, sent as it is. In no repr, log or fact."""
    checker: str = DEFAULT_CHECKER
    """Shell command before its run-time expansion, so ``%(host)s`` and ``%%``; empty: every check succeeds."""
    host: str = ""
    timeout: timedelta = timedelta(minutes=5)
    extended_timeout: timedelta = timedelta(minutes=15)
    interval: timedelta = timedelta(minutes=2)
    approval_delay: timedelta = timedelta(0)
    approval_duration: timedelta = timedelta(seconds=1)
    approved_by_default: bool = True


@frozen
class ClientDefinition:
    """A client as its source (clients.conf, a directory, the API) describes it."""

    name: str
    settings: ClientSettings
    enabled: bool = True


@frozen
class Enabled:
    """Eligible for its secret until ``expires``."""

    since: datetime
    expires: datetime


@frozen
class Disabled:
    """Gets nothing until an administrator enables it; ``since`` is None if it never was enabled."""

    since: datetime | None = None


Standing: TypeAlias = Enabled | Disabled


@frozen
class Exited:
    """A checker that ended by itself, with this exit status (0 to 255)."""

    code: int


@frozen
class Killed:
    """A checker that was ended by this signal."""

    signal: int
    core_dumped: bool = False


CheckOutcome: TypeAlias = Exited | Killed


@frozen
class Petition:
    """A connection that waits for approval; if nobody rules before ``deadline``, the default does."""

    number: int
    deadline: datetime


@frozen
class Ruling:
    """An administrator's approval or denial, which also covers who asks before ``until``."""

    approve: bool
    until: datetime


@frozen
class Client:
    """One client: its settings, its standing, and what is known of its checks and its petitions."""

    definition: ClientDefinition | None
    """As its source last described it; None for a client that only exists at run time."""
    name: str
    settings: ClientSettings
    standing: Standing
    created: datetime
    last_enabled: datetime | None = None
    last_checked_ok: datetime | None = None
    last_outcome: CheckOutcome | None = None
    last_approval_request: datetime | None = None
    first_check: datetime | None = None
    """When the schedule of checks begins; moves with every enabling."""
    check_waiting_since: datetime | None = None
    """Since when a due check waits for a free place; the time left does not run meanwhile."""
    running_check: str | None = None
    """The expanded command of the checker that runs now."""
    petitions: tuple[Petition, ...] = ()
    ruling: Ruling | None = None
    had_grace: bool = False
    """Whether the one fresh timeout after a downtime has been used since the last good check."""

    @property
    def enabled(self) -> bool:
        return isinstance(self.standing, Enabled)

    @property
    def expires(self) -> datetime | None:
        return self.standing.expires if isinstance(self.standing, Enabled) else None
