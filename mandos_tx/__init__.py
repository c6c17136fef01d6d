"""A Mandos server on Twisted, and keymgr, its neighbour."""

__version__ = "0.1.0"
