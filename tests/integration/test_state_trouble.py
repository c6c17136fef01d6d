"""Disks that are full, broken or read-only: secrets are served all the same, and no change is said to be saved."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from twisted.trial.unittest import SkipTest

from tests.integration.harness import ControlledServer, Program, Refused, ServerTestCase, apart, fetch, need_root
from tests.integration.harness.server import server_user

NOT_SAVED = r"ERROR: The state cannot be saved: .*\. Secrets are still served"


class StateTrouble(ServerTestCase):
    def setUp(self) -> None:
        need_root()
        self.laptop, self.desktop = self.keys("laptop"), self.keys("desktop")
        self.configuration = self.configdir(*(k.section(checker=":", host="old") for k in (self.laptop, self.desktop)))

    def assert_refused(self, error: str, ask: Callable[[], object]) -> str:
        refused = self.assertRaises(Refused, ask)
        self.assertEqual(refused.name, error)
        return str(refused)

    def assert_lives_without_its_disk(self, server: ControlledServer) -> None:
        """Decision 20."""
        before = server.clients()
        for request in ({"reconfigure": ["laptop", {"host": "new"}]}, {"remove": "laptop"}):
            message = self.assert_refused("NotSaved", lambda request=request: server.ask(**request))  # type: ignore[misc]
            self.assertIn("nothing was changed", message)
        self.assertEqual(server.clients(), before)
        self.assertEqual(fetch(server.address, self.laptop), self.laptop.secret)
        message = self.assert_refused("DisabledButNotSaved", lambda: server.change("desktop", "Disable"))
        self.assertIn("is disabled now, but this is not yet saved", message)
        self.assertEqual(fetch(server.address, self.desktop), b"")
        self.assert_refused("NotSaved", lambda: server.change("desktop", "Enable"))
        self.assertEqual(fetch(server.address, self.desktop), b"")
        self.assertEqual(len(server.matches(NOT_SAVED)), 1)
        self.assertEqual(server.matches("Traceback"), [])

    def assert_disable_outlasts(self, statedir: Path) -> None:
        """What was disabled without a disk was saved when there was one again."""
        server = self.controlled_server(configdir=self.configuration, statedir=statedir)
        clients = server.clients()
        self.assertEqual((clients["desktop"]["enabled"], clients["laptop"]["enabled"]), (False, True))
        self.assertEqual(clients["laptop"]["host"], "after")

    def test_full_disk(self) -> None:
        statedir, user = self.statedir(), server_user()
        assert user is not None
        mount = f"mount -t tmpfs -o size=256k,mode=700,uid={user.pw_uid},gid={user.pw_gid} state {statedir}"
        server = self.controlled_server(
            configdir=self.configuration, statedir=statedir, wrapper=apart("-m", first=mount)
        )
        server.ask(reconfigure=["laptop", {"timeout": 1000}])
        inside = Path(f"/proc/{server.pid}/root{statedir}")
        self.fill_until_refused(server, inside / "filler")
        self.assert_lives_without_its_disk(server)
        server.wait_for("full")
        (inside / "filler").unlink()
        server.ask(reconfigure=["laptop", {"host": "after"}])
        server.wait_for("The state can be saved again")
        copy = self.copied(server, inside)
        self.assert_disable_outlasts(copy)

    def fill_until_refused(self, server: ControlledServer, filler: Path) -> None:
        """Leave no room, also not in the files that are there, nor the room that is made by tidying up."""
        refusals = 0
        for seconds in range(2000, 2200):
            with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
                while file.write(bytes(4096)):
                    pass
            try:
                server.ask(reconfigure=["laptop", {"timeout": seconds}])
            except Refused:
                refusals += 1
                if refusals == 5:
                    return
        self.fail("the disk is not full")

    def copied(self, server: ControlledServer, inside: Path) -> Path:
        """What is in the state directory at the instant of a crash."""
        copy = self.statedir()
        os.kill(server.pid, signal.SIGSTOP)
        for path in inside.iterdir():
            target = copy / path.name
            shutil.copyfile(path, target)
            shutil.copystat(path, target)
            os.chown(target, path.stat().st_uid, path.stat().st_gid)
        server.kill()
        return copy

    def test_read_only_directory_at_start(self) -> None:
        statedir = self.statedir()
        first = self.controlled_server(configdir=self.configuration, statedir=statedir)
        first.ask(reconfigure=["laptop", {"host": "saved"}])
        first.kill()
        wrapper = apart("-m", first=f"mount --bind {statedir} {statedir}\nmount -o remount,ro,bind {statedir}")
        before = {path.name: path.read_bytes() for path in statedir.iterdir()}
        server = self.controlled_server(configdir=self.configuration, statedir=statedir, wrapper=wrapper)
        self.assertEqual(server.clients()["laptop"]["host"], "saved")
        server.wait_for(NOT_SAVED)
        self.assert_lives_without_its_disk(server)
        self.assertEqual(server.stop(), 0)
        self.assertEqual({path.name: path.read_bytes() for path in statedir.iterdir()}, before)
        strict = self.server(
            configdir=self.configuration,
            statedir=statedir,
            wrapper=wrapper,
            arguments=["--state-required"],
            wait=False,
        )
        self.assertEqual(strict.wait(), 78)
        self.assertIn(str(statedir), strict.log)
        self.assertNotIn("Traceback", strict.log)

    def test_directory_that_cannot_be_made(self) -> None:
        nowhere = Path("/proc/no-such-directory")
        server = self.controlled_server(configdir=self.configuration, statedir=nowhere)
        self.assert_lives_without_its_disk(server)

    def test_disk_that_fails_every_write_or_sync(self) -> None:
        if shutil.which("strace") is None:
            raise SkipTest("strace is not installed")
        faults = [(call, error) for call in ("fdatasync", "pwrite64") for error in ("EIO", "ENOSPC")]
        servers = [self.controlled_server(configdir=self.configuration, wait=False) for _ in faults]
        for server, (call, error) in zip(servers, faults, strict=True):
            server.ask(reconfigure=["laptop", {"timeout": 1000}])
            strace = self.injecting(server, call, error)
            self.assert_lives_without_its_disk(server)
            strace.stop()
            server.ask(reconfigure=["laptop", {"host": "after"}])
            server.wait_for("The state can be saved again")
            server.kill()
            self.assert_disable_outlasts(server.statedir)

    def injecting(self, server: ControlledServer, call: str, error: str) -> Program:
        """From now on the system call fails, until this is stopped."""
        options = ["-f", "-s", "0", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:error={error}"]
        strace = self.started(Program("strace", ["strace", *options, "-p", str(server.pid)]))
        strace.wait_for("attached")
        return strace
