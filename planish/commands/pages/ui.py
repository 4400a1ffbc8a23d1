"""A local page on runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from planish.commands.options import at_least


def ui(folder: str | Path = ".", *, port: int = 8500, no_browser: bool = False, watch: Callable[[str], None] = lambda text: None) -> None:
    """Open a page on this machine to look at runs, compare them, follow them as they go, and start, stop and resume them.

    It listens on 127.0.0.1 only, and its address contains a token without which nothing is answered. Runs that were started from it go on
    when it is closed.

    Args:
        folder: Folder below which runs are looked for, and in which new ones are started.
        port: Port to listen on; 0 for any free one.
        no_browser: Print the address only, and open no browser.
        watch: Called with the address.

    Raises:
        BundleError: the folder does not exist, the port is in use, or FastAPI is not installed.

    Example:
        $ planish ui
        $ planish ui runs/ --port 9000
    """
    from planish.ui.listen import listen

    at_least(0, port=port)
    listen(Path(folder), port, open_browser=not no_browser, watch=watch)
