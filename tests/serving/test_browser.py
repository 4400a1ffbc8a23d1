"""The page in a headless Chromium: an image dropped, pasted or photographed is answered; a key is asked for where one is needed."""

from __future__ import annotations

import asyncio
import base64
import shutil
import subprocess
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

if TYPE_CHECKING:
    from conftest import Served

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
FLAGS = [
    "headless",
    "no-sandbox",
    "disable-gpu",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
]
CAMERA = ["use-fake-device-for-media-stream", "use-fake-ui-for-media-stream"]
Evaluate = Callable[[str], Coroutine[Any, Any, Any]]


@pytest.fixture
def visit(tmp_path: Path) -> Any:
    """Runs steps on a page, which are given a function that evaluates JavaScript there; nothing may go wrong in the page meanwhile."""

    async def work(url: str, port: int, steps: Callable[[Evaluate], Coroutine[Any, Any, None]]) -> None:
        numbers, faults = iter(range(1, 10_000)), []
        async with aiohttp.ClientSession() as session:
            async with session.put(f"http://127.0.0.1:{port}/json/new?about:blank") as answer:
                target = await answer.json()
            async with session.ws_connect(target["webSocketDebuggerUrl"]) as browser:

                async def call(method: str, **parameters: Any) -> Any:
                    number = next(numbers)
                    await browser.send_json({"id": number, "method": method, "params": parameters})
                    while (said := await browser.receive_json(timeout=30)).get("id") != number:
                        if said["method"] == "Runtime.exceptionThrown":
                            faults.append(said["params"]["exceptionDetails"])
                    assert "error" not in said, said
                    return said["result"]

                async def evaluate(expression: str) -> Any:
                    given = {"expression": expression, "awaitPromise": True, "returnByValue": True, "userGesture": True}
                    result = await call("Runtime.evaluate", **given)
                    assert "exceptionDetails" not in result, result
                    return result["result"].get("value")

                await call("Runtime.enable")
                await call("Page.navigate", url=url)
                await until(evaluate, "document.readyState === 'complete' && document.getElementById('total')?.textContent")
                await steps(evaluate)
                assert not faults

    def run(url: str, steps: Callable[[Evaluate], Coroutine[Any, Any, None]]) -> None:
        assert CHROMIUM is not None
        profile = tmp_path / "profile"
        flags = [f"--{flag}" for flag in (*FLAGS, *CAMERA, "remote-debugging-port=0", f"user-data-dir={profile}")]
        process = subprocess.Popen([CHROMIUM, *flags, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            for _ in range(300):
                if (profile / "DevToolsActivePort").exists() and (lines := (profile / "DevToolsActivePort").read_text().split()):
                    break
                asyncio.run(asyncio.sleep(0.1))
            asyncio.run(work(url, int(lines[0]), steps))
        finally:
            process.kill()
            process.wait()

    return run


async def until(evaluate: Evaluate, expression: str) -> None:
    for _ in range(200):
        if await evaluate(expression):
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{expression}; the page says: {await evaluate('document.body.innerText')}")


def given(data: bytes, event: str) -> str:
    """JavaScript that pastes or drops a file."""
    file = f"Uint8Array.from(atob('{base64.b64encode(data).decode()}'), (c) => c.charCodeAt(0))"
    data_transfer = f"const data = new DataTransfer(); data.items.add(new File([{file}], '{event}.png', {{type: 'image/png'}}));"
    if event == "paste":
        return f"{data_transfer} document.dispatchEvent(new ClipboardEvent('paste', {{clipboardData: data}}))"
    return f"{data_transfer} document.getElementById('drop').dispatchEvent(new DragEvent('drop', {{dataTransfer: data}}))"


def answered(text: str) -> str:
    return f"document.getElementById('answer').innerText.includes({text!r})"


def test_images_that_are_dropped_pasted_or_photographed_are_answered(visit: Any, serve: Callable[..., Served], bundle: Path) -> None:
    async def steps(evaluate: Evaluate) -> None:
        image = next((bundle / "golden").glob("*.png")).read_bytes()
        for event in ("drop", "paste"):
            await evaluate("say()")
            await evaluate(f"{{ {given(image, event)} }}")
            await until(evaluate, answered("shapes, version 1"))
            assert await evaluate("document.getElementById('shown').alt") == f"the image that was given: {event}.png"
            assert "%" in await evaluate("document.getElementById('answer').innerText")
        assert await evaluate("document.getElementById('mattered').hidden")
        await evaluate("document.getElementById('why').click()")
        await until(evaluate, "!document.getElementById('mattered').hidden")
        await evaluate(f"{{ {given(b'no image', 'drop')} }}")
        await until(evaluate, answered("cannot be decoded"))
        await until(evaluate, "document.getElementById('frame').hidden")
        await evaluate("document.getElementById('photo').click()")
        await until(evaluate, "document.getElementById('video').videoWidth > 0")
        await evaluate("document.getElementById('take').click()")
        await until(evaluate, answered("shapes, version 1"))
        assert await evaluate("document.getElementById('shown').alt") == "the image that was given: photo.jpg"
        assert await evaluate("document.getElementById('viewfinder').hidden && !document.getElementById('video').srcObject")

    visit(f"http://{serve(f'shapes={bundle}').address}/", steps)


def test_the_page_asks_for_a_key(visit: Any, serve: Callable[..., Served], bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("schlüssel\n")

    async def steps(evaluate: Evaluate) -> None:
        await until(evaluate, "!document.getElementById('key-form').hidden")
        await until(evaluate, answered("a key is needed"))
        await evaluate("document.getElementById('key').value = 'schlüssel'; document.querySelector('#key-form button').click()")
        await until(evaluate, "document.getElementById('key-form').hidden && document.getElementById('model').value")
        await evaluate(f"{{ {given(next((bundle / 'golden').glob('*.png')).read_bytes(), 'drop')} }}")
        await until(evaluate, answered("shapes, version 1"))

    visit(f"http://{serve(f'shapes={bundle}', '--keys', tmp_path / 'keys').address}/", steps)
