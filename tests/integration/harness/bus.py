"""A system bus for the programs of one test."""

from __future__ import annotations

import shutil
from pathlib import Path

from twisted.trial.unittest import SkipTest

from tests.integration.harness.programs import Program

CONFIGURATION = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
    <allow user="*"/>
  </policy>
</busconfig>
"""


class PrivateBus(Program):
    """A dbus-daemon that lets everybody do everything."""

    def __init__(self, directory: Path) -> None:
        program = shutil.which("dbus-daemon")
        if program is None:
            raise SkipTest("dbus-daemon is not installed (package dbus)")
        configuration = directory / "bus.conf"
        socket = directory / "bus"
        configuration.write_text(CONFIGURATION.format(socket=socket), "ascii")
        self.address = f"unix:path={socket}"
        """For DBUS_SYSTEM_BUS_ADDRESS."""
        super().__init__(
            "dbus-daemon",
            [program, f"--config-file={configuration}", "--nofork", "--nopidfile", "--nosyslog", "--print-address=2"],
        )

    def wait_until_listening(self) -> None:
        self.wait_for("unix:path=")
