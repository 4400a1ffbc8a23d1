"""Serves the page until Ctrl-C."""

from __future__ import annotations

import contextlib
import secrets
import socket
import webbrowser
from collections.abc import Callable
from pathlib import Path

from planish.errors import BundleError

_HOST = "127.0.0.1"


def listen(folder: Path, port: int, *, open_browser: bool, watch: Callable[[str], None]) -> None:
    """Answer requests from this machine until Ctrl-C.

    Args:
        folder: folder with runs.
        port: port to listen on; 0 for any free one.
        open_browser: whether to open the page.
        watch: called with its address.

    Raises:
        BundleError: the folder does not exist, the port is in use, or FastAPI or uvicorn is not installed.
    """
    if not folder.is_dir():
        raise BundleError(f"{folder} is no folder", "runs are looked for in a folder", "give the one that your runs are in")
    try:
        import uvicorn

        from planish.ui.app import ui_app
    except ImportError as error:
        raise BundleError("FastAPI or uvicorn is not installed", "the page is served by them", "pip install 'planish[serve]'") from error
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            place.bind((_HOST, port))
        except OSError as error:
            raise BundleError(
                f"port {port} cannot be used: {error.strerror}", "one program listens on a port", "--port 0 takes a free one"
            ) from error
        token = secrets.token_urlsafe(24)
        address = f"http://{_HOST}:{place.getsockname()[1]}/?token={token}"
        watch(f"{address} (Ctrl-C ends it)")
        if open_browser:
            webbrowser.open(address)
        settings = uvicorn.Config(ui_app(folder.resolve(), token), log_level="warning", access_log=False, timeout_graceful_shutdown=2)
        uvicorn.Server(settings).run(sockets=[place])
