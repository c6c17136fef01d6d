"""The shipped files for systemd: correct, as tight as they say, and not too tight for the server."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SkipTest

from tests.integration.harness import ROOT, ServerTestCase

UNIT = ROOT / "conf" / "mandos.service"
EXPOSURE = 2.4
"""What systemd-analyze gives the unit. Most of what is left is for becoming _mandos, fping, and the network itself."""

UNDER_MDWE = """
import ctypes, os, sys
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0):
    sys.stderr.write("no PR_SET_MDWE\\n")
os.execvp(sys.argv[1], sys.argv[1:])
"""
"""As MemoryDenyWriteExecute= does it since systemd 254; kernels before 6.3 do not know it."""


def run(*command: str | Path) -> tuple[int, str]:
    """A program's exit status and all that it says; skips the test if it is not installed."""
    if shutil.which(command[0]) is None:
        raise SkipTest(f"{command[0]} is not installed")
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def needs_root(for_what: str) -> None:
    if os.geteuid() != 0:
        raise SkipTest(f"only root can {for_what}")


class UnitFile(ServerTestCase):
    def unit(self) -> Path:
        """The unit, with a program that is there instead of /opt/mandos/bin/mandos."""
        path = self.directory() / "mandos.service"
        path.write_text(UNIT.read_text("ascii").replace("/opt/mandos/bin/mandos", "/bin/true"), "ascii")
        return path

    def test_systemd_finds_nothing_to_complain_of(self) -> None:
        status, said = run("systemd-analyze", "verify", "--man=no", self.unit())
        self.assertEqual((status, said), (0, ""))

    def test_exposure_is_as_low_as_checkers_permit(self) -> None:
        threshold = f"--threshold={EXPOSURE * 10:.0f}"
        status, said = run("systemd-analyze", "security", "--offline=true", threshold, self.unit())
        self.assertEqual(status, 0, said)

    def test_user_and_directories_are_what_the_server_expects(self) -> None:
        needs_root("give a directory to another user")
        root = self.directory()
        (root / "etc").mkdir()
        for program, name in (("systemd-sysusers", "sysusers.d"), ("systemd-tmpfiles", "tmpfiles.d")):
            create = ["--create"] if program == "systemd-tmpfiles" else []
            status, said = run(program, *create, f"--root={root}", ROOT / "conf" / name / "mandos.conf")
            self.assertEqual(status, 0, said)
        user = next(line for line in (root / "etc/passwd").read_text().splitlines() if line.startswith("_mandos:"))
        for path, mode in (("var/lib/mandos", 0o700), ("var/log/mandos", 0o750)):
            made = (root / path).stat()
            self.assertEqual((made.st_mode & 0o777, made.st_uid), (mode, int(user.split(":")[2])))


def settings(name: str) -> list[str]:
    """Every value that the unit's [Service] section gives this setting, in order."""
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text("ascii"), re.MULTILINE)


def allowed_system_calls() -> set[str]:
    """What the unit's SystemCallFilter= comes to, with the groups as this systemd defines them."""
    status, said = run("systemd-analyze", "syscall-filter", "--no-pager")
    if status:
        raise SkipTest(f"systemd-analyze cannot tell the groups of system calls: {said.strip()}")
    groups: dict[str, list[str]] = {}
    for line in said.splitlines():
        if line.startswith("@"):
            members = groups[line.strip()] = []
        elif line.startswith(" ") and not line.strip().startswith("#"):
            members.append(line.strip())

    def members_of(name: str) -> set[str]:
        return set().union(*map(members_of, groups[name])) if name.startswith("@") else {name}

    allowed: set[str] = set()
    for line in settings("SystemCallFilter"):
        names = set().union(*map(members_of, line.removeprefix("~").split()))
        allowed = allowed - names if line.startswith("~") else allowed | names
    return allowed


def with_the_units_capabilities() -> list[str]:
    """A command that starts another with what CapabilityBoundingSet= leaves."""
    if shutil.which("setpriv") is None:
        raise SkipTest("setpriv is not installed")
    names = settings("CapabilityBoundingSet")[0].lower().split()
    kept = ",".join("+" + name.removeprefix("cap_") for name in names)
    return ["setpriv", f"--bounding-set=-all,{kept}", "--inh-caps=-all", "--"]


class Sandbox(ServerTestCase):
    """What of the sandbox can be tried without systemd."""

    def test_server_and_its_checkers_make_only_system_calls_that_the_unit_allows(self) -> None:
        needs_root("become another user")
        for program in ("strace", "fping"):
            if shutil.which(program) is None:
                raise SkipTest(f"{program} is not installed")
        allowed = allowed_system_calls()
        trace = self.directory() / "trace"
        keys = self.keys("laptop")
        configdir = self.configdir(keys.section(host="::1", checker="fping -q -- %%(host)s", interval="PT1S"))
        wrapper = ["strace", "-f", "-qq", "-e", "signal=none", "-o", str(trace)]
        server = self.server(configdir=configdir, wrapper=wrapper)
        self.assertEqual(self.mandos_client(server, keys).password(), keys.password)
        server.wait_for("laptop.* succeeded")
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text("ascii").split()
        os.kill(int(children[0]), signal.SIGHUP)
        server.wait_for("(?i)configuration")
        os.kill(int(children[0]), signal.SIGTERM)
        self.assertEqual(server.wait(20), 0)
        made = set(re.findall(r"^\d+ +(\w+)\(", trace.read_text("ascii", "replace"), re.MULTILINE))
        self.assertIn("execve", made)
        self.assertEqual(made - allowed, set())

    def test_server_delivers_and_fping_checks_with_the_units_capabilities(self) -> None:
        needs_root("become another user")
        if shutil.which("fping") is None:
            raise SkipTest("fping is not installed")
        keys = self.keys("laptop")
        server = self.server(
            keys.section(host="::1", checker="fping -q -- %%(host)s", interval="PT1S", timeout="PT1M"),
            wrapper=[
                *(sys.executable, "-c", UNDER_MDWE),
                *with_the_units_capabilities(),
            ],
        )
        self.assertEqual(self.mandos_client(server, keys).password(), keys.password)
        server.wait_for("laptop.* succeeded")

    def test_audit_log_is_made_and_kept_with_the_units_capabilities(self) -> None:
        needs_root("become another user")
        keys = self.keys("laptop")
        statedir = self.statedir()
        log = statedir / "audit.log"
        server = self.server(
            keys.section(checker=":"),
            statedir=statedir,
            arguments=["--audit-log", str(log), "--audit-required"],
            wrapper=with_the_units_capabilities(),
        )
        self.assertEqual(log.stat().st_uid, statedir.stat().st_uid)
        self.assertEqual(self.mandos_client(server, keys).password(), keys.password)
        self.assertIn('"released"', log.read_text("ascii"))

    def test_root_that_may_not_become_another_user_says_so(self) -> None:
        needs_root("lose capabilities")
        if shutil.which("setpriv") is None:
            raise SkipTest("setpriv is not installed")
        server = self.server(wrapper=["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"], wait=False)
        self.assertEqual(server.wait(20), 77)
        server.wait_for("mandos: Cannot become .*: Operation not permitted; ")
        self.assertEqual(server.matches("Traceback"), [])

    def test_audit_log_where_the_server_may_not_write_is_a_sentence_and_leaves_nothing(self) -> None:
        needs_root("become another user")
        log = self.directory() / "audit.log"
        server = self.server(
            self.keys("laptop").section(checker=":"),
            arguments=["--audit-log", str(log)],
            wrapper=with_the_units_capabilities(),
            wait=False,
        )
        self.assertEqual(server.wait(), 78)
        server.wait_for(re.escape(f"mandos: {log}: Permission denied; the audit log must be a file that user ID "))
        self.assertEqual(server.matches("Traceback"), [])
        self.assertFalse(log.exists())


class Notifications(ServerTestCase):
    """What Type=notify, WatchdogSec= and ExecReload= rely on."""

    def test_service_manager_is_told_how_the_server_is(self) -> None:
        directory = self.directory()
        manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(manager.close)
        manager.settimeout(20)
        manager.bind(str(directory / "notify"))
        (directory / "notify").chmod(0o777)

        def wait_for(state: str) -> None:
            while state not in manager.recv(4096).decode("ascii").splitlines():
                pass

        environment = {"NOTIFY_SOCKET": str(directory / "notify"), "WATCHDOG_USEC": "1000000"}
        server = self.server(self.keys("laptop").section(checker=":"), environment=environment)
        wait_for("READY=1")
        wait_for("WATCHDOG=1")
        wait_for("WATCHDOG=1")
        server.signal(signal.SIGHUP)
        wait_for("RELOADING=1")
        wait_for("READY=1")
        server.signal(signal.SIGTERM)
        wait_for("STOPPING=1")
        self.assertEqual(server.wait(), 0)
