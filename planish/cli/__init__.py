"""The command line: what is written there becomes a call of a function in ``planish.commands``, and what it returns is printed."""

from planish.cli.app import main

__all__ = ["main"]
