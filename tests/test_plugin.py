"""Tests of ``twisted/plugins/mandos_plugin.py``."""

from __future__ import annotations

import ast
from pathlib import Path

from twisted.application.service import IServiceMaker, ServiceMaker
from twisted.plugin import getPlugins
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx import tap
from mandos_tx.settings import Options

PLUGIN = Path(__file__).parent.parent / "twisted" / "plugins" / "mandos_plugin.py"


class PluginTests(SynchronousTestCase):
    def test_twistd_finds_the_server(self) -> None:
        [maker] = [plugin for plugin in getPlugins(IServiceMaker) if plugin.tapname == "mandos"]
        assert isinstance(maker, ServiceMaker)
        self.assertEqual("mandos_tx.tap", maker.module)
        self.assertIs(Options, maker.options)
        self.assertIs(tap.makeService.__code__, maker.makeService.__code__)

    def test_to_find_it_nothing_of_it_is_imported(self) -> None:
        imported = [node.module for node in ast.walk(ast.parse(PLUGIN.read_text())) if isinstance(node, ast.ImportFrom)]
        self.assertEqual(["__future__", "twisted.application.service"], imported)
