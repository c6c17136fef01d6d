"""Files that others may change are refused, those that others may read are doubtful."""

from __future__ import annotations

import stat

from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.configuration_files import Access, ConfigFile
from mandos_tx.strict_modes import doubts, faults, secret_faults

ROOT, OURS, STRANGER = 0, 103, 1000
TRUSTED = frozenset({ROOT, OURS})


def directory(mode: int = 0o755, owner: int = ROOT, path: str = "/etc/mandos") -> Access:
    return Access(path, stat.S_IFDIR | mode, owner)


def found(mode: int = 0o600, owner: int = ROOT, directories: tuple[Access, ...] = (directory(),)) -> ConfigFile:
    return ConfigFile(b"", Access("/etc/mandos/f", stat.S_IFREG | mode, owner), directories)


class StrictModesTests(SynchronousTestCase):
    def check(self, file: ConfigFile, *problems: str) -> None:
        self.assertEqual(list(problems), [fault.problem for fault in faults(file, TRUSTED)])

    def test_what_only_trusted_users_can_write_is_fine(self) -> None:
        for file in (found(), found(0o400, OURS), found(0o644), found(directories=(directory(0o700, OURS),))):
            self.check(file)

    def test_a_secret_may_be_the_servers_own_even_in_its_own_directory(self) -> None:
        own = directory(0o700, OURS)
        for file in (found(), found(owner=OURS), found(owner=OURS, directories=(own,))):
            self.assertEqual([], list(secret_faults(file, frozenset({ROOT}), frozenset({OURS}))))

    def test_a_secret_of_roots_that_the_server_could_have_exchanged_is_refused(self) -> None:
        linked = found(owner=ROOT, directories=(directory(0o700, OURS), directory(path="/etc")))
        [fault] = secret_faults(linked, frozenset({ROOT}), frozenset({OURS}))
        self.assertEqual("/etc/mandos belongs to user ID 103", fault.problem)

    def test_what_the_group_or_others_can_write_is_refused(self) -> None:
        self.check(found(0o660), "/etc/mandos/f can be written by its group (mode 0660)")
        self.check(found(0o602), "/etc/mandos/f can be written by others (mode 0602)")
        self.check(found(0o666), "/etc/mandos/f can be written by others (mode 0666)")

    def test_what_belongs_to_a_stranger_is_refused(self) -> None:
        self.check(found(owner=STRANGER), "/etc/mandos/f belongs to user ID 1000")

    def test_what_can_be_exchanged_is_refused(self) -> None:
        self.check(found(directories=(directory(0o775),)), "/etc/mandos can be written by its group (mode 0775)")
        self.check(found(directories=(directory(owner=STRANGER),)), "/etc/mandos belongs to user ID 1000")

    def test_a_sticky_directory_keeps_a_file_from_being_exchanged(self) -> None:
        self.check(found(directories=(directory(0o1777, path="/tmp"),)))

    def test_a_symbolic_link_in_a_sticky_directory_may_be_anybodys(self) -> None:
        self.check(
            found(directories=(directory(0o1777, path="/tmp"), directory())),
            "/tmp can be written by others (mode 1777)",
        )

    def test_every_fault_says_what_to_do(self) -> None:
        file = found(0o666, STRANGER, (directory(0o777, STRANGER),))
        self.assertEqual(
            [
                "chown root /etc/mandos/f",
                "chmod go-w /etc/mandos/f, or set strict_modes = no in mandos.conf",
                "chown root /etc/mandos",
                "chmod go-w /etc/mandos, or set strict_modes = no in mandos.conf",
            ],
            [fault.remedy for fault in faults(file, TRUSTED)],
        )

    def test_what_others_can_read_is_doubtful_and_the_mode_is_named(self) -> None:
        [doubt] = doubts(found(0o644))
        self.assertEqual("/etc/mandos/f can be read by others (mode 0644)", doubt.problem)
        self.assertEqual("chmod o-r /etc/mandos/f", doubt.remedy)
        self.assertEqual([], list(doubts(found(0o640))))
