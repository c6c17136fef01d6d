"""A checker's command: every value is one word for the shell, and nothing but the known names goes in."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime, timedelta

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.core.client import Client, ClientSettings, Disabled, Enabled, KeyID
from mandos_tx.formats.checker_command import RUN_TIME_NAMES, CheckerCommandError, check_template, expand
from tests.strategies import checkers, clients

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)

CLIENT = Client(
    definition=None,
    name="foo bar",
    settings=ClientSettings(KeyID("AB" * 32), None, b"secret", host="it's", approval_duration=timedelta(seconds=1)),
    standing=Enabled(NOON, NOON + timedelta(minutes=5)),
    created=datetime(2026, 11, 20, 14, 56, 6, 739593, UTC),
)


class ExpandTests(SynchronousTestCase):
    def test_writes_values_as_the_original_does(self) -> None:
        for template, command in {
            "fping -q -- %(host)s": """fping -q -- 'it'"'"'s'""",
            "%(approval_duration)s": "0:00:01",
            "%(approval_delay)s %(timeout)s %(interval)s": "0:00:00 0:05:00 0:02:00",
            "%(created)s": "'2026-11-20 14:56:06.739593'",
            "%(expires)s": "'2026-11-20 12:05:00'",
            "%(last_checked_ok)s %(last_enabled)s %(last_approval_request)s": "None None None",
            "%(enabled)s": "True",
            "%(name)s": "'foo bar'",
            "%(key_id)s %(fingerprint)s": f"{'AB' * 32} ''",
            "%(dbus_object_path)s": "/clients/foo_bar",
            "date +%%s": "date +%s",
            "": "",
        }.items():
            self.assertEqual(command, expand(template, CLIENT, "/clients/foo_bar"), template)

    def test_what_is_not_set_is_none(self) -> None:
        disabled = evolve(CLIENT, standing=Disabled())
        self.assertEqual("False None None", expand("%(enabled)s %(expires)s %(dbus_object_path)s", disabled))

    @settings(max_examples=50, deadline=None)
    @given(clients, st.sampled_from(sorted(RUN_TIME_NAMES)), st.none() | st.just("/clients/x"))
    def test_every_value_is_one_word_of_the_shell(self, client: Client, name: str, path: str | None) -> None:
        words = shlex.split(expand(f"fping -- %({name})s --end", client, path))
        self.assertEqual(["fping", "--", "--end"], [*words[:2], *words[3:]])
        if name in ("host", "name"):
            self.assertEqual(client.settings.host if name == "host" else client.name, words[2])

    @settings(max_examples=50, deadline=None)
    @given(checkers, clients)
    def test_whatever_passes_the_check_can_be_expanded(self, template: str, client: Client) -> None:
        check_template(template)
        self.assertIsInstance(expand(template, client), str)


class CheckTemplateTests(SynchronousTestCase):
    def problem(self, template: str) -> str:
        with self.assertRaises(CheckerCommandError) as caught:
            check_template(template)
        return str(caught.exception)

    def test_refuses_names_that_are_none(self) -> None:
        for name in ("secret", "checker", "extended_timeout", "HOST", "", "settings.secret", "__class__"):
            self.assertEqual(f'no such run-time value: "{name}"', self.problem(f"x %({name})s"))

    def test_refuses_percent_signs_by_themselves(self) -> None:
        for template in ("100%", "%s", "%(host)d", "%(host", "%%%", "% (host)s"):
            self.assertEqual("a percent sign by itself", self.problem(template))
