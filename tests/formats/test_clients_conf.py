"""clients.conf: the clients that it defines, and all that is wrong with it, in one go."""

from __future__ import annotations

from base64 import b64encode
from datetime import timedelta

from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.core.client import ClientDefinition, ClientSettings, Fingerprint, KeyID
from mandos_tx.formats.clients_conf import Clients, SecretFile, parse_clients_conf
from mandos_tx.formats.complaint import Fault
from mandos_tx.formats.ini import Document
from tests.strategies import clients_conf, fleets

KEYS = [f"{number:064X}" for number in range(1, 9)]
GOOD = f"key_id = {KEYS[0]}\nsecret = c2VjcmV0\nhost = foo.example.org\n"


def no_secfile(path: str, naming_file: str) -> SecretFile:
    raise AssertionError(f"nobody was to ask for {path}")


@frozen
class Secfiles:
    """Secfiles in memory."""

    files: dict[str, SecretFile]

    def __call__(self, path: str, naming_file: str) -> SecretFile:
        if path not in self.files:
            raise FileNotFoundError(2, "No such file or directory", path)
        return self.files[path]


class ClientsConfCase(SynchronousTestCase):
    def parse(self, *texts: str, secfiles: dict[str, SecretFile] | None = None) -> Clients:
        files = [Document.decode(f"f{number}", text.encode()) for number, text in enumerate(texts)]
        return parse_clients_conf(files, no_secfile if secfiles is None else Secfiles(secfiles))

    def good(self, *texts: str, secfiles: dict[str, SecretFile] | None = None) -> list[ClientDefinition]:
        clients = self.parse(*texts, secfiles=secfiles)
        self.assertEqual([], list(map(str, clients.complaints)))
        return clients.definitions

    def complaints(self, *texts: str, secfiles: dict[str, SecretFile] | None = None) -> list[str]:
        return list(map(str, self.parse(*texts, secfiles=secfiles).complaints))

    def warnings(self, *texts: str) -> list[str]:
        clients = self.parse(*texts)
        self.assertEqual([], list(map(str, clients.complaints)))
        return list(map(str, clients.warnings))


class DefinitionTests(ClientsConfCase):
    def test_what_is_not_said_has_the_defaults_of_the_manual(self) -> None:
        [definition] = self.good(f"[foo]\n{GOOD}")
        self.assertEqual(
            ClientDefinition("foo", ClientSettings(KeyID(KEYS[0]), None, b"secret", host="foo.example.org")), definition
        )

    def test_every_option_can_be_set(self) -> None:
        [definition] = self.good(
            f"""\
[foo bar.\N{LATIN SMALL LETTER O WITH DIAERESIS}]
key_id = {" ".join(KEYS[0].lower())}
fingerprint =  7788 2722 5BA7 DE53 9C5A  7CFA 59CF F7CD BD9A 5920
secret =
    c2Vj

    cmV0
host = foo.example.org
checker = nc -z %%(host)s 22; date +%%%%s
timeout = PT15M
extended_timeout = 1h
interval = P1D
approval_delay = PT30S
approval_duration =
approved_by_default = False
enabled = no
"""
        )
        self.assertEqual(
            ClientDefinition(
                "foo bar.\N{LATIN SMALL LETTER O WITH DIAERESIS}",
                ClientSettings(
                    KeyID(KEYS[0]),
                    Fingerprint("778827225BA7DE539C5A7CFA59CFF7CDBD9A5920"),
                    b"secret",
                    checker="nc -z %(host)s 22; date +%%s",
                    host="foo.example.org",
                    timeout=timedelta(minutes=15),
                    extended_timeout=timedelta(hours=1),
                    interval=timedelta(days=1),
                    approval_delay=timedelta(seconds=30),
                    approval_duration=timedelta(0),
                    approved_by_default=False,
                ),
                enabled=False,
            ),
            definition,
        )

    @settings(max_examples=40, deadline=None)
    @given(fleets)
    def test_any_fleet_that_is_written_is_read_back(self, fleet: list[ClientDefinition]) -> None:
        self.assertEqual(fleet, self.good(clients_conf(fleet)))

    def test_clients_keep_the_order_of_the_files(self) -> None:
        names = [definition.name for definition in self.good(*(self.one(number) for number in range(4)))]
        self.assertEqual(["c0", "c1", "c2", "c3"], names)

    def one(self, number: int, more: str = "") -> str:
        return f"[c{number}]\nkey_id = {KEYS[number]}\nsecret = c2VjcmV0\nhost = h\n{more}"

    def test_an_empty_checker_stays_empty(self) -> None:
        [definition] = self.good(f"[foo]\n{GOOD}checker =\n")
        self.assertEqual("", definition.settings.checker)

    def test_the_output_of_mandos_keygen_is_taken_without_a_warning(self) -> None:
        text = f"""\
[foo]
host = foo.example.org
key_id = {KEYS[0].lower()}
fingerprint = 778827225BA7DE539C5A7CFA59CFF7CDBD9A5920
secret =
    {b64encode(b"s" * 48).decode()}
    {b64encode(b"s" * 47).decode()}
checker = ssh-keyscan -t ed25519 %%(host)s 2>/dev/null | grep -xF %%(host)s" %(ssh_fingerprint)s" >/dev/null
ssh_fingerprint = ssh-ed25519 AAAAC3NzaC1lZDI1NTE5
"""
        [definition] = self.good(text)
        self.assertIn('%(host)s" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5"', definition.settings.checker)
        self.assertEqual([], self.warnings(text))

    def test_equal_values_are_one_object(self) -> None:
        more = "timeout = PT19M\nchecker = ping %%(host)s\n"
        one, other = self.good(self.one(0, more) + self.one(1, more))
        self.assertIs(one.settings.timeout, other.settings.timeout)
        self.assertIs(one.settings.checker, other.settings.checker)


class DefaultTests(ClientsConfCase):
    def test_hold_for_the_clients_of_every_file(self) -> None:
        base = "[DEFAULT]\ntimeout = PT7M\nhost = h\n"
        definitions = self.good(base + f"[a]\n{GOOD.replace('host', 'x')}", f"[b]\nkey_id = {KEYS[1]}\nsecret = eA==\n")
        self.assertEqual([timedelta(minutes=7)] * 2, [definition.settings.timeout for definition in definitions])

    def test_of_another_file_go_before_for_that_file_alone(self) -> None:
        files = [
            "[DEFAULT]\ntimeout = PT7M\ninterval = PT1M\n",
            f"[DEFAULT]\ntimeout = PT8M\n[a]\n{GOOD}",
            f"[b]\nkey_id = {KEYS[1]}\nsecret = eA==\n",
        ]
        definitions = self.good(*files)
        minutes = [(one.settings.timeout.seconds // 60, one.settings.interval.seconds // 60) for one in definitions]
        self.assertEqual([(8, 1), (7, 1)], minutes)

    def test_that_refer_to_options_are_expanded_for_each_client(self) -> None:
        base = "[DEFAULT]\nchecker = ping %(way)s %%(host)s\nway = -4\n"
        definitions = self.good(
            base + f"[a]\n{GOOD}[b]\nway = -6\nkey_id = {KEYS[1]}\nsecret = eA==\nhost = h\n",
            f"[DEFAULT]\nway = -8\n[c]\nkey_id = {KEYS[2]}\nsecret = eA==\nhost = h\n",
        )
        ways = [definition.settings.checker for definition in definitions]
        self.assertEqual(["ping -4 %(host)s", "ping -6 %(host)s", "ping -8 %(host)s"], ways)

    def test_a_fault_in_them_is_one_complaint(self) -> None:
        base = "[DEFAULT]\ntimeout = soon\n"
        sections = "".join(f"[c{n}]\nkey_id = {KEYS[n]}\nsecret = eA==\nhost = h\n" for n in range(3))
        [complaint] = self.complaints(base + sections)
        self.assertTrue(complaint.startswith('f0:2: [DEFAULT] timeout: "soon" is not a duration; '), complaint)

    def test_a_fault_in_them_stays_one_though_no_client_uses_them(self) -> None:
        self.assertEqual(1, len(self.complaints(f"[DEFAULT]\ntimeout = soon\n[a]\ntimeout = PT9M\n{GOOD}")))

    def test_a_file_can_put_a_fault_right_for_itself(self) -> None:
        files = ["[DEFAULT]\nsecret = ?\n", f"[DEFAULT]\nsecret = eA==\n[a]\nkey_id = {KEYS[0]}\nhost = h\n"]
        [complaint] = self.complaints(*files)
        self.assertIn("f0:2: [DEFAULT] secret: not base64", complaint)

    def test_a_secret_in_them_that_is_faulty_is_not_also_missing(self) -> None:
        self.assertEqual(1, len(self.complaints(f"[DEFAULT]\nsecret = ?\nsecfile = /s\n[a]\nkey_id = {KEYS[0]}\n")))


class ComplaintTests(ClientsConfCase):
    def check(self, expected: str, *texts: str) -> None:
        complaints = self.complaints(*texts)
        self.assertEqual(1, len(complaints), complaints)
        self.assertIn(expected, complaints[0])

    def test_each_option(self) -> None:
        for option, expected in {
            "timeout = 300": 'f0:5: [foo] timeout: "300" is not a duration; write an RFC 3339 duration',
            "timeout = P101Y": "longer than 100 years",
            "interval = PT0S": "f0:5: [foo] interval: checks without a pause; write",
            "enabled = perhaps": 'f0:5: [foo] enabled: "perhaps" is neither yes nor no; write yes or no',
            "approved_by_default =": 'approved_by_default: "" is neither yes nor no',
            "fingerprint = 1234": "fingerprint: 4 hexadecimal digits; write 32 or 40 or 64 hexadecimal digits",
            "checker = ping %(nobody)s": "checker: refers to %(nobody)s, which is no option here; set it in this",
            "checker = ping %%(nobody)s": 'checker: no such run-time value: "nobody"; write one of approval_delay,',
            "checker = 100%": "f0:5: [foo] checker: a percent sign by itself; write %% for a percent sign",
            "checker = 100%%": "f0:5: [foo] checker: a percent sign by itself, when the checker is to start",
            "checker = a\0b": "checker: a NUL character; leave it out",
            "timeout = %(timeout)s": "timeout: options refer to each other more than ten deep",
        }.items():
            self.check(expected, f"[foo]\n{GOOD}{option}\n")

    def test_key_ids(self) -> None:
        for text, expected in {
            "": "f0:1: [foo] key_id: missing; set key_id to what mandos-keygen prints",
            "key_id =": "f0:2: [foo] key_id: missing",
            "key_id = 12": "f0:2: [foo] key_id: 2 hexadecimal digits; write 64 hexadecimal digits",
            f"key_id = {'x' * 64}": "is not hexadecimal",
        }.items():
            self.check(expected, f"[foo]\n{text}\nsecret = eA==\n")

    def test_a_default_section_of_the_wrong_case(self) -> None:
        self.check("f0:1: [default] key_id: missing; call the section [DEFAULT]", "[default]\nsecret = eA==\n")

    def test_two_clients_of_one_key(self) -> None:
        other = f"[bar]\nsecret = eA==\nkey_id = {KEYS[0].lower()}\n"
        self.check(
            "f0:8: [bar] key_id: the client at f0:1 has the same; make",
            f"[foo]\n{GOOD}\n[x]\n{other}".replace("[x]\n", ""),
        )
        self.check("f1:3: [bar] key_id: the client at f0:1 has the same", f"[foo]\n{GOOD}", other)

    def test_two_clients_of_one_name(self) -> None:
        self.check("f0:5: [foo]: this section is there already, in line 1", f"[foo]\n{GOOD}[foo]\n{GOOD}")
        self.check("f1:1: [foo]: a client of this name is at f0:1 already", f"[foo]\n{GOOD}", f"[foo]\n{GOOD}")

    def test_a_name_with_a_nul(self) -> None:
        self.check("[fo\\x00o]: a NUL character in the name", f"[fo\0o]\n{GOOD}")

    def test_secrets(self) -> None:
        key = f"[foo]\nkey_id = {KEYS[0]}\n"
        self.check("f0:1: [foo] secret: missing; give the secret", key)
        self.check("f0:3: [foo] secret: empty", f"{key}secret =\n")
        self.check("f0:3: [foo] secret: not base64: it is cut short or damaged", f"{key}secret = QUJ\n")
        self.check("f0:3: [foo] secfile: a NUL character", f"{key}secfile = a\0\n")

    def test_a_secret_whose_last_line_lost_its_white_space(self) -> None:
        text = f"[foo]\nkey_id = {KEYS[0]}\nsecret =\n  QUJDQUJD\nQUJDQUI=\nhost = h\n"
        self.check("f0:3: [foo] secret: its last line seems to be cut off; put white space before each line", text)

    def test_no_secret_is_quoted(self) -> None:
        for text in ("QUJDRA*\n  QUJDRA==", "QUJDRA", "QUJDRA==QUJDRA==", "\nQUJDRA", "QUJD\nQUJDRA==", "%QUJDRA"):
            complaints = self.complaints(f"[foo]\nkey_id = {KEYS[0]}\nsecret = {text}\n")
            self.assertTrue(complaints)
            self.assertNotIn("qujd", "".join(complaints).lower())

    def test_all_in_the_order_of_the_files(self) -> None:
        complaints = self.complaints(
            "[foo]\ntimeout = x\ninterval = y\nsecret = ?\njunk\n[DEFAULT]\nhost = %\n",
            "[bar]\nkey_id = z\nsecret = eA==\n",
        )
        places = [complaint.split(" ")[0] for complaint in complaints]
        self.assertEqual(["f0:1:", "f0:2:", "f0:3:", "f0:4:", "f0:5:", "f0:7:", "f1:2:"], places)


class SecfileTests(ClientsConfCase):
    TEXT = f"[foo]\nkey_id = {KEYS[0]}\nhost = h\nsecfile = /s/%%foo\n"

    def test_is_the_secret_as_it_is(self) -> None:
        [definition] = self.good(self.TEXT, secfiles={"/s/%foo": SecretFile(b"\0\xff=\n")})
        self.assertEqual(b"\0\xff=\n", definition.settings.secret)

    def test_is_not_asked_for_beside_a_secret(self) -> None:
        [definition] = self.good(f"{self.TEXT}secret = eA==\n")
        self.assertEqual(b"x", definition.settings.secret)

    def test_that_is_not_there_is_complained_of(self) -> None:
        [complaint] = self.complaints(self.TEXT, secfiles={})
        self.assertIn("f0:4: [foo] secfile: /s/%foo cannot be read: No such file or directory; name", complaint)

    def test_that_is_empty_is_complained_of(self) -> None:
        [complaint] = self.complaints(self.TEXT, secfiles={"/s/%foo": SecretFile(b"")})
        self.assertIn("f0:4: [foo] secfile: /s/%foo is empty", complaint)

    def test_whose_file_is_faulty_or_doubtful_is_said_at_its_line(self) -> None:
        found = SecretFile(b"x", (Fault("bad mode", "chmod"),), (Fault("open", "close"),))
        clients = self.parse(self.TEXT, secfiles={"/s/%foo": found})
        self.assertEqual(["f0:4: [foo] secfile: bad mode; chmod"], list(map(str, clients.complaints)))
        self.assertEqual(["f0:4: [foo] secfile: open; close"], list(map(str, clients.warnings)))


class WarningTests(ClientsConfCase):
    def check(self, expected: str, text: str) -> None:
        warnings = self.warnings(text)
        self.assertEqual(1, len(warnings), warnings)
        self.assertIn(expected, warnings[0])

    def test_each_option(self) -> None:
        for options, expected in {
            "timout = PT5M": 'f0:5: [foo] timout: unknown option; perhaps "timeout" is meant',
            "zzz = 1": "f0:5: [foo] zzz: unknown option; it counts for nothing; remove it",
            "approved_by_default = no": "f0:5: [foo] approved_by_default: without an approval_delay the client",
            "timeout = PT0S": "f0:5: [foo] timeout: the client is disabled as soon as it is enabled; set it to PT5M",
            "timeout = PT2M": "f0:5: [foo] timeout: the client is disabled before its next check; set it to more",
            "interval = PT5M": "f0:1: [foo] timeout: the client is disabled before its next check",
        }.items():
            self.check(expected, f"[foo]\n{GOOD}{options}\n")

    def test_a_client_without_a_host_whose_checker_needs_it(self) -> None:
        text = f"[foo]\nkey_id = {KEYS[0]}\nsecret = eA==\n"
        self.check("f0:1: [foo] host: not set, but the checker needs it; set it to the address", text)
        self.assertEqual([], self.warnings(f"{text}checker = true\n"))

    def test_a_client_that_only_has_a_fingerprint(self) -> None:
        text = GOOD.replace("key_id", "fingerprint")
        self.check("f0:2: [foo] fingerprint: no client is known by its fingerprint since GnuTLS 3.6", f"[foo]\n{text}")

    def test_a_denial_with_a_delay_is_fine(self) -> None:
        self.assertEqual([], self.warnings(f"[foo]\n{GOOD}approved_by_default = no\napproval_delay = PT1S\n"))

    def test_unknown_options_that_others_refer_to_are_fine(self) -> None:
        for text in (
            f"[foo]\n{GOOD}checker = %(MY_PING)s\nmy_ping = ping\n",
            f"[DEFAULT]\nchecker = %(my_ping)s\n[foo]\n{GOOD}my_ping = ping\n",
            f"[DEFAULT]\nmy_ping = ping\n[foo]\n{GOOD}checker = %(my_ping)s\n",
            f"[DEFAULT]\nmy_ping = ping\nchecker = %(my_ping)s\n[foo]\n{GOOD}",
            "[DEFAULT]\nmy_ping = ping\nchecker = %(my_ping)s\n",
        ):
            self.assertEqual([], self.warnings(text))

    def test_unknown_defaults_that_nobody_refers_to(self) -> None:
        self.check(
            'f0:2: [DEFAULT] intervall: unknown option; perhaps "interval"', f"[DEFAULT]\nintervall = 1\n[foo]\n{GOOD}"
        )

    def test_what_all_clients_have_by_default_is_said_once(self) -> None:
        sections = "".join(f"[c{n}]\nkey_id = {KEYS[n]}\nsecret = eA==\nhost = h\n" for n in range(3))
        self.check("f0:2: [DEFAULT] approved_by_default: without", f"[DEFAULT]\napproved_by_default = no\n{sections}")


class RobustnessTests(ClientsConfCase):
    @settings(max_examples=60, deadline=None)
    @given(fleets.map(clients_conf), st.data())
    def test_a_damaged_file_is_read_or_complained_of(self, text: str, data: st.DataObject) -> None:
        content = bytearray(text.encode())
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(content)))
            end = data.draw(st.integers(at, min(len(content), at + 20)))
            content[at:end] = data.draw(
                st.binary(max_size=4)
                | st.sampled_from([b"%", b"%(host)s", b"\n", b"\n ", b"=", b"[", b"]", b"\n[DEFAULT]\n"])
            )
        clients = parse_clients_conf([Document.decode("f", bytes(content))], Secfiles({}))
        lines = content.count(b"\n") + content.count(b"\r") + 1
        for complaint in (*clients.complaints, *clients.warnings):
            self.assertTrue(str(complaint).isprintable())
            self.assertLessEqual(complaint.line or 0, lines)
