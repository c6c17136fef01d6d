"""Benchmarks: what a delivered secret, a start, an idle connection and a check cost, beside a floor written in C."""
