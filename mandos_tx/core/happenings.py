"""What happens to clients: events that the registry is told, facts that it publishes.

Events are requests and observations from outside; facts are what the rules made of them.
Neither carries a secret.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import Enum, unique
from random import random
from typing import TypeAlias

from attrs import field, frozen

from mandos_tx.core.client import CheckOutcome, Client, ClientDefinition, ClientSettings, KeyID

# -- events ---------------------------------------------------------------------------------------


@frozen
class Enable:
    """An administrator trusts the client again; does nothing to one that is enabled."""

    spread: float = field(factory=random)
    """Where in its interval the first check falls, in [0, 1): clients must not all be checked at once."""


@frozen
class Disable:
    """An administrator withdraws the trust."""


@frozen
class StartCheck:
    """Somebody wants a check now, on schedule or not, even of a disabled client."""


@frozen
class StopCheck:
    """Somebody wants the running check ended, without an outcome."""


@frozen
class CheckDue:
    """A check ought to run, but waits for a free place."""


@frozen
class CheckStarted:
    command: str


@frozen
class CheckFinished:
    outcome: CheckOutcome
    command: str


@frozen
class CheckAbandoned:
    """A waiting or running check was given up without an outcome: it says nothing about the client."""


@frozen
class Vouched:
    """Somebody asserts that the client is alive: as good as a check that succeeded."""


@frozen
class Petitioned:
    """A connection that has proven the client's key waits for approval; ``number`` is the asker's own."""

    number: int


@frozen
class PetitionWithdrawn:
    number: int


@frozen
class Ruled:
    """An administrator approves or denies."""

    approve: bool


@frozen
class PetitionRefused:
    """A connection that has proven the client's key was told to go, without a byte."""

    reason: Refusal
    address: str


@frozen
class SecretDelivered:
    """The last byte of the secret was accepted by the network."""

    address: str


@frozen
class DeliveryAbandoned:
    """A connection ended while the secret was on its way."""

    address: str


@frozen
class Reconfigured:
    """The client's settings are replaced; ``definition`` too if its source has changed."""

    settings: ClientSettings
    definition: ClientDefinition | None = None


@frozen
class TimePassed:
    """A deadline of the client may have come."""


Event: TypeAlias = (
    Enable
    | Disable
    | StartCheck
    | StopCheck
    | CheckDue
    | CheckStarted
    | CheckFinished
    | CheckAbandoned
    | Vouched
    | Petitioned
    | PetitionWithdrawn
    | Ruled
    | PetitionRefused
    | SecretDelivered
    | DeliveryAbandoned
    | Reconfigured
    | TimePassed
)

# -- facts ----------------------------------------------------------------------------------------


@unique
class Refusal(Enum):
    """Why a client that proved its key got nothing; the value is what the Rejected signal says."""

    DISABLED = "Disabled"
    DENIED = "Denied"
    TIMED_OUT = "Approval timed out"
    OVERRUN = "Too many connections wait for approval"
    AUDIT = "Audit log cannot be written"


@unique
class Cause(Enum):
    """Why a client is disabled."""

    EXPIRED = "expired"
    ADMINISTRATOR = "administrator"
    NEVER_CHECKED = "it expired while the server was down, and no check ever succeeded"
    CHECK_FAILED = "it expired while the server was down, and its last check failed"
    GRACE_SPENT = "it expired while the server was down, and no check has succeeded since the last time that happened"


@frozen
class ClientAdded:
    pass


@frozen
class ClientRestored:
    """The client was there before the server stopped."""

    grace: bool
    """Whether it got one fresh timeout because its own ran out while nobody could check it."""


@frozen
class ClientRemoved:
    by_administrator: bool
    """True: stays away although its source still lists it. False: its source no longer lists it."""


@frozen
class ClientEnabled:
    pass


@frozen
class ClientDisabled:
    cause: Cause


@frozen
class CheckWanted:
    pass


@frozen
class CheckUnwanted:
    pass


@frozen
class CheckerStarted:
    command: str


@frozen
class CheckerCompleted:
    outcome: CheckOutcome
    command: str


@frozen
class NeedApproval:
    within: timedelta
    by_default: bool


@frozen
class PetitionDecided:
    """``refusal`` is None if the connection may have the secret."""

    number: int
    refusal: Refusal | None


@frozen
class Rejected:
    reason: Refusal
    address: str


@frozen
class GotSecret:
    address: str


@frozen
class DeliveryBrokeOff:
    """Some of the secret may have been received, but not all of it."""

    address: str


@frozen
class ClientNotFound:
    """Somebody proved a key that no client has; the only fact that belongs to no client."""

    key_id: KeyID
    address: str


Fact: TypeAlias = (
    ClientAdded
    | ClientRestored
    | ClientRemoved
    | ClientEnabled
    | ClientDisabled
    | CheckWanted
    | CheckUnwanted
    | CheckerStarted
    | CheckerCompleted
    | NeedApproval
    | PetitionDecided
    | Rejected
    | GotSecret
    | DeliveryBrokeOff
    | ClientNotFound
)


@frozen
class Change:
    """What the registry publishes: the client before (None: it is new) and after (None: it is gone)."""

    before: Client | None
    after: Client | None
    facts: tuple[Fact, ...]
    at: datetime
    by: str = ""
    """Who asked for it, as the audit names them; empty if the server itself did."""
