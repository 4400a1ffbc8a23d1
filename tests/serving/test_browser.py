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
from patches import file_of, picture

if TYPE_CHECKING:
    from conftest import Served

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
FLAGS = [
    "headless",
    "no-sandbox",
    "disable-gpu",
    "disable-quic",
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
                await call("Emulation.setFocusEmulationEnabled", enabled=True)  # or nothing in the page gets the focus
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
        assert "curl --data-binary @photo.jpg 'http" in await evaluate("document.getElementById('examples').textContent")
        await until(evaluate, "document.getElementById('drift').textContent === 'nothing compared yet'")
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


PICTURE = file_of(
    picture({"red": (0.125, 0.25, 0.5, 0.75), "green": (0.625, 0.5, 0.875, 1), "blue": (0.75, 0, 0.875, 0.25)}, shape="rectangle")
)


def alpha(x: float, y: float) -> str:
    """JavaScript: how much the masks cover there, 0..255; at these shares of the image's sides."""
    place = f"canvas.width * {x}, canvas.height * {y}, 1, 1"
    return f"(() => {{ const canvas = document.getElementById('masks'); return canvas.getContext('2d').getImageData({place}).data[3]; }})()"


def test_boxes_are_drawn_where_they_are_and_listed(
    visit: Any, serve: Callable[..., Served], patches: dict[str, Path], bundle: Path
) -> None:
    """By the keyboard as well; what a model cannot be asked for is not offered."""

    async def steps(evaluate: Evaluate) -> None:
        async def hidden(name: str) -> Any:
            return await evaluate(f"document.getElementById('{name}').hidden")

        await until(evaluate, "document.getElementById('model').options.length === 3")
        assert [await hidden(name) for name in ("why-choice", "threshold-choice", "overlay-choice")] == [True, False, True]
        await evaluate(f"{{ {given(PICTURE, 'drop')} }}")
        await until(evaluate, answered("boxes, version 1"))
        assert await evaluate("document.getElementById('summary').innerText") == "Found: 1 red, 1 green."
        side = "document.getElementById('shown').getBoundingClientRect()"
        for number, (left, top, right, bottom) in enumerate([(0.125, 0.25, 0.5, 0.75), (0.625, 0.5, 0.875, 1)]):
            box = f"[...document.querySelectorAll('.box')].at(-1 - {number}).getBoundingClientRect()"
            found = await evaluate(
                f"[{box}.left - {side}.left, {box}.top - {side}.top, {box}.right - {side}.left, {box}.bottom - {side}.top]"
            )
            width, height = await evaluate(f"[{side}.width, {side}.height]")
            assert found == pytest.approx([left * width, top * height, right * width, bottom * height], abs=4)
        assert await hidden("masks")
        names = await evaluate("[...document.querySelectorAll('#details button')].map((button) => button.innerText.replace(/\\s+/g, ' '))")
        assert names == ["1 red 90.0 % left, 180 × 160 pixels", "2 green 60.0 % lower right, 120 × 160 pixels"]
        await evaluate("document.querySelectorAll('#details button')[1].click()")
        assert await evaluate("[...document.querySelectorAll('.box')].map((box) => box.className)") == ["box chosen", "box other"]
        assert await evaluate("document.querySelectorAll('#details button')[1].getAttribute('aria-pressed')") == "true"
        await evaluate("document.getElementById('overlay').click()")
        assert await hidden("boxes")
        await evaluate("document.getElementById('overlay').click()")
        change = "document.getElementById('threshold').value = {}; document.getElementById('threshold').dispatchEvent(new Event('change'))"
        await evaluate(change.format(15))
        await until(evaluate, "document.querySelectorAll('.box').length === 3")
        await evaluate(change.format(95))
        await until(evaluate, answered("Nothing was found of which the model is so sure."))
        await until(evaluate, "document.querySelectorAll('.box').length === 0")
        await evaluate(
            "{ const model = document.getElementById('model'); model.selectedIndex = 2; model.dispatchEvent(new Event('change')) }"
        )
        await until(evaluate, answered("shapes, version 1"))
        assert [await hidden(name) for name in ("why-choice", "threshold-choice", "overlay-choice")] == [False, True, True]

    served = serve(f"boxes={patches['detection']}", f"masks={patches['instance']}", f"shapes={bundle}")
    visit(f"http://{served.address}/", steps)


def test_masks_and_maps_lie_over_the_image(visit: Any, serve: Callable[..., Served], patches: dict[str, Path]) -> None:
    async def steps(evaluate: Evaluate) -> None:
        await until(evaluate, "document.getElementById('model').options.length === 2")
        await evaluate(f"{{ {given(PICTURE, 'drop')} }}")
        await until(evaluate, answered("masks, version 1"))
        inside = [(0.3, 0.5), (0.14, 0.27), (0.48, 0.73), (0.75, 0.75)]
        outside = [(0.1, 0.5), (0.3, 0.2), (0.52, 0.5), (0.3, 0.8), (0.8, 0.1), (0.6, 0.75)]
        assert all([await evaluate(alpha(*place)) > 50 for place in inside])
        assert not any([await evaluate(alpha(*place)) for place in outside])
        await evaluate("document.querySelectorAll('#details button')[1].focus()")
        await until(evaluate, f"{alpha(0.3, 0.5)} < 50 && {alpha(0.75, 0.75)} > 120")
        await evaluate(
            "{ const model = document.getElementById('model'); model.selectedIndex = 1; model.dispatchEvent(new Event('change')) }"
        )
        await until(evaluate, answered("map, version 1"))
        names = await evaluate("[...document.querySelectorAll('#details .name')].map((name) => name.innerText)")
        assert names == ["background", "red", "green", "blue"]
        assert await evaluate(alpha(0.81, 0.1)) > 50
        assert not await evaluate(alpha(0.6, 0.1)), "the background stays clear"
        await evaluate("document.querySelectorAll('#details button')[0].click()")
        assert await evaluate(alpha(0.6, 0.1)) > 120

    served = serve(f"masks={patches['instance']}", f"map={patches['semantic']}")
    visit(f"http://{served.address}/", steps)
