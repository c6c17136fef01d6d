"""Tests of ``mandos_tx.formats.saved_state``."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from attrs import evolve, fields
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

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
    Petition,
    Ruling,
)
from mandos_tx.core.happenings import (
    CheckDue,
    CheckFinished,
    CheckStarted,
    Disable,
    Enable,
    Event,
    Petitioned,
    Reconfigured,
    Ruled,
    SecretDelivered,
    Vouched,
)
from mandos_tx.core.lifecycle import apply, newborn
from mandos_tx.core.restoration import merge
from mandos_tx.formats.saved_state import (
    VERSION,
    Absent,
    StateDamaged,
    Tombstone,
    decode,
    encode,
    encode_tombstone,
    set_aside,
    worth_saving,
)
from tests.fakes import START, definition_of, lasting

KEY = b"k" * 32
LIMIT = timedelta(days=36500)

MICROSECOND = timedelta(microseconds=1)

durations = st.integers(0, LIMIT // MICROSECOND).map(lambda microseconds: microseconds * MICROSECOND)
instants = durations.map(lambda duration: datetime(1960, 1, 1, tzinfo=UTC) + duration)
texts = st.sampled_from(["", "foo", "\N{SNOWMAN}", "\ud800", "\0\n", '"\\\x7f', "\U0001f4a9"]) | st.text(max_size=5)
secrets = st.sampled_from([b"one", b"two", b"\0" * 100]) | st.binary(min_size=1, max_size=10)
settings_of_clients = st.builds(
    ClientSettings,
    key_id=st.none() | st.just(KeyID("A" * 64)) | texts.map(KeyID),
    fingerprint=st.none() | texts.map(Fingerprint),
    secret=secrets,
    checker=texts,
    host=texts,
    timeout=durations,
    extended_timeout=durations,
    interval=durations,
    approval_delay=durations,
    approval_duration=durations,
    approved_by_default=st.booleans(),
)
standings = st.builds(Enabled, since=instants, expires=instants) | st.builds(Disabled, since=st.none() | instants)
outcomes = st.builds(Exited, st.integers(0, 255)) | st.builds(Killed, st.integers(1, 64), st.booleans())


@st.composite
def clients(draw: st.DrawFn) -> Client:
    """Any client that there can be."""
    name = draw(texts)
    present = draw(settings_of_clients)
    definition = draw(
        st.none()
        | st.builds(ClientDefinition, st.just(name), st.just(present), st.booleans())
        | st.builds(ClientDefinition, st.just(name), settings_of_clients, st.booleans())
    )
    return Client(
        definition=definition,
        name=name,
        settings=present,
        standing=draw(standings),
        created=draw(instants),
        last_enabled=draw(st.none() | instants),
        last_checked_ok=draw(st.none() | instants),
        last_outcome=draw(st.none() | outcomes),
        last_approval_request=draw(st.none() | instants),
        first_check=draw(st.none() | instants),
        check_waiting_since=draw(st.none() | instants),
        running_check=draw(st.none() | texts),
        petitions=draw(st.lists(st.builds(Petition, st.integers(), instants), max_size=2).map(tuple)),
        ruling=draw(st.none() | st.builds(Ruling, st.booleans(), instants)),
        had_grace=draw(st.booleans()),
    )


def changed_secret(definition: ClientDefinition) -> ClientDefinition:
    return evolve(definition, settings=evolve(definition.settings, secret=definition.settings.secret + b"!"))


class RoundTripTests(SynchronousTestCase):
    @settings(max_examples=100, deadline=None)
    @given(clients())
    def test_every_client_comes_back_as_it_was(self, client: Client) -> None:
        self.assertEqual(decode(client.name, encode(client, KEY), client.definition, KEY), lasting(client))

    @settings(max_examples=30, deadline=None)
    @given(clients())
    def test_what_comes_back_is_saved_the_same_again(self, client: Client) -> None:
        def without_seal(document: str) -> Any:
            saved = json.loads(document)
            saved.get("overrides", {}).pop("secret", None)
            return saved

        first = encode(client, KEY)
        back = decode(client.name, first, client.definition, KEY)
        assert isinstance(back, Client)
        self.assertEqual(without_seal(encode(back, KEY)), without_seal(first))

    @settings(max_examples=30, deadline=None)
    @given(clients(), st.timedeltas(-LIMIT, LIMIT))
    def test_every_instant_can_be_moved(self, client: Client, shift: timedelta) -> None:
        def move(instant: datetime | None) -> datetime | None:
            return None if instant is None else instant + shift

        standing = client.standing
        moved = evolve(
            lasting(client),
            standing=Enabled(standing.since + shift, standing.expires + shift)
            if isinstance(standing, Enabled)
            else Disabled(move(standing.since)),
            created=client.created + shift,
            last_enabled=move(client.last_enabled),
            last_checked_ok=move(client.last_checked_ok),
            last_approval_request=move(client.last_approval_request),
            ruling=client.ruling and evolve(client.ruling, until=client.ruling.until + shift),
        )
        self.assertEqual(decode(client.name, encode(client, KEY), client.definition, KEY, shift), moved)

    def test_an_unchanged_definition_is_not_kept_twice(self) -> None:
        definition = definition_of()
        back = decode("client1", encode(newborn(definition, START, 0.5), KEY), definition, KEY)
        assert isinstance(back, Client)
        self.assertIs(back.definition, definition)
        self.assertIs(back.settings, definition.settings)

    @settings(max_examples=20, deadline=None)
    @given(clients())
    def test_a_tombstone_remembers_the_definition(self, client: Client) -> None:
        definition = client.definition or definition_of()
        document = encode_tombstone(definition)
        self.assertEqual(decode(definition.name, document, definition, KEY), Tombstone(definition))

    def test_a_tombstone_covers_its_definition_only_as_it_was(self) -> None:
        definition = definition_of()
        document = encode_tombstone(definition)
        others = [changed_secret(definition), evolve(definition, enabled=False), definition_of(2)]
        for fresh in (definition, *others):
            grave = decode(definition.name, document, fresh, KEY)
            assert isinstance(grave, Tombstone)
            self.assertEqual(grave.covers(fresh), fresh is definition)

    @settings(max_examples=100, deadline=None)
    @given(clients(), st.sampled_from([timedelta(0), timedelta(hours=1), -timedelta(hours=1)]))
    def test_a_disabled_client_can_be_set_aside_without_its_source(self, client: Client, shift: timedelta) -> None:
        definition = client.definition or definition_of()
        client = evolve(client, name=definition.name, definition=definition, standing=Disabled(client.last_enabled))
        document = encode(client, KEY)
        once = set_aside(document, shift)
        self.assertEqual(set_aside(once), once)
        self.assertEqual(set_aside(once, -shift), set_aside(document))
        moved = decode(client.name, document, definition, KEY, shift)
        assert isinstance(moved, Client)
        self.assertEqual(decode(client.name, once, definition, KEY), Absent(moved))

    def test_an_absent_client_is_the_same_as_long_as_its_key_is(self) -> None:
        definition = definition_of()
        absent = Absent(newborn(definition, START, 0.5))
        self.assertTrue(absent.covers(evolve(changed_secret(definition), enabled=False)))
        self.assertFalse(absent.covers(evolve(definition, settings=definition_of(2).settings)))


class SourceTests(SynchronousTestCase):
    """What is remembered of a definition, seen from the one that there is now."""

    @settings(max_examples=40, deadline=None)
    @given(clients(), settings_of_clients, st.booleans())
    def test_what_was_remembered_merges_as_if_it_had_never_been_saved(
        self, client: Client, fresh_settings: ClientSettings, same_secret: bool
    ) -> None:
        if client.definition is None:
            return
        if same_secret:
            fresh_settings = evolve(fresh_settings, secret=client.definition.settings.secret)
        fresh = evolve(client.definition, settings=fresh_settings)
        back = decode(client.name, encode(client, KEY), fresh, KEY)
        assert isinstance(back, Client)
        assert back.definition is not None
        self.assertEqual(
            merge(back.settings, fresh_settings, back.definition.settings),
            merge(client.settings, fresh_settings, client.definition.settings),
        )
        self.assertEqual(back.definition.enabled, client.definition.enabled)

    def test_without_its_source_a_client_has_no_secret(self) -> None:
        client = newborn(definition_of(), START, 0.5)
        for present in (client, evolve(client, settings=evolve(client.settings, secret=b"of run time"))):
            back = decode("client1", encode(present, KEY), None, KEY)
            assert isinstance(back, Client)
            self.assertEqual(back.settings.secret, b"")
            self.assertEqual(evolve(back.settings, secret=present.settings.secret), present.settings)


class SecrecyTests(SynchronousTestCase):
    CANARY = b"canary" * 10

    def client(self) -> Client:
        return newborn(definition_of(), START, 0.5)

    def test_no_secret_is_in_any_document(self) -> None:
        client = self.client()
        secret = evolve(client.settings, secret=self.CANARY)
        defined = evolve(client, definition=evolve(definition_of(), settings=secret))
        for document in (
            encode(evolve(defined, settings=secret), KEY),
            encode(defined, KEY),
            encode(evolve(client, settings=secret), KEY),
            encode(evolve(client, definition=None, settings=secret), KEY),
            encode_tombstone(evolve(definition_of(), settings=secret)),
        ):
            for form in ("canary", self.CANARY.hex(), self.CANARY.hex().upper(), "Y2FuYXJ5", "NhbmFye", "jYW5hcn"):
                self.assertNotIn(form, document)

    def test_equal_secrets_are_sealed_differently_each_time(self) -> None:
        client = evolve(self.client(), definition=None)
        self.assertNotEqual(encode(client, KEY), encode(client, KEY))

    def test_a_sealed_secret_opens_for_its_client_and_key_alone(self) -> None:
        document = encode(evolve(self.client(), definition=None), KEY)
        for name, key in (("client2", KEY), ("client1", b"x" * 32)):
            error = self.assertRaises(StateDamaged, decode, name, document, None, key)
            self.assertIn("decrypted", str(error))

    def test_a_secret_that_was_tampered_with_is_refused(self) -> None:
        saved = json.loads(encode(evolve(self.client(), definition=None), KEY))
        for sealed in ("", "AAAA", "!", saved["overrides"]["secret"][:-4] + "AAAA"):
            saved["overrides"]["secret"] = sealed
            self.assertRaises(StateDamaged, decode, "client1", json.dumps(saved), None, KEY)


class DamageTests(SynchronousTestCase):
    def setUp(self) -> None:
        client = evolve(
            newborn(definition_of(), START, 0.5),
            last_outcome=Exited(1),
            ruling=Ruling(True, START),
            settings=evolve(definition_of().settings, host="another"),
        )
        self.good = json.loads(encode(client, KEY))

    def refused(self, document: str) -> str:
        error = self.assertRaises(StateDamaged, decode, "client1", document, definition_of(2), KEY)
        self.assertEqual(error.name, "client1")
        self.assertIn("'client1'", str(error))
        return str(error)

    def test_what_is_not_json_or_no_object_is_refused(self) -> None:
        for document in ("", "{", "[]", "null", "3", '"version"', "[" * 100_000, "1" * 5000):
            self.refused(document)

    def test_another_version_is_refused(self) -> None:
        for version in (0, VERSION + 1, "1", None, [1]):
            self.assertIn("version", self.refused(json.dumps(self.good | {"version": version})))

    def test_what_is_missing_is_named(self) -> None:
        for option in ("version", "definition", "enabled", "created"):
            saved = {k: v for k, v in self.good.items() if k != option}
            self.assertIn(option, self.refused(json.dumps(saved)))
        for option in self.good["definition"]:
            definition = {k: v for k, v in self.good["definition"].items() if k != option}
            self.assertIn(option, self.refused(json.dumps(self.good | {"definition": definition})))

    def test_wrong_types_are_refused(self) -> None:
        wrong: dict[str, list[object]] = {
            "definition": [[], 3, "x", {}],
            "overrides": [[], 3, "x"],
            "enabled": [None, [], "x", [START.isoformat()], [None, None], [1, 2], [START.isoformat(), None]],
            "disabled": [1, "yesterday", "2026-11-20T14:56:06", "2026-11-20T14:56:06+01:00"],
            "created": [None, 1, "never"],
            "last_enabled": [1, {}],
            "last_outcome": [None, 3, {}, {"exited": "0"}, {"exited": True}, {"killed": 9}],
            "ruling": [None, True, [], [1, START.isoformat()], [True, None]],
            "had_grace": [None, 1, "yes"],
        }
        for option, values in wrong.items():
            for value in values:
                self.refused(json.dumps(self.good | {option: value}))

    def test_wrong_settings_are_refused(self) -> None:
        for option, value in self.good["definition"].items():
            if option == "secret":
                continue
            wrongs: list[object] = [[], {}, 1.5, 10**30, 3 if value is None or isinstance(value, str) else "3"]
            for wrong in wrongs:
                definition = self.good["definition"] | {option: wrong}
                self.refused(json.dumps(self.good | {"definition": definition}))

    def test_what_cannot_be_moved_is_refused(self) -> None:
        document = json.dumps(self.good)
        self.assertRaises(StateDamaged, decode, "client1", document, definition_of(), KEY, timedelta(days=3_000_000))

    def test_only_who_is_disabled_and_was_defined_can_be_absent(self) -> None:
        client = newborn(definition_of(), START, 0.5)
        for wrong in (client, evolve(client, definition=None, standing=Disabled())):
            self.assertIn("absent", self.refused(set_aside(encode(wrong, KEY))))

    def test_a_tombstone_needs_a_definition(self) -> None:
        self.refused(json.dumps({"version": VERSION, "removed": True, "definition": None}))

    @settings(max_examples=100, deadline=None)
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        ),
        st.data(),
    )
    def test_anything_else_gives_a_client_or_one_refusal(self, value: object, data: st.DataObject) -> None:
        target = data.draw(st.sampled_from([self.good, self.good["definition"], self.good["overrides"]]))
        option = data.draw(st.sampled_from(sorted(target)))
        before, target[option] = target[option], value
        try:
            decode("client1", json.dumps(self.good), definition_of(), KEY)
        except StateDamaged:
            pass
        finally:
            target[option] = before


class WorthSavingTests(SynchronousTestCase):
    @settings(max_examples=100, deadline=None)
    @given(st.data())
    def test_what_is_not_worth_saving_changes_no_document(self, data: st.DataObject) -> None:
        client = newborn(definition_of(enabled=data.draw(st.booleans())), START, 0.5)
        other = evolve(client.settings, timeout=timedelta(hours=1))
        events: list[Event] = [
            Enable(0.5),
            Disable(),
            CheckDue(),
            CheckStarted(":"),
            CheckFinished(Exited(0), ":"),
            CheckFinished(Killed(9), ":"),
            Vouched(),
            Petitioned(1),
            Ruled(True),
            SecretDelivered("::1"),
            Reconfigured(other),
        ]
        now = START
        for event in data.draw(st.lists(st.sampled_from(events), max_size=8)):
            now += timedelta(minutes=1)
            after, _ = apply(client, event, now)
            if not worth_saving(client, after):
                self.assertEqual(encode(after, KEY), encode(client, KEY))
            client = after

    def test_starting_a_check_is_not(self) -> None:
        client = newborn(definition_of(), START, 0.5)
        for event in (CheckDue(), CheckStarted(":")):
            self.assertFalse(worth_saving(client, apply(client, event, START)[0]))

    def test_every_setting_is_saved(self) -> None:
        saved = json.loads(encode(newborn(definition_of(), START, 0.5), KEY))["definition"]
        self.assertEqual(set(saved), {a.name for a in fields(ClientSettings)} | {"enabled"})
