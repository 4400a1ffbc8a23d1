"""The command line: parses arguments, calls a function in ``planish.commands`` and prints its result."""

from planish.cli.app import main

__all__ = ["main"]
