"""One client as it is saved: a JSON document, and back.

A document holds

==============  ===================================================================================
version         of this format
definition      the client as its source last described it, or null if it exists at run time only
overrides       the settings that differ from the definition; all of them if there is none
enabled,        since when and until when; or
disabled        since when, null if it never was enabled
created, last_  instants
last_outcome    ``{"exited": code}`` or ``{"killed": signal, "core_dumped": ...}``
ruling          ``[approve, until]``
had_grace       only if true
removed         only if true: an administrator removed the client although its source still lists it;
                then there is nothing else but the definition
absent          only if true: the source no longer lists the client, which is disabled
==============  ===================================================================================

Instants are RFC 3339 in UTC, durations whole microseconds. A definition's secret appears as a digest only. A secret
that overrides it is sealed with ChaCha20-Poly1305 (RFC 8439) under a key derived from the definition's secret by HKDF
(RFC 5869), and one without a definition under a key that the caller keeps; the client's name is bound to both.

What belongs to connections and processes (petitions, the running or waiting check, the schedule) is not saved: it ends
with the server.
"""

from __future__ import annotations

import json
import os
from base64 import b64decode, b64encode
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from attrs import frozen
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mandos_tx.core.client import (
    CheckOutcome,
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
    Standing,
)

VERSION = 1
KEY_BYTES = 32
"""Length of the key that seals the secrets of clients without a definition."""

_MICROSECOND = timedelta(microseconds=1)
_NO_SHIFT = timedelta(0)
_NONCE_BYTES = 12
_INSTANTS = frozenset({"disabled", "created", "last_enabled", "last_checked_ok", "last_approval_request"})
_to_json = json.JSONEncoder(check_circular=False, separators=(",", ":")).encode


class StateDamaged(Exception):
    """What was saved about a client cannot be understood."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(
            f"what was saved of client {name!r} is damaged ({problem}); restore the state directory from a backup, or"
            " start once with --no-restore, which forgets everything that was changed at run time: clients that were"
            " disabled may be enabled again"
        )
        self.name = name


@frozen
class Tombstone:
    """A client that an administrator removed; it stays away as long as its source says the same of it."""

    definition: ClientDefinition

    def covers(self, fresh: ClientDefinition) -> bool:
        return self.definition == fresh


@frozen
class Absent:
    """A disabled client that its source no longer lists; should it be listed again, it comes back disabled."""

    client: Client

    def covers(self, fresh: ClientDefinition) -> bool:
        """Another key is another client."""
        return self.client.settings.key_id == fresh.settings.key_id


def encode(client: Client, key: bytes) -> str:
    """Describe ``client``; ``key`` seals its secret if it has no definition."""
    definition, settings, standing = client.definition, client.settings, client.standing
    document: dict[str, object] = {"version": VERSION}
    if definition is None:
        document["definition"] = None
        document["overrides"] = {**_values(settings), "secret": _seal(settings.secret, key, client.name)}
    else:
        defined = _values(definition.settings)
        document["definition"] = _with_digest(defined, definition)
        if settings is not definition.settings and (
            overrides := _overrides(settings, defined, definition, client.name)
        ):
            document["overrides"] = overrides
    if isinstance(standing, Enabled):
        document["enabled"] = [standing.since.isoformat(), standing.expires.isoformat()]
    else:
        document["disabled"] = standing.since and standing.since.isoformat()
    document["created"] = client.created.isoformat()
    if client.last_enabled is not None:
        document["last_enabled"] = client.last_enabled.isoformat()
    if client.last_checked_ok is not None:
        document["last_checked_ok"] = client.last_checked_ok.isoformat()
    if client.last_approval_request is not None:
        document["last_approval_request"] = client.last_approval_request.isoformat()
    match client.last_outcome:
        case Exited(code):
            document["last_outcome"] = {"exited": code}
        case Killed(signal, core_dumped):
            document["last_outcome"] = {"killed": signal, "core_dumped": core_dumped}
    if client.ruling is not None:
        document["ruling"] = [client.ruling.approve, client.ruling.until.isoformat()]
    if client.had_grace:
        document["had_grace"] = True
    return _to_json(document)


def encode_tombstone(definition: ClientDefinition) -> str:
    """Describe a client that was removed although ``definition`` stands."""
    defined = _with_digest(_values(definition.settings), definition)
    return _to_json({"version": VERSION, "removed": True, "definition": defined})


def set_aside(document: str, shift: timedelta = _NO_SHIFT) -> str:
    """Make of a client's document that of an absent one, every instant moved by ``shift``.

    It is not decoded for that: without its source there are no secrets to encode it with.
    """
    saved = json.loads(document)
    saved["absent"] = True
    if shift:
        for instant in _INSTANTS & saved.keys():
            saved[instant] = _moved(saved[instant], shift)
        if "ruling" in saved:
            approve, until = saved["ruling"]
            saved["ruling"] = [approve, _moved(until, shift)]
    return _to_json(saved)


def decode(
    name: str, document: str, fresh: ClientDefinition | None, key: bytes, shift: timedelta = _NO_SHIFT
) -> Client | Tombstone | Absent:
    """Bring back what was saved, every instant moved by ``shift``.

    ``fresh`` is what the client's source says now: only from there can the secret of the remembered definition come.
    If the source's secret has changed, the remembered one is empty, and so is one that was sealed with it.
    Raises StateDamaged.
    """
    try:
        saved = json.loads(document)
        if saved["version"] != VERSION:
            raise ValueError(f"version {saved['version']!r} is unknown")
        defined = saved["definition"]
        definition = None if defined is None else _definition(name, defined, fresh)
        if saved.get("removed"):
            if definition is None:
                raise ValueError("nothing defines what was removed")
            return Tombstone(definition)
        client = _client(name, saved, definition, key, shift)
        if not saved.get("absent"):
            return client
        if definition is None or client.enabled:
            raise ValueError("it is absent, but not disabled or never defined")
        return Absent(client)
    except KeyError as e:
        raise StateDamaged(name, f"there is no {e}") from None
    except InvalidTag:
        raise StateDamaged(name, "its secret cannot be decrypted with the key that is there") from None
    except (AttributeError, TypeError, ValueError, OverflowError, RecursionError) as e:
        raise StateDamaged(name, str(e)) from None


def worth_saving(before: Client, after: Client) -> bool:
    """Whether anything that is saved may differ between two successive values of a client."""
    # Unchanged fields are the same objects (attrs.evolve), and this is asked at every event.
    return not (
        before.standing is after.standing
        and before.last_checked_ok is after.last_checked_ok
        and before.settings is after.settings
        and before.last_outcome == after.last_outcome
        and before.ruling is after.ruling
        and before.last_approval_request is after.last_approval_request
        and before.definition is after.definition
        and before.last_enabled is after.last_enabled
        and before.had_grace is after.had_grace
    )


# -- settings ------------------------------------------------------------------------------------------


def _values(settings: ClientSettings) -> dict[str, object]:
    """Everything but the secret."""
    return {
        "key_id": settings.key_id,
        "fingerprint": settings.fingerprint,
        "checker": settings.checker,
        "host": settings.host,
        "timeout": settings.timeout // _MICROSECOND,
        "extended_timeout": settings.extended_timeout // _MICROSECOND,
        "interval": settings.interval // _MICROSECOND,
        "approval_delay": settings.approval_delay // _MICROSECOND,
        "approval_duration": settings.approval_duration // _MICROSECOND,
        "approved_by_default": settings.approved_by_default,
    }


def _settings(values: dict[str, object], secret: bytes) -> ClientSettings:
    key_id, fingerprint = values["key_id"], values["fingerprint"]
    return ClientSettings(
        key_id=None if key_id is None else KeyID(_text(key_id)),
        fingerprint=None if fingerprint is None else Fingerprint(_text(fingerprint)),
        secret=secret,
        checker=_text(values["checker"]),
        host=_text(values["host"]),
        timeout=_duration(values["timeout"]),
        extended_timeout=_duration(values["extended_timeout"]),
        interval=_duration(values["interval"]),
        approval_delay=_duration(values["approval_delay"]),
        approval_duration=_duration(values["approval_duration"]),
        approved_by_default=_flag(values["approved_by_default"]),
    )


def _with_digest(defined: dict[str, object], definition: ClientDefinition) -> dict[str, object]:
    return {**defined, "enabled": definition.enabled, "secret": _digest(definition.settings.secret)}


def _definition(name: str, defined: dict[str, object], fresh: ClientDefinition | None) -> ClientDefinition:
    secret = b""
    if fresh is not None:
        unchanged = _with_digest(_values(fresh.settings), fresh)
        if defined == unchanged:
            return fresh
        if defined["secret"] == unchanged["secret"]:
            secret = fresh.settings.secret
    return ClientDefinition(name, _settings(defined, secret), _flag(defined["enabled"]))


def _overrides(
    settings: ClientSettings, defined: dict[str, object], definition: ClientDefinition, name: str
) -> dict[str, object]:
    overrides = {option: value for option, value in _values(settings).items() if value != defined[option]}
    if settings.secret != definition.settings.secret:
        overrides["secret"] = _seal(settings.secret, definition.settings.secret, name)
    return overrides


def _present_settings(
    name: str, overrides: dict[str, object], definition: ClientDefinition | None, key: bytes
) -> ClientSettings:
    if definition is None:
        return _settings(overrides, _unseal(overrides["secret"], key, name))
    if not overrides:
        return definition.settings
    secret = definition.settings.secret
    if "secret" in overrides:
        # Without the secret that it was sealed under it is lost; the source's new one takes its place.
        secret = _unseal(overrides["secret"], secret, name) if secret else b""
    return _settings({**_values(definition.settings), **overrides}, secret)


# -- secrets -------------------------------------------------------------------------------------------


def _digest(secret: bytes) -> str:
    hashed = sha256(b"mandos_tx: secret of a definition\0")
    hashed.update(secret)
    return hashed.hexdigest()


def _cipher(key_material: bytes, name: bytes) -> ChaCha20Poly1305:
    derive = HKDF(SHA256(), length=32, salt=None, info=b"mandos_tx: secret of a client at run time\0" + name)
    return ChaCha20Poly1305(derive.derive(key_material))


def _seal(secret: bytes, key_material: bytes, name: str) -> str:
    bound = name.encode("utf-8", "surrogatepass")
    nonce = os.urandom(_NONCE_BYTES)
    return b64encode(nonce + _cipher(key_material, bound).encrypt(nonce, secret, bound)).decode("ascii")


def _unseal(sealed: object, key_material: bytes, name: str) -> bytes:
    bound = name.encode("utf-8", "surrogatepass")
    box = b64decode(_text(sealed), validate=True)
    return _cipher(key_material, bound).decrypt(box[:_NONCE_BYTES], box[_NONCE_BYTES:], bound)


# -- the rest ------------------------------------------------------------------------------------------


def _client(
    name: str, saved: dict[str, object], definition: ClientDefinition | None, key: bytes, shift: timedelta
) -> Client:
    overrides = saved.get("overrides", {})
    if not isinstance(overrides, dict):
        raise TypeError("overrides are not an object")
    created = _instant(saved["created"], shift)
    if created is None:
        raise TypeError("an instant is missing")
    return Client(
        definition=definition,
        name=name,
        settings=_present_settings(name, overrides, definition, key),
        standing=_standing(saved, shift),
        created=created,
        last_enabled=_instant(saved.get("last_enabled"), shift),
        last_checked_ok=_instant(saved.get("last_checked_ok"), shift),
        last_outcome=_outcome(saved["last_outcome"]) if "last_outcome" in saved else None,
        last_approval_request=_instant(saved.get("last_approval_request"), shift),
        ruling=_ruling(saved["ruling"], shift) if "ruling" in saved else None,
        had_grace=_flag(saved.get("had_grace", False)),
    )


def _standing(saved: dict[str, object], shift: timedelta) -> Standing:
    if "disabled" in saved:
        return Disabled(_instant(saved["disabled"], shift))
    since, expires = (_instant(instant, shift) for instant in _pair(saved["enabled"]))
    if since is None or expires is None:
        raise TypeError("an instant is missing")
    return Enabled(since, expires)


def _outcome(value: object) -> CheckOutcome:
    if not isinstance(value, dict):
        raise TypeError("an outcome is not an object")
    if "exited" in value:
        return Exited(_number(value["exited"]))
    return Killed(_number(value["killed"]), _flag(value["core_dumped"]))


def _ruling(value: object, shift: timedelta) -> Ruling:
    approve, until = _pair(value)
    end = _instant(until, shift)
    if end is None:
        raise TypeError("an instant is missing")
    return Ruling(_flag(approve), end)


def _pair(value: object) -> list[object]:
    if not isinstance(value, list) or len(value) != 2:
        raise TypeError("not a pair")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError("neither true nor false")
    return value


def _number(value: object) -> int:
    if type(value) is not int:
        raise TypeError("not a whole number")
    return value


def _duration(value: object) -> timedelta:
    return timedelta(microseconds=_number(value))


def _moved(value: object, shift: timedelta) -> str | None:
    instant = _instant(value, shift)
    return None if instant is None else instant.isoformat()


def _instant(value: object, shift: timedelta) -> datetime | None:
    if value is None:
        return None
    instant = datetime.fromisoformat(_text(value))
    if instant.tzinfo is not UTC:
        raise ValueError("an instant is not in UTC")
    return instant + shift if shift else instant
