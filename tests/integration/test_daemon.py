"""The server among what runs it: the terminal, the service manager, syslog, twistd."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

from tests.integration.harness import Program, ServerTestCase, apart, fetch, need_root, our_environment
from tests.integration.harness.server import LISTENING


class ServiceManager(ServerTestCase):
    """sd_notify(3)."""

    def setUp(self) -> None:
        self.path = self.directory() / "notify"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.socket.close)
        self.socket.settimeout(10.0)
        self.socket.bind(str(self.path))
        self.path.chmod(0o666)

    def told(self, *ignored: str) -> str:
        while (message := self.socket.recv(4096).decode("ascii")) in ignored:
            pass
        return message

    def drain(self) -> None:
        """Take what was said until nothing comes any more: TimeoutError."""
        for _ in range(100):
            self.socket.recv(4096)

    def test_it_is_told_of_start_reload_and_stop(self) -> None:
        laptop = self.keys("laptop")
        server = self.server(laptop.section(checker=":"), environment={"NOTIFY_SOCKET": str(self.path)}, wait=False)
        self.assertEqual(self.told(), "READY=1")
        self.assertEqual(fetch(server.address, laptop), laptop.secret)
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        server.signal(signal.SIGHUP)
        reloading, moment = self.told().splitlines()
        self.assertEqual(reloading, "RELOADING=1")
        self.assertGreaterEqual(int(moment.removeprefix("MONOTONIC_USEC=")), before)
        self.assertEqual(self.told(), "READY=1")
        server.signal(signal.SIGTERM)
        self.assertEqual(self.told(), "STOPPING=1")
        self.assertEqual(server.wait(), 0)

    def test_watchdog_hears_of_it_twice_in_its_time(self) -> None:
        environment = {"NOTIFY_SOCKET": str(self.path), "WATCHDOG_USEC": "400000"}
        server = self.server(environment=environment)
        moments: list[float] = []
        while len(moments) < 5:
            if self.told("READY=1") == "WATCHDOG=1":
                moments.append(time.monotonic())
        self.assertLess(moments[-1] - moments[0], 4 * 0.4)
        os.kill(server.pid, signal.SIGSTOP)
        self.socket.settimeout(0.3)
        self.assertRaises(TimeoutError, self.drain)
        os.kill(server.pid, signal.SIGCONT)

    def test_checkers_cannot_speak_for_it(self) -> None:
        environment = {"NOTIFY_SOCKET": str(self.path), "WATCHDOG_USEC": "30000000"}
        section = self.keys("laptop").section(checker='test -z "$NOTIFY_SOCKET$WATCHDOG_USEC"', interval="PT1S")
        self.server(section, environment=environment).wait_for("checker succeeded")


class Log(ServerTestCase):
    def setUp(self) -> None:
        self.laptop = self.keys("laptop")
        self.section = self.laptop.section(checker=":")

    def test_json_lines(self) -> None:
        server = self.server(self.section, arguments=["--log-json"], wait=False)
        port = int(server.wait_for(r"Listening on \[::1\]:(\d+)", 20)[1])
        self.assertEqual(fetch(("::1", port), self.laptop), self.laptop.secret)
        server.wait_for("got its secret")
        self.assertEqual(server.stop(), 0)
        events = [json.loads(line) for line in server.lines]
        (delivery,) = [event for event in events if "got its secret" in event["message"]]
        self.assertEqual((delivery["client"], delivery["address"], delivery["level"]), ("laptop", "::1", "INFO"))
        for event in events:
            self.assertLessEqual({"time", "level", "logger", "message"}, set(event))

    def syslog_at(self, place: Path) -> str:
        """Shell commands that give a process a /dev of its own, with a link from /dev/log to ``place``."""
        return (
            "mount -t tmpfs -o mode=755 dev /dev\n"
            "for node in null:3 zero:5 full:7 random:8 urandom:9; do\n"
            '  mknod -m 666 "/dev/${node%:*}" c 1 "${node#*:}"\n'
            "done\n"
            f"ln -s {place} /dev/log"
        )

    def quiet(self, place: Path) -> Program:
        port = self.free_port()
        self.address = ("::1", port)
        return self.mandos(
            *(f"--configdir={self.configdir(self.section)}", f"--statedir={self.statedir()}", f"--port={port}"),
            *("--foreground", "--no-zeroconf", "--no-dbus"),
            wrapper=apart("-m", first=self.syslog_at(place)),
        )

    def fetched(self) -> bytes:
        """The secret, once there is somebody who gives it."""
        deadline = time.monotonic() + 20
        while True:
            try:
                return fetch(self.address, self.laptop)
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def test_syslog_gets_it_and_nobody_else(self) -> None:
        place = self.directory() / "log"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
            syslog.bind(str(place))
            syslog.settimeout(10.0)
            place.chmod(0o666)
            server = self.quiet(place)
            self.assertEqual(self.fetched(), self.laptop.secret)
            # facility daemon, severity informational
            self.assertRegex(
                syslog.recv(8192).decode("ascii"),
                rf"^<30>Mandos \[{server.pid}\]: INFO: Client laptop at ::1 got its secret$",
            )
            fetch(self.address, self.keys("stranger"))
            self.assertRegex(syslog.recv(8192).decode("ascii"), r"^<28>Mandos \[\d+\]: WARNING: Refused ::1: ")
            self.assertEqual(server.stop(), 0)
        self.assertEqual(server.lines, [])

    def test_without_syslog_the_terminal_gets_it(self) -> None:
        server = self.quiet(self.directory() / "log")
        self.assertEqual(self.fetched(), self.laptop.secret)
        server.wait_for("Client laptop at ::1 got its secret")
        self.assertEqual(server.stop(), 0)


class Daemon(ServerTestCase):
    def setUp(self) -> None:
        need_root()
        self.laptop = self.keys("laptop")
        self.private_run = self.directory() / "run"
        self.private_run.mkdir()
        self.pid_file = self.private_run / "mandos.pid"
        self.port = self.free_port()
        self.configuration = self.configdir(self.laptop.section(checker=":"))

    def start(self, *arguments: str, statedir: Path | None = None) -> Program:
        """The command as it is given to a shell; it has a /run of this test's own."""
        return self.mandos(
            *(f"--configdir={self.configuration}", f"--statedir={statedir or self.statedir()}", "--no-zeroconf"),
            *("--no-dbus", f"--port={self.port}", *arguments),
            wrapper=apart("-m", first=f"mount --bind {self.private_run} /run"),
        )

    def daemon(self) -> int:
        """The process ID of a daemon that has said that it is up."""
        command = self.start()
        self.assertEqual(command.wait(20), 0, command.log)
        self.assertEqual((command.log, command.output), ("", b""))
        pid = int(self.pid_file.read_text("ascii"))
        self.addCleanup(self.end, pid)
        return pid

    def end(self, pid: int) -> None:
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + 10
        while Path(f"/proc/{pid}/cwd").is_symlink() and time.monotonic() < deadline:
            time.sleep(0.02)

    def test_command_ends_when_the_daemon_is_up(self) -> None:
        pid = self.daemon()
        self.assertEqual(fetch(("::1", self.port), self.laptop), self.laptop.secret)
        self.assertEqual(os.getsid(pid), pid)
        self.assertEqual(os.readlink(f"/proc/{pid}/cwd"), "/")

    def test_it_and_its_helpers_let_go_of_the_terminal(self) -> None:
        pid = self.daemon()
        family = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split())]
        self.assertGreater(len(family), 1)  # one stays root, for reloads
        for member in family:
            for number in (0, 1, 2):
                target = os.readlink(f"/proc/{member}/fd/{number}")
                self.assertFalse(target.startswith(("pipe:", "/dev/pts", "/dev/tty")), (member, number, target))

    def test_pid_file_speaks_of_a_living_server_only(self) -> None:
        pid = self.daemon()
        self.assertEqual(self.pid_file.stat().st_mode & 0o777, 0o600)
        second = self.start()
        self.assertEqual(second.wait(20), 1)
        self.assertIn(f"a server is running already, process ID {pid}", second.log)
        self.end(pid)
        self.assertEqual(self.pid_file.read_text("ascii"), "")
        self.assertNotEqual(self.daemon(), pid)

    def test_start_that_fails_says_so_on_the_terminal(self) -> None:
        with socket.create_server(("::", self.port), family=socket.AF_INET6):
            taken = self.start()
            self.assertEqual(taken.wait(20), 1)
        self.assertIn("Address already in use", taken.log)
        statedir = self.statedir()
        (statedir / "mandos.sqlite").write_bytes(b"")
        empty = self.start(statedir=statedir)
        self.assertEqual(empty.wait(20), 78)
        self.assertIn("mandos.sqlite", empty.log)


class Twistd(ServerTestCase):
    """``twistd mandos``, which is the same service."""

    def twistd(self, *arguments: str, options: tuple[str, ...] = ()) -> Program:
        place = self.directory()
        run = "from twisted.scripts.twistd import run; run()"
        command = [sys.executable, "-c", run, f"--pidfile={place}/twistd.pid", f"--logfile={place}/log", *options]
        return self.started(Program("twistd", [*command, "mandos", *arguments], our_environment()))

    def test_it_serves_and_stops(self) -> None:
        laptop = self.keys("laptop")
        directories = [f"--configdir={self.configdir(laptop.section())}", f"--statedir={self.statedir()}"]
        server = self.twistd(*directories, "--debug", "--no-zeroconf", "--port=0", options=("--nodaemon",))
        port = int(server.wait_for(LISTENING, 20)[1])
        self.assertEqual(fetch(("::1", port), laptop), laptop.secret)
        server.wait_for("Client laptop at ::1 got its secret")
        # twistd passes on how it was ended, when everything has been
        self.assertEqual(server.stop(), -signal.SIGTERM)
        self.assertEqual(server.matches("Traceback"), [])

    def test_wrong_configuration_is_a_sentence_there_too(self) -> None:
        configdir = self.configdir("[laptop]\ntimeout = soon\n")
        server = self.twistd(f"--configdir={configdir}", "--port=0", options=("--nodaemon",))
        self.assertEqual(server.wait(), 78)
        self.assertIn(f"{configdir}/clients.conf:2: [laptop] timeout: ", server.log)
        self.assertNotIn("Traceback", server.log)
