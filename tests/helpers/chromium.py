"""A page in a headless Chromium, driven by its DevTools protocol."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-component-update",
    "disable-sync",
)  # fmt: skip


@dataclass(frozen=True)
class Page:
    """One page; ``events`` are those that came while an answer was awaited, as the protocol describes them."""

    call: Callable[..., Awaitable[Any]]
    events: list[dict[str, Any]] = field(default_factory=list)

    async def evaluate(self, expression: str) -> Any:
        """Return the value of JavaScript, which may be a promise."""
        given = {"expression": expression, "awaitPromise": True, "returnByValue": True, "userGesture": True}
        result = await self.call("Runtime.evaluate", **given)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait for JavaScript to be true."""
        for _ in range(200):
            if await self.evaluate(expression):
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"{expression}; the page says: {await self.evaluate('document.body.innerText')}")

    def happened(self, method: str) -> list[Any]:
        """Return the parameters of the events of one kind."""
        return [event["params"] for event in self.events if event["method"] == method]


def browse(profile: Path, steps: Callable[[Page], Coroutine[Any, Any, None]], flags: Iterable[str] = ()) -> None:
    """Start Chromium with an empty profile, carry out steps on one page, and end it."""
    assert CHROMIUM is not None
    given = [f"--{flag}" for flag in (*FLAGS, *flags, "remote-debugging-port=0", f"user-data-dir={profile}")]
    process = subprocess.Popen([CHROMIUM, *given, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        asyncio.run(_work(profile, steps))
    finally:
        process.kill()
        process.wait()


async def _work(profile: Path, steps: Callable[[Page], Coroutine[Any, Any, None]]) -> None:
    lines: list[str] = []
    for _ in range(300):
        if (profile / "DevToolsActivePort").exists() and (lines := (profile / "DevToolsActivePort").read_text().split()):
            break
        await asyncio.sleep(0.1)
    numbers = iter(range(1, 100_000))
    async with aiohttp.ClientSession() as session:
        async with session.put(f"http://127.0.0.1:{lines[0]}/json/new?about:blank") as answer:
            target = await answer.json()
        async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as browser:

            async def call(method: str, **parameters: Any) -> Any:
                number = next(numbers)
                await browser.send_json({"id": number, "method": method, "params": parameters})
                while (said := await browser.receive_json(timeout=30)).get("id") != number:
                    if "method" in said:
                        page.events.append(said)
                assert "error" not in said, said
                return said["result"]

            page = Page(call)
            await call("Runtime.enable")
            await call("Emulation.setFocusEmulationEnabled", enabled=True)  # or nothing in the page gets the focus
            await steps(page)
