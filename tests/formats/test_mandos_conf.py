"""mandos.conf: what it sets, what it does not, and what is wrong with it."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.formats.mandos_conf import VALUES, MandosConf, parse_mandos_conf

EVERY_OPTION = """\
[DEFAULT]
# A comment
interface = enp1s0
address = fe80::aede:48ff:fe71:f6f2
Port: 1025
socket = 0
debug = True
debuglevel = info
priority = SECURE128:!CTYPE-X.509:+CTYPE-RAWPK:%PROFILE_ULTRA
servicename = D\N{LATIN SMALL LETTER AE}na
use_dbus = False
use_ipv6 = 1
restore = off
statedir = /var/lib/mandos
foreground = yes
zeroconf = no
strict_modes = no
state_required = yes
audit_log = /var/log/mandos/audit
audit_required = yes
max_checkers = 7
handshake_timeout = PT1M
max_unauthenticated = 100
max_unauthenticated_per_source = 10
log_json = on
"""


def parse(text: str) -> tuple[MandosConf, list[str], list[str]]:
    conf, complaints, warnings = parse_mandos_conf("f", text.encode())
    return conf, list(map(str, complaints)), list(map(str, warnings))


class MandosConfTests(SynchronousTestCase):
    def test_every_option_can_be_set(self) -> None:
        conf, complaints, warnings = parse(EVERY_OPTION)
        self.assertEqual(([], []), (complaints, warnings))
        self.assertEqual(
            MandosConf(
                interface="enp1s0",
                address="fe80::aede:48ff:fe71:f6f2",
                port=1025,
                socket=0,
                debug=True,
                debuglevel="INFO",
                priority="SECURE128:!CTYPE-X.509:+CTYPE-RAWPK:%PROFILE_ULTRA",
                servicename="D\N{LATIN SMALL LETTER AE}na",
                use_dbus=False,
                use_ipv6=True,
                restore=False,
                statedir="/var/lib/mandos",
                foreground=True,
                zeroconf=False,
                strict_modes=False,
                state_required=True,
                audit_log="/var/log/mandos/audit",
                audit_required=True,
                max_checkers=7,
                handshake_timeout=timedelta(minutes=1),
                max_unauthenticated=100,
                max_unauthenticated_per_source=10,
                log_json=True,
            ),
            conf,
        )
        self.assertEqual(5, conf.lines["port"])
        self.assertEqual(set(VALUES), set(conf.lines))

    def test_nothing_is_required(self) -> None:
        for text in ("", "[DEFAULT]\n", "# nothing\n"):
            self.assertEqual((MandosConf(), [], []), parse(text))

    def test_an_empty_value_is_as_good_as_none(self) -> None:
        empty = "".join(f"{name} =\n" for name in VALUES)
        self.assertEqual((MandosConf(), [], []), parse(f"[DEFAULT]\n{empty}"))

    def test_unknown_options_and_other_sections_are_warned_of(self) -> None:
        conf, complaints, warnings = parse("[DEFAULT]\nprot = 5\n[server]\nport = 6\n")
        self.assertEqual((MandosConf(), []), (conf, complaints))
        self.assertEqual(
            [
                'f:2: [DEFAULT] prot: unknown option; perhaps "port" is meant',
                "f:3: [server]: this section counts for nothing; put its options below [DEFAULT]",
            ],
            warnings,
        )

    def test_every_fault_is_found_in_one_go(self) -> None:
        faults = {
            "port = 65536": "port: 65536 is out of range; write a number from 0 to 65535",
            "socket = stdin": 'socket: "stdin" is not a number',
            "debug = maybe": 'debug: "maybe" is neither yes nor no; write yes or no',
            "debuglevel = LOUD": 'debuglevel: "LOUD" is no level; write one of CRITICAL, ERROR, WARNING, INFO, DEBUG',
            "address = localhost": 'address: "localhost" is no IP address',
            "handshake_timeout = PT4S": 'handshake_timeout: "PT4S" is out of range; write a duration from PT5S to PT2M',
            "max_checkers = 0": "max_checkers: 0 is out of range",
            "servicename = a\n b": 'servicename: "a\\nb" has characters that cannot be printed',
            "garbage": "a line that is no option",
        }
        _, complaints, _ = parse("\n".join(["[DEFAULT]", *faults]))
        self.assertEqual(len(faults), len(complaints))
        for complaint, expected in zip(complaints, faults.values(), strict=True):
            self.assertIn(expected, complaint)
        self.assertEqual(sorted(complaints, key=lambda line: int(line.split(":")[1])), complaints)

    @settings(max_examples=200, deadline=None)
    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), st.sampled_from(sorted(VALUES)))
    def test_any_value_is_taken_or_complained_of(self, value: str, name: str) -> None:
        conf, complaints, _ = parse(f"[DEFAULT]\n{name} = {value}\n")
        self.assertTrue(all(line.isprintable() for line in complaints))
        self.assertTrue(complaints or set(conf.lines) <= {name})

    @settings(max_examples=150, deadline=None)
    @given(st.data())
    def test_a_damaged_file_is_read_or_complained_of(self, data: st.DataObject) -> None:
        content = bytearray(EVERY_OPTION.encode())
        for _ in range(data.draw(st.integers(1, 5))):
            at = data.draw(st.integers(0, len(content)))
            content[at : at + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=4))
        _, complaints, warnings = parse_mandos_conf("f", bytes(content))
        for complaint in (*complaints, *warnings):
            self.assertTrue(str(complaint).isprintable())
            self.assertLessEqual(complaint.line or 0, content.count(b"\n") + content.count(b"\r") + 1)
