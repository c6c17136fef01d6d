"""Places where a program sees other devices, file systems or networks than everybody else (unshare(1)); for root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from functools import cache

from twisted.trial.unittest import SkipTest


def apart(*kinds: str, first: str = "") -> Sequence[str]:
    """The beginning of a command line whose rest runs in new namespaces, after the shell commands ``first``.

    ``kinds`` are options of unshare(1). Skips the test where there can be no such namespaces.
    """
    if not _permitted(kinds):
        raise SkipTest(f"namespaces cannot be made here (unshare {' '.join(kinds)}); they need root")
    return ["unshare", *kinds, "--", "sh", "-c", f'set -e\n{first}\nexec "$@"', "sh"]


def need_root() -> None:
    """Skip the test for everybody else."""
    if os.geteuid() != 0:
        raise SkipTest("this is only for root, who becomes somebody else")


@cache
def _permitted(kinds: tuple[str, ...]) -> bool:
    try:
        return subprocess.run(["unshare", *kinds, "--", "true"], stderr=subprocess.DEVNULL).returncode == 0
    except FileNotFoundError:
        return False
