"""The command line: argument parsing only. Every command is one call into ``planish.commands``."""

from planish.cli.app import main

__all__ = ["main"]
