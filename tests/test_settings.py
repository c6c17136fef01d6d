"""The command line of mandos(8) and ours, over mandos.conf, over the defaults."""

from __future__ import annotations

import io
import os
import sys
from datetime import timedelta

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx import __version__
from mandos_tx.configuration_files import Access, ConfigFile, RecordedFiles
from mandos_tx.formats.complaint import ConfigurationError
from mandos_tx.settings import Options, ServerSettings, read_everything, read_settings
from mandos_tx.wire.gnutls import DEFAULT_PRIORITY


class SettingsCase(SynchronousTestCase):
    def files(self, mandos_conf: str = "", clients_conf: str = "", directory: str = "/etc/mandos") -> RecordedFiles:
        access = Access("/x", 0o100600, 0)
        return RecordedFiles(
            frozenset({0}),
            {
                f"{directory}/mandos.conf": ConfigFile(mandos_conf.encode(), access, (evolve(access, mode=0o40700),)),
                f"{directory}/clients.conf": ConfigFile(clients_conf.encode(), access, (evolve(access, mode=0o40700),)),
            },
        )

    def options(self, *words: str) -> Options:
        options = Options()
        options.parseOptions(words)
        return options

    def settings(self, *words: str, conf: str = "") -> ServerSettings:
        settings, warnings = read_settings(self.options(*words), self.files(f"[DEFAULT]\n{conf}"))
        self.assertEqual((), warnings)
        return settings

    def exits(self, *words: str, conf: str = "") -> tuple[int, str, str]:
        """Exit status, standard output and standard error."""
        out, err = io.StringIO(), io.StringIO()
        self.patch(sys, "stdout", out)
        self.patch(sys, "stderr", err)
        with self.assertRaises(SystemExit) as caught:
            self.settings(*words, conf=conf)
        status = caught.exception.code
        assert isinstance(status, int)
        return status, out.getvalue(), err.getvalue()


class CommandLineTests(SettingsCase):
    def test_without_any_option_there_are_the_defaults_of_the_manual(self) -> None:
        settings = self.settings()
        self.assertEqual(ServerSettings(), settings)
        self.assertEqual(DEFAULT_PRIORITY, settings.priority)
        self.assertEqual(("/etc/mandos", "/var/lib/mandos"), (settings.configdir, settings.statedir))
        self.assertEqual(("Mandos", "WARNING", None), (settings.servicename, settings.debuglevel, settings.port))

    def test_every_option_of_the_original(self) -> None:
        self.assertEqual(
            ServerSettings(
                interface="eth0",
                address="::1",
                port=1025,
                check=True,
                debuglevel="INFO",
                priority="NORMAL",
                servicename="Other",
                configdir="/etc/mandos",
                use_dbus=False,
                restore=False,
                statedir="/state",
                socket=3,
                foreground=True,
                zeroconf=False,
            ),
            self.settings(
                *("--interface=eth0", "--address", "::1", "--port", "1025", "--check", "--debuglevel", "INFO"),
                *("--priority", "NORMAL", "--servicename", "Other", "--configdir", "/etc/mandos", "--no-dbus"),
                *("--no-restore", "--statedir", "/state", "--socket", "3", "--foreground", "--no-zeroconf"),
            ),
        )
        self.assertEqual(
            ServerSettings(use_ipv6=False, address="127.0.0.1"), self.settings("--no-ipv6", "-a", "127.0.0.1")
        )
        self.assertEqual(ServerSettings(interface="lo", port=5), self.settings("-ilo", "-p", "5"))

    def test_every_option_of_ours(self) -> None:
        self.assertEqual(
            ServerSettings(
                check_config=True,
                log_json=True,
                strict_modes=False,
                state_required=True,
                audit_log="/audit",
                audit_required=True,
                max_checkers=1,
                handshake_timeout=timedelta(seconds=5),
                max_unauthenticated=2,
                max_unauthenticated_per_source=3,
            ),
            self.settings(
                *("--check-config", "--log-json", "--no-strict-modes", "--state-required", "--audit-log", "/audit"),
                *("--audit-required", "--max-checkers", "1", "--handshake-timeout", "PT5S"),
                *("--max-unauthenticated", "2", "--max-unauthenticated-per-source", "3"),
            ),
        )

    def test_debug_stays_in_the_foreground_and_logs_everything(self) -> None:
        expected = ServerSettings(debug=True, foreground=True, debuglevel="DEBUG")
        self.assertEqual(expected, self.settings("--debug"))
        self.assertEqual(expected, self.settings("--debug", "--debuglevel", "CRITICAL"))
        self.assertEqual(expected, self.settings(conf="debug = yes\nforeground = no\n"))

    def test_long_options_may_be_cut_short_as_in_the_original(self) -> None:
        for words, expected in {
            ("--ch",): ServerSettings(check=True),
            ("--check-",): ServerSettings(check_config=True),
            ("--a", "::1"): ServerSettings(address="::1"),
            ("--st=/state",): ServerSettings(statedir="/state"),
            ("--state", "/state"): ServerSettings(statedir="/state"),
            ("--state-",): ServerSettings(state_required=True),
            ("--fore",): ServerSettings(foreground=True),
            ("--debug",): ServerSettings(debug=True, debuglevel="DEBUG", foreground=True),
        }.items():
            self.assertEqual(expected, self.settings(*words), words)

    def test_what_is_ambiguous_in_the_original_is_a_usage_error(self) -> None:
        for word in ("--deb", "--s", "--no", "--p=5", "--c"):
            status, _, err = self.exits(word)
            self.assertEqual((2, True), (status, "not a unique prefix" in err))

    def test_values_are_not_taken_for_options(self) -> None:
        self.assertEqual(ServerSettings(servicename="--st"), self.settings("--servicename", "--st"))
        self.assertEqual(ServerSettings(interface="--st"), self.settings("-i", "--st"))
        self.assertEqual(ServerSettings(servicename="--st"), self.settings("--servi=--st"))

    def test_usage_errors_end_with_two_and_say_what_is_wrong(self) -> None:
        for words, problem in {
            ("--port", "x"): '--port: "x" is not a number; write a number from 0 to 65535',
            ("--port", "65536"): "--port: 65536 is out of range",
            ("--port",): "option --port requires argument",
            ("--nonsense",): "option --nonsense not recognized",
            ("--debug=1",): "option --debug must not have an argument",
            ("extra",): "Wrong number of arguments.",
            ("--", "--debug"): "Wrong number of arguments.",
            ("--debuglevel", "LOUD"): '--debuglevel: "LOUD" is no level',
            ("--address", "localhost"): "--address: ",
            ("--address", "127.0.0.1"): "--address: 127.0.0.1 is an IPv4 address; write ::FFFF:127.0.0.1",
            ("--address", "::1", "--no-ipv6"): "--address: ::1 is an IPv6 address, and IPv6 is off",
            ("--handshake-timeout", "PT1H"): "--handshake-timeout: ",
            ("--no-zeroconf",): "Needs port or socket to work without Zeroconf",
        }.items():
            status, out, err = self.exits(*words)
            self.assertEqual((2, ""), (status, out), words)
            self.assertIn(f"mandos: error: {problem}", err)
            self.assertEqual(2, err.count("\n"))

    def test_without_zeroconf_a_port_or_a_socket_is_enough(self) -> None:
        for words in (("--port", "0"), ("--socket", "0"), ("--port", "5")):
            self.assertFalse(self.settings("--no-zeroconf", *words).zeroconf)
        self.assertFalse(self.settings("--no-zeroconf", conf="port = 5\n").zeroconf)
        self.assertEqual(2, self.exits(conf="zeroconf = no\n")[0])

    def test_help_and_version_are_printed(self) -> None:
        for word in ("-v", "--version", "--vers"):
            self.assertEqual((0, f"mandos {__version__}\n", ""), self.exits(word))
        for word in ("-h", "--help", "--h"):
            status, out, err = self.exits(word)
            self.assertEqual((0, ""), (status, err))
            for option in ("--configdir=", "--no-zeroconf", "--check-config", "--max-unauthenticated-per-source="):
                self.assertIn(option, out)

    def test_the_process_s_own_command_line_is_taken_without_another(self) -> None:
        self.patch(sys, "argv", ["mandos", "--port", "7"])
        options = Options()
        options.parseOptions()
        self.assertEqual(7, options.given["port"])

    def test_relative_paths_are_made_absolute_before_the_server_changes_directory(self) -> None:
        here = os.getcwd()
        options = self.options("--configdir", "conf", "--statedir", "state", "--audit-log", "audit")
        settings, _ = read_settings(options, self.files(directory=f"{here}/conf"))
        self.assertEqual(
            [f"{here}/conf", f"{here}/state", f"{here}/audit"],
            [settings.configdir, settings.statedir, settings.audit_log],
        )


class MandosConfTests(SettingsCase):
    def test_a_relative_path_where_the_working_directory_is_gone_is_a_usage_error(self) -> None:
        self.addCleanup(os.chdir, os.getcwd())
        path = os.path.abspath(self.mktemp())
        os.mkdir(path)
        os.chdir(path)
        os.rmdir(path)
        for words in (("--configdir", "here"), ("--statedir", "here"), ("--audit-log", "here")):
            status, _, err = self.exits(*words)
            self.assertEqual(2, status)
            self.assertIn("here is relative to the working directory: No such file or directory", err)
        self.settings("--configdir", "/etc/mandos", "--statedir", "/here")

    def test_the_command_line_goes_before_mandos_conf(self) -> None:
        conf = "port = 5\ninterface = eth0\nuse_dbus = yes\nservicename = Other\n"
        self.assertEqual(
            ServerSettings(port=6, interface="eth0", use_dbus=False, servicename="Other"),
            self.settings("--port", "6", "--no-dbus", conf=conf),
        )

    def test_a_missing_file_leaves_the_defaults(self) -> None:
        self.assertEqual((ServerSettings(), ()), read_settings(self.options(), RecordedFiles(frozenset())))

    def test_faults_are_raised_together(self) -> None:
        with self.assertRaises(ConfigurationError) as caught:
            self.settings("--no-zeroconf", conf="port = x\ndebug = y\naddress = 127.0.0.1\n")
        self.assertEqual(
            [
                '/etc/mandos/mandos.conf:2: [DEFAULT] port: "x" is not a number',
                '/etc/mandos/mandos.conf:3: [DEFAULT] debug: "y" is neither yes nor no',
                "/etc/mandos/mandos.conf:4: [DEFAULT] address: 127.0.0.1 is an IPv4 address",
            ],
            [str(complaint).partition(";")[0] for complaint in caught.exception.complaints],
        )

    def test_an_address_on_the_command_line_makes_up_for_one_in_the_file(self) -> None:
        self.assertEqual(ServerSettings(address="::1"), self.settings("-a", "::1", conf="address = 127.0.0.1\n"))
        self.assertEqual(
            ServerSettings(address="127.0.0.1", use_ipv6=False),
            self.settings("--no-ipv6", conf="address = 127.0.0.1\n"),
        )

    def test_a_file_that_cannot_be_read_is_complained_of(self) -> None:
        files = RecordedFiles(frozenset(), {"/etc/mandos/mandos.conf": PermissionError(13, "Permission denied")})
        with self.assertRaises(ConfigurationError) as caught:
            read_settings(self.options(), files)
        self.assertIn("/etc/mandos/mandos.conf: cannot be read: Permission denied", str(caught.exception))


class ReadEverythingTests(SettingsCase):
    CLIENT = f"[foo]\nkey_id = {'a' * 64}\nsecret = eA==\nhost = h\n"

    def test_gives_settings_and_clients_with_all_warnings(self) -> None:
        files = self.files("[DEFAULT]\nprot = 5\nport = 5\n", f"{self.CLIENT}timout = 1\n")
        settings, configuration = read_everything(self.options("--debug"), files)
        self.assertEqual((5, True), (settings.port, settings.debug))
        self.assertEqual(["foo"], [definition.name for definition in configuration.definitions])
        self.assertEqual(["prot", "timout"], [warning.option for warning in configuration.warnings])

    def test_raises_what_is_wrong_in_any_file_at_once(self) -> None:
        for mandos_conf, clients_conf, places in (
            ("[DEFAULT]\nport = x\n", "junk\n", ["mandos.conf:2:", "clients.conf:1:"]),
            ("[DEFAULT]\nport = x\n", self.CLIENT, ["mandos.conf:2:"]),
            ("", "junk\n", ["clients.conf:1:"]),
        ):
            with self.assertRaises(ConfigurationError) as caught:
                read_everything(self.options(), self.files(mandos_conf, clients_conf))
            found = [str(complaint).split(" ")[0] for complaint in caught.exception.complaints]
            self.assertEqual([f"/etc/mandos/{place}" for place in places], found)

    def test_strict_modes_can_be_turned_off_in_either_place(self) -> None:
        files = self.files("[DEFAULT]\nstrict_modes = no\n", self.CLIENT)
        writable = RecordedFiles(
            files.trusted,
            {
                path: evolve(found, access=evolve(found.access, mode=0o100666))
                for path, found in files.read_files.items()
                if isinstance(found, ConfigFile)
            },
        )
        self.assertFalse(read_everything(self.options(), writable)[0].strict_modes)
        strict = RecordedFiles(
            files.trusted, {"/etc/mandos/clients.conf": writable.read_files["/etc/mandos/clients.conf"]}
        )
        self.assertFalse(read_everything(self.options("--no-strict-modes"), strict)[0].strict_modes)
        self.assertRaises(ConfigurationError, read_everything, self.options(), strict)
