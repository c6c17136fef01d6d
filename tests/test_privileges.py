"""Tests of ``mandos_tx.privileges``; the test's own process stays who it is."""

from __future__ import annotations

import ctypes
import os
import pwd
import resource

from attrs import define, field
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.privileges import (
    Identity,
    PrivilegeShedding,
    guard_memory,
    is_root,
    raise_descriptor_limit,
    shed,
    unprivileged_identity,
)
from tests.fakes import Log

PR_GET_DUMPABLE, PR_SET_DUMPABLE = 3, 4


def prctl(*arguments: int) -> int:
    return int(ctypes.CDLL(None).prctl(*arguments, *[0] * (5 - len(arguments))))


@define
class PretendedSystem:
    uid: int = 0
    calls: list[tuple[object, ...]] = field(factory=list)

    def geteuid(self) -> int:
        return self.uid

    def setgroups(self, groups: list[int], /) -> None:
        self.calls.append(("groups", groups))

    def setresgid(self, rgid: int, egid: int, sgid: int, /) -> None:
        self.calls.append(("gid", rgid, egid, sgid))

    def setresuid(self, ruid: int, euid: int, suid: int, /) -> None:
        self.calls.append(("uid", ruid, euid, suid))


class PrivilegesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.addCleanup(prctl, PR_SET_DUMPABLE, prctl(PR_GET_DUMPABLE))

    def test_groups_go_first_and_nothing_is_kept_to_come_back_with(self) -> None:
        system = PretendedSystem()
        shed(Identity("a", 1, 2), system)
        self.assertEqual([("groups", []), ("gid", 2, 2, 2), ("uid", 1, 1, 1)], system.calls)

    def test_root_becomes_somebody_who_exists(self) -> None:
        identity = unprivileged_identity()
        self.assertIn(identity.name, ("_mandos", "mandos", "nobody", "65534"))
        self.assertNotIn(0, (identity.uid, identity.gid))
        if identity.name != "65534":
            self.assertEqual(pwd.getpwnam(identity.name).pw_uid, identity.uid)

    def test_where_nobody_exists_it_becomes_a_number(self) -> None:
        self.assertEqual(Identity("65534", 65534, 65534), unprivileged_identity([("no such user", "nor group")]))

    def test_the_service_sheds_root_and_says_who_it_is(self) -> None:
        log = Log()
        log.listen(self)
        system = PretendedSystem()
        PrivilegeShedding(self.fail, system).startService()
        identity = unprivileged_identity()
        self.assertEqual(("uid", *[identity.uid] * 3), system.calls[-1])
        self.assertEqual(
            [f"Running as {identity.name} (uid {identity.uid}, gid {identity.gid})"], log.texts(LogLevel.debug)
        )
        self.assertEqual(0, prctl(PR_GET_DUMPABLE))

    def test_who_may_not_become_somebody_else_does_not_go_on(self) -> None:
        class Refusing(PretendedSystem):
            def setgroups(self, groups: list[int], /) -> None:
                raise PermissionError(1, "Operation not permitted")

        class GivenUp(Exception):
            pass

        def give_up(message: str) -> None:
            raise GivenUp(message)

        system = Refusing()
        error = self.assertRaises(GivenUp, PrivilegeShedding(give_up, system).startService)
        self.assertRegex(str(error), r"Cannot become .+ \(uid \d+, gid \d+\): Operation not permitted; ")
        self.assertEqual([], system.calls)

    def test_who_is_not_root_stays_who_it_is(self) -> None:
        system = PretendedSystem(uid=1000)
        PrivilegeShedding(self.fail, system).startService()
        self.assertEqual([], system.calls)

    def test_there_is_neither_a_core_nor_anybody_who_looks_in(self) -> None:
        guard_memory()
        self.assertEqual((0, 0), resource.getrlimit(resource.RLIMIT_CORE))
        self.assertEqual(0, prctl(PR_GET_DUMPABLE))

    def test_as_many_descriptors_as_may_be(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
        for _ in range(2):
            self.assertEqual(hard, raise_descriptor_limit())
            self.assertEqual((hard, hard), resource.getrlimit(resource.RLIMIT_NOFILE))

    def test_root_is_who_has_number_zero(self) -> None:
        self.assertEqual(os.geteuid() == 0, is_root())
