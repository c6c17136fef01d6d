"""The distribution: complete, and found by twistd wherever it is run from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

from mandos_tx import __version__
from tests.integration.harness import ROOT, ServerTestCase

NOT_COPIED = shutil.ignore_patterns("__pycache__", "dropin.cache")
SOURCES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "mandos_tx", "twisted")


def run(*command: str | Path, **variables: str) -> str:
    """A program's output, run where no checkout is and with no path to one; AssertionError if it fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE"))}
    done = subprocess.run(
        [str(word) for word in command],
        env={**environment, **variables},
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


class Distribution(ServerTestCase):
    def setUp(self) -> None:
        self.checkout = self.directory() / "checkout"
        self.checkout.mkdir()
        for name in SOURCES:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, self.checkout / name, ignore=NOT_COPIED)
            else:
                shutil.copyfile(source, self.checkout / name)

    def wheel(self) -> Path:
        directory = self.directory()
        self.pip("wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", directory, self.checkout)
        return next(directory.glob("*.whl"))

    def pip(self, *arguments: str | Path) -> None:
        run(sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments)

    def environment(self) -> Path:
        """A new virtual environment that has our dependencies, but not us; its Python."""
        directory = self.directory() / "venv"
        venv.create(directory, symlinks=True)
        paths = sysconfig.get_paths(vars={"base": str(directory), "platbase": str(directory)})
        # As a line in a .pth file: the .pth files there, like that of an editable installation, do not count.
        (Path(paths["purelib"]) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
        return directory / "bin" / "python"

    def install(self, python: Path, *arguments: str | Path) -> None:
        self.pip("--python", python, "install", "--no-build-isolation", "--no-deps", *arguments)

    def twistd(self, python: Path, *arguments: str) -> str:
        return run(python, "-c", "from twisted.scripts.twistd import run; run()", *arguments)

    def test_wheel_has_every_module_the_plugin_and_nothing_else(self) -> None:
        with zipfile.ZipFile(self.wheel()) as wheel:
            inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
        expected = {
            str(path.relative_to(self.checkout))
            for package in ("mandos_tx", "twisted")
            for path in (self.checkout / package).rglob("*")
            if path.suffix == ".py" or path.name == "py.typed"
        }
        self.assertEqual(inside, expected)
        self.assertIn("twisted/plugins/mandos_plugin.py", inside)

    def test_installed_server_is_a_twistd_plugin_and_two_scripts(self) -> None:
        python = self.environment()
        self.install(python, self.wheel())
        self.assertIn("--configdir", self.twistd(python, "mandos", "--help"))
        self.assertEqual(run(python.parent / "mandos", "--version").strip(), f"mandos {__version__}")
        self.assertEqual(run(python.parent / "mandos-fetch", "--version").strip(), f"mandos-fetch {__version__}")

    def test_editable_installation_is_a_twistd_plugin_too(self) -> None:
        python = self.environment()
        self.install(python, "--config-settings", "editable_mode=compat", "--editable", self.checkout)
        self.assertIn("--configdir", self.twistd(python, "mandos", "--help"))

    def test_checkout_needs_no_installation(self) -> None:
        python = self.environment()
        program = "from twisted.scripts.twistd import run; run()"
        said = run(python, "-c", program, "mandos", "--help", PYTHONPATH=str(self.checkout))
        self.assertIn("--configdir", said)
