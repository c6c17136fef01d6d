"""Files are read once, with who else may change them; a record of it says the same again."""

from __future__ import annotations

import os
import stat

from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.configuration_files import (
    LARGEST_FILE,
    Access,
    ConfigFile,
    ConfigFiles,
    LocalFiles,
    RecordedFiles,
    RecordingFiles,
)


class LocalFilesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = os.path.realpath(self.mktemp())
        os.makedirs(self.root, 0o755)
        self.files: ConfigFiles = LocalFiles()

    def write(self, name: str, content: bytes = b"content") -> str:
        path = os.path.join(self.root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
        os.chmod(path, 0o640)
        return path

    def test_a_file_comes_with_its_mode_its_owner_and_its_directory(self) -> None:
        path = self.write("f")
        found = self.files.read(path)
        self.assertEqual(b"content", found.content)
        self.assertEqual(Access(path, stat.S_IFREG | 0o640, os.geteuid()), found.access)
        self.assertEqual([self.root], [directory.path for directory in found.directories])
        self.assertTrue(stat.S_ISDIR(found.directories[0].mode))

    def test_the_content_is_in_no_repr(self) -> None:
        self.assertNotIn("canary", repr(self.files.read(self.write("f", b"canary"))))

    def test_every_directory_on_the_way_along_symbolic_links_is_named_and_the_last_one_last(self) -> None:
        path = self.write("real/f")
        os.makedirs(os.path.join(self.root, "links"))
        os.symlink("links/two", os.path.join(self.root, "one"))
        os.symlink(path, os.path.join(self.root, "links/two"))
        found = self.files.read(os.path.join(self.root, "one"))
        self.assertEqual(path, found.access.path)
        self.assertEqual(
            [self.root, f"{self.root}/links", f"{self.root}/real"], [directory.path for directory in found.directories]
        )

    def test_symbolic_links_in_a_circle_are_an_error(self) -> None:
        path = os.path.join(self.root, "loop")
        os.symlink(path, path)
        self.assertRaises(OSError, self.files.read, path)

    def test_home_directories_and_environment_variables_count(self) -> None:
        path = self.write("f")
        self.patch(os, "environ", {"MANDOS_TEST_ROOT": self.root, "HOME": self.root})
        self.assertEqual(path, self.files.read("$MANDOS_TEST_ROOT/f").access.path)
        self.assertEqual(path, self.files.read("~/f").access.path)

    def test_what_is_no_absolute_path_or_no_regular_file_is_an_error(self) -> None:
        for path, reason in {
            "$NO_SUCH_VARIABLE/f": "not an absolute path",
            "f": "not an absolute path",
            "/dev/null": "not a regular file",
        }.items():
            with self.assertRaises(OSError) as caught:
                self.files.read(path)
            self.assertEqual(reason, caught.exception.strerror)
        self.assertRaises(IsADirectoryError, self.files.read, self.root)
        self.assertRaises(FileNotFoundError, self.files.read, os.path.join(self.root, "none"))
        self.assertRaises(FileNotFoundError, self.files.read, os.path.join(self.root, "none/f"))

    def test_a_fifo_does_not_hold_it_up(self) -> None:
        path = os.path.join(self.root, "fifo")
        os.mkfifo(path)
        self.assertRaises(OSError, self.files.read, path)

    def test_what_is_too_large_is_an_error(self) -> None:
        path = self.write("f")
        os.truncate(path, LARGEST_FILE + 1)
        with self.assertRaises(OSError) as caught:
            self.files.read(path)
        self.assertEqual("larger than 1 GiB", caught.exception.strerror)

    def test_a_directory_comes_with_its_mode_and_its_sorted_names(self) -> None:
        self.write("b")
        self.write("a")
        access, names = self.files.directory(self.root)
        self.assertEqual((self.root, ("a", "b")), (access.path, names))
        self.assertRaises(FileNotFoundError, self.files.directory, os.path.join(self.root, "none"))

    def test_root_and_this_user_are_trusted_and_nobody_else(self) -> None:
        self.assertEqual({0, os.geteuid()}, self.files.trusted)


class RecordTests(SynchronousTestCase):
    def setUp(self) -> None:
        directory = Access("/d", stat.S_IFDIR | 0o755, 0)
        self.file = ConfigFile(b"x", Access("/d/f", stat.S_IFREG | 0o600, 0), (directory,))
        self.original = RecordedFiles(
            frozenset({0, 7}),
            {"/d/f": self.file, "/d/forbidden": PermissionError(13, "Permission denied")},
            {"/d": (directory, ("f",)), "/file": NotADirectoryError(20, "Not a directory")},
        )

    def test_says_again_what_was_asked_and_nothing_else(self) -> None:
        recording = RecordingFiles(self.original)
        self.assertEqual(self.file, recording.read("/d/f"))
        self.assertRaises(PermissionError, recording.read, "/d/forbidden")
        self.assertEqual(("f",), recording.directory("/d")[1])
        self.assertRaises(NotADirectoryError, recording.directory, "/file")
        again = recording.recorded()
        self.assertEqual(self.original.trusted, again.trusted)
        self.assertEqual(self.file, again.read("/d/f"))
        self.assertRaises(PermissionError, again.read, "/d/forbidden")
        self.assertEqual(("f",), again.directory("/d")[1])
        self.assertRaises(NotADirectoryError, again.directory, "/file")
        self.assertRaises(FileNotFoundError, again.read, "/d/other")
        self.assertRaises(FileNotFoundError, again.directory, "/other")
