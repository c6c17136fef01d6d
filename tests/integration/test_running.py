"""The server as a process: where it listens, what it may do, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.integration.harness import (
    Peer,
    Program,
    ServerProcess,
    ServerTestCase,
    apart,
    fetch,
    need_root,
    status_field,
)
from tests.integration.harness.server import LISTENING, server_user

STOP_SECONDS = 5.0
"""What a stop may take, whatever is going on."""
SLEEP = f"sleep 3{os.getpid()}.25"
"""So many seconds that nobody else sleeps as long."""
STUBBORN = f"trap '' TERM; {SLEEP} & {SLEEP}"
"""A checker that neither answers nor ends when it is told to."""


class ExitStatus(ServerTestCase):
    """Each with its sentence, and never a traceback."""

    def options(self) -> list[str]:
        return [f"--configdir={self.configdir()}", f"--statedir={self.statedir()}", "--foreground", "--no-zeroconf"]

    def assert_ends(self, server: Program, status: int, sentence: str) -> None:
        self.assertEqual(server.wait(), status, server.log)
        self.assertIn(sentence, server.log)
        self.assertNotIn("Traceback", server.log)

    def test_stopped_as_asked_is_0(self) -> None:
        servers = [self.server(wait=False) for _ in range(2)]
        for server, number in zip(servers, (signal.SIGTERM, signal.SIGINT), strict=True):
            server.wait_until_listening()
            server.signal(number)
            self.assertEqual(server.wait(), 0, server.log)

    def test_stopped_while_it_starts_is_0_too(self) -> None:
        for line in ("No clients defined", "Listening on"):
            server = self.server(wait=False)
            server.wait_for(line, 20)
            self.assertEqual(server.stop(), 0, server.log)

    def test_taken_port_is_1(self) -> None:
        with socket.socket(socket.AF_INET6) as other:
            other.bind(("::1", 0))
            other.listen()
            port = other.getsockname()[1]
            server = self.mandos(*self.options(), "--address=::1", f"--port={port}")
            self.assert_ends(server, 1, "Address already in use")

    def test_usage_is_2(self) -> None:
        lines = {"--no-such-option": "no-such-option", "--port=x": "x", "surplus": "Wrong number of arguments"}
        servers = {sentence: self.mandos(*self.options(), "--port=0", wrong) for wrong, sentence in lines.items()}
        servers["Needs port or socket"] = self.mandos(*self.options())
        for sentence, server in servers.items():
            self.assert_ends(server, 2, sentence)

    def test_forbidden_port_is_77(self) -> None:
        need_root()
        user = server_user()
        assert user is not None
        options = self.options()
        configdir = Path(options[0].removeprefix("--configdir="))
        os.chown(configdir / "clients.conf", user.pw_uid, user.pw_gid)
        wrapper = [*apart("-n", first="ip link set lo up"), "setpriv", f"--reuid={user.pw_uid}", "--clear-groups"]
        self.assert_ends(self.mandos(*options, "--port=1", wrapper=wrapper), 77, "Permission denied")

    def test_configuration_is_78_with_every_fault_and_its_place(self) -> None:
        configdir = self.configdir("[laptop]\ntimeout = soon\nkey_id = zz\n")
        server = self.mandos(f"--configdir={configdir}", f"--statedir={self.statedir()}", "--port=0")
        self.assert_ends(server, 78, f"{configdir}/clients.conf:2: [laptop] timeout: ")
        self.assertIn(f"{configdir}/clients.conf:3: [laptop] key_id: ", server.log)

    def test_priority_string_is_78_with_the_position(self) -> None:
        configdir = self.configdir(mandos_conf="[DEFAULT]\npriority = SECURE128:+NONSENSE\n")
        options = [f"--statedir={self.statedir()}", "--port=0"]
        server = self.mandos(f"--configdir={configdir}", *options)
        self.assert_ends(server, 78, f"{configdir}/mandos.conf")
        self.assertIn("NONSENSE", server.log)

    def test_damaged_state_is_78_and_left_alone(self) -> None:
        statedir = self.statedir()
        damaged = statedir / "mandos.sqlite"
        damaged.write_bytes(b"SQLite format 3\0" + b"damaged" * 1000)
        user = server_user()
        if user is not None:
            os.chown(damaged, user.pw_uid, user.pw_gid)
        before = damaged.read_bytes()
        self.assert_ends(self.server(statedir=statedir, wait=False), 78, str(damaged))
        self.assertEqual(damaged.read_bytes(), before)

    def test_state_of_another_server_is_78(self) -> None:
        statedir = self.statedir()
        first = self.server(statedir=statedir)
        self.assert_ends(self.server(statedir=statedir, wait=False), 78, "another server uses this state directory")
        self.assertEqual(first.stop(), 0)


class SelfExamination(ServerTestCase):
    def test_check_runs_the_self_tests(self) -> None:
        check = self.mandos("--check")
        self.assertEqual(check.wait(), 0, check.log)

    def test_check_config_lists_what_is_there_and_starts_nothing(self) -> None:
        keys = self.keys("laptop")
        check = self.mandos("--check-config", f"--configdir={self.configdir(keys.section())}", "--no-zeroconf", "-p0")
        self.assertEqual(check.wait(), 0, check.log)
        self.assertIn(b"laptop", check.output)

    def test_check_config_says_what_is_wrong(self) -> None:
        configdir = self.configdir("[laptop]\ntimeout = soon\n")
        check = self.mandos("--check-config", f"--configdir={configdir}", "--no-zeroconf", "-p0")
        self.assertEqual(check.wait(), 78, check.log)
        self.assertIn(f"{configdir}/clients.conf:2: [laptop] timeout: ".encode(), check.output)


class Privileges(ServerTestCase):
    def setUp(self) -> None:
        need_root()
        user = server_user()
        assert user is not None
        self.user = user
        self.laptop = self.keys("laptop")

    def test_root_is_shed_for_good_with_all_its_groups(self) -> None:
        mark = self.directory() / "id"
        mark.touch(0o666)
        mark.chmod(0o666)
        wrapper = ["setpriv", "--groups=0,4,27"]
        server = self.server(self.laptop.section(checker=f"id > {mark}", interval="PT1S"), wrapper=wrapper)
        self.assertEqual(set(status_field(server.pid, "Uid")), {str(self.user.pw_uid)})
        self.assertEqual(set(status_field(server.pid, "Gid")), {str(self.user.pw_gid)})
        self.assertEqual(status_field(server.pid, "Groups"), [])
        for name in ("CapEff", "CapPrm", "CapAmb"):
            self.assertEqual(int(status_field(server.pid, name)[0], 16), 0, name)
        server.wait_for("checker succeeded")
        name, number = self.user.pw_name, self.user.pw_uid
        self.assertIn(f"uid={number}({name})", mark.read_text("ascii"))
        self.assertNotIn("root", mark.read_text("ascii"))

    def test_nobody_may_look_into_its_memory_and_it_leaves_no_core(self) -> None:
        server = self.server(self.laptop.section(checker=":"))
        # what a process that is not dumpable has in /proc belongs to root (proc(5))
        self.assertEqual(Path(f"/proc/{server.pid}/environ").stat().st_uid, 0)
        read = ["setpriv", f"--reuid={self.user.pw_uid}", f"--regid={self.user.pw_gid}", "--clear-groups", "cat"]
        spy = subprocess.run([*read, f"/proc/{server.pid}/maps"], capture_output=True)
        self.assertIn(b"Permission denied", spy.stderr)
        limits = Path(f"/proc/{server.pid}/limits").read_text("ascii")
        self.assertRegex(limits, r"Max core file size +0 +0 ")
        fetched = fetch(server.address, self.laptop)
        self.assertEqual(fetched, self.laptop.secret)

    def test_files_of_the_state_are_its_own_and_private(self) -> None:
        server = self.server(self.laptop.section(checker=":"))
        self.assertEqual(server.stop(), 0)
        for path in server.statedir.iterdir():
            status = path.stat()
            self.assertEqual((status.st_uid, status.st_mode & 0o077), (self.user.pw_uid, 0), path)


class Listening(ServerTestCase):
    def setUp(self) -> None:
        self.laptop = self.keys("laptop")
        self.section = self.laptop.section(checker=":")

    def bare(self, *arguments: str, **options: object) -> Program:
        """A server that is told nothing of where to listen but by ``arguments``."""
        directories = [f"--configdir={self.configdir(self.section)}", f"--statedir={self.statedir()}"]
        return self.mandos(*directories, "--debug", "--no-zeroconf", "--no-dbus", *arguments, **options)  # type: ignore[arg-type]

    def assert_serves(self, server: Program, host: str = "::1") -> None:
        port = int(server.wait_for(LISTENING, 20)[1])
        self.assertEqual(fetch((host, port), self.laptop), self.laptop.secret)

    def test_everywhere_is_the_default(self) -> None:
        server = self.bare("--port=0")
        for host in ("::1", "127.0.0.1"):
            self.assert_serves(server, host)

    def test_ipv4_address_in_ipv6_form(self) -> None:
        server = self.bare("--port=0", "--address=::FFFF:127.0.0.1")
        self.assert_serves(server, "127.0.0.1")
        port = int(server.wait_for(LISTENING)[1])
        self.assertRaises(ConnectionRefusedError, Peer, ("::1", port))
        server.wait_for(r"Client laptop at 127\.0\.0\.1 got its secret")

    def test_without_ipv6(self) -> None:
        server = self.bare("--port=0", "--no-ipv6")
        self.assert_serves(server, "127.0.0.1")
        port = int(server.wait_for(LISTENING)[1])
        self.assertRaises(ConnectionRefusedError, Peer, ("::1", port))

    def test_one_interface(self) -> None:
        need_root()
        server = self.bare("--port=0", "--interface=lo")
        self.assert_serves(server)
        self.assertEqual(server.matches("Cannot bind"), [])

    def test_interface_that_is_not_there_is_an_error_in_the_log_only(self) -> None:
        server = self.bare("--port=0", "--interface=nowhere0")
        self.assert_serves(server)
        server.wait_for("ERROR: Cannot bind to interface nowhere0")

    def test_open_socket(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            number = listener.fileno()
            self.assert_serves(self.bare(f"--socket={number}", pass_fds=(number,)), "127.0.0.1")

    def test_descriptor_that_is_no_socket_is_an_error_of_configuration(self) -> None:
        server = self.bare("--socket=0")
        self.assertEqual(server.wait(), 78, server.log)
        self.assertIn("File descriptor 0 cannot be listened on", server.log)
        self.assertNotIn("Traceback", server.log)

    def test_socket_of_the_service_manager(self) -> None:
        """systemd hands over descriptor 3 and names the process that it is for (sd_listen_fds(3))."""
        program = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); "
            "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid())); os.execv(sys.argv[2], sys.argv[2:])"
        )
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
            number = listener.fileno()
            wrapper = [sys.executable, "-c", program, str(number)]
            # not the port that is asked for, which somebody else has
            server = self.bare(f"--port={listener.getsockname()[1]}", pass_fds=(number,), wrapper=wrapper)
            self.assert_serves(server)


def sleepers() -> list[int]:
    """The processes of stubborn checkers."""
    found = subprocess.run(["pgrep", "-f", SLEEP], stdout=subprocess.PIPE, text=True)
    return [int(pid) for pid in found.stdout.split()]


class Stop(ServerTestCase):
    def setUp(self) -> None:
        self.laptop = self.keys("laptop")

    def assert_stops(self, server: ServerProcess) -> None:
        started = time.monotonic()
        self.assertEqual(server.stop(), 0, server.log)
        self.assertLess(time.monotonic() - started, STOP_SECONDS)
        self.assertEqual(server.matches("Traceback"), [])

    def test_whoever_waits_for_approval_is_let_go(self) -> None:
        server = self.server(self.laptop.section(checker=":", approval_delay="PT10M"))
        with Peer(server.address, self.laptop) as peer:
            peer.prove()
            server.wait_for("needs approval")
            self.assert_stops(server)
            self.assertRaises(ConnectionError, peer.read)

    def test_idle_connections_do_not_hold_it_up(self) -> None:
        server = self.server(self.laptop.section(checker=":"))
        with Peer(server.address) as silent, Peer(server.address) as greeted:
            greeted.say(b"1\r\n")
            self.assertEqual(fetch(server.address, self.laptop), self.laptop.secret)
            self.assert_stops(server)
            self.assertEqual(silent.read_without_tls(), b"")

    def test_slow_reader_does_not_hold_it_up(self) -> None:
        server = self.server(self.laptop.section_with_file(self.secret_file(10_000_000), checker=":"))
        with Peer(server.address, self.laptop, receive_buffer=4096) as peer:
            peer.prove()
            peer.read_some()
            self.assert_stops(server)
            self.assertRaises(ConnectionError, peer.read)

    def test_delivery_under_way_is_completed(self) -> None:
        huge = self.secret_file(8_000_000)
        server = self.server(self.laptop.section_with_file(huge, checker=":"))
        with Peer(server.address, self.laptop) as peer:
            received = peer.prove().read_some()
            server.signal(signal.SIGTERM)
            received += peer.read()
        self.assertEqual(server.wait(), 0)
        self.assertEqual(received, huge.read_bytes())

    def test_hung_checkers_end_with_it(self) -> None:
        server = self.server(self.laptop.section(checker=STUBBORN, interval="PT1S", timeout="PT1H"))
        server.wait_for("checker started")
        self.assertTrue(sleepers())
        self.assert_stops(server)
        self.assertEqual(sleepers(), [])

    def test_second_signal_ends_it_at_once(self) -> None:
        server = self.server(self.laptop.section(checker=STUBBORN, interval="PT1S", timeout="PT1H"))
        server.wait_for("checker started")
        until = time.monotonic() + 5
        while not sleepers() and time.monotonic() < until:  # before that, the shell minds the signal
            time.sleep(0.02)
        server.signal(signal.SIGTERM)
        time.sleep(0.3)
        self.assertTrue(server.is_running())
        started = time.monotonic()
        self.assertEqual(server.stop(), -signal.SIGTERM)
        self.assertLess(time.monotonic() - started, 0.5)
        for pid in sleepers():  # that was the price
            os.kill(pid, signal.SIGKILL)

    def test_the_port_is_free_at_once_for_the_next(self) -> None:
        configdir, statedir = self.configdir(self.laptop.section(checker=STUBBORN, interval="PT1S")), self.statedir()
        first = self.server(configdir=configdir, statedir=statedir)
        first.wait_for("checker started")
        self.assertEqual(fetch(first.address, self.laptop), self.laptop.secret)
        port = first.port
        self.assertEqual(first.stop(), 0)
        second = self.server(configdir=configdir, statedir=statedir, arguments=[f"--port={port}"])
        self.assertEqual(second.port, port)
