"""``python -m planish.cli``."""

from planish.cli.app import main

main()
