"""The page in a headless Chromium: an image dropped, pasted or photographed is answered; a key is asked for where one is needed."""

from __future__ import annotations

import base64
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from chromium import CHROMIUM, Page, browse
from patches import file_of, picture

if TYPE_CHECKING:
    from conftest import Served

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
CAMERA = ["use-fake-device-for-media-stream", "use-fake-ui-for-media-stream"]


@pytest.fixture
def visit(tmp_path: Path) -> Any:
    """Runs steps on a page, and nothing may go wrong in the page meanwhile."""

    def run(url: str, steps: Callable[[Page], Coroutine[Any, Any, None]]) -> None:
        async def work(page: Page) -> None:
            await page.call("Page.navigate", url=url)
            await page.until("document.readyState === 'complete' && document.getElementById('total')?.textContent")
            await steps(page)
            assert not page.happened("Runtime.exceptionThrown")

        browse(tmp_path / "profile", work, CAMERA)

    return run


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
    async def steps(page: Page) -> None:
        image = next((bundle / "golden").glob("*.png")).read_bytes()
        for event in ("drop", "paste"):
            await page.evaluate("say()")
            await page.evaluate(f"{{ {given(image, event)} }}")
            await page.until(answered("shapes, version 1"))
            assert await page.evaluate("document.getElementById('shown').alt") == f"the image that was given: {event}.png"
            assert "%" in await page.evaluate("document.getElementById('answer').innerText")
        assert "curl --data-binary @photo.jpg 'http" in await page.evaluate("document.getElementById('examples').textContent")
        await page.until("document.getElementById('drift').textContent === 'nothing compared yet'")
        assert await page.evaluate("document.getElementById('mattered').hidden")
        await page.evaluate("document.getElementById('why').click()")
        await page.until("!document.getElementById('mattered').hidden")
        await page.evaluate(f"{{ {given(b'no image', 'drop')} }}")
        await page.until(answered("cannot be decoded"))
        await page.until("document.getElementById('frame').hidden")
        await page.evaluate("document.getElementById('photo').click()")
        await page.until("document.getElementById('video').videoWidth > 0")
        await page.evaluate("document.getElementById('take').click()")
        await page.until(answered("shapes, version 1"))
        assert await page.evaluate("document.getElementById('shown').alt") == "the image that was given: photo.jpg"
        assert await page.evaluate("document.getElementById('viewfinder').hidden && !document.getElementById('video').srcObject")

    visit(f"http://{serve(f'shapes={bundle}').address}/", steps)


def test_the_page_asks_for_a_key(visit: Any, serve: Callable[..., Served], bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("schlüssel\n")

    async def steps(page: Page) -> None:
        await page.until("!document.getElementById('key-form').hidden")
        await page.until(answered("a key is needed"))
        await page.evaluate("document.getElementById('key').value = 'schlüssel'; document.querySelector('#key-form button').click()")
        await page.until("document.getElementById('key-form').hidden && document.getElementById('model').value")
        await page.evaluate(f"{{ {given(next((bundle / 'golden').glob('*.png')).read_bytes(), 'drop')} }}")
        await page.until(answered("shapes, version 1"))

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

    async def steps(page: Page) -> None:
        async def hidden(name: str) -> Any:
            return await page.evaluate(f"document.getElementById('{name}').hidden")

        await page.until("document.getElementById('model').options.length === 3")
        assert [await hidden(name) for name in ("why-choice", "threshold-choice", "overlay-choice")] == [True, False, True]
        await page.evaluate(f"{{ {given(PICTURE, 'drop')} }}")
        await page.until(answered("boxes, version 1"))
        assert await page.evaluate("document.getElementById('summary').innerText") == "Found: 1 red, 1 green."
        side = "document.getElementById('shown').getBoundingClientRect()"
        for number, (left, top, right, bottom) in enumerate([(0.125, 0.25, 0.5, 0.75), (0.625, 0.5, 0.875, 1)]):
            box = f"[...document.querySelectorAll('.box')].at(-1 - {number}).getBoundingClientRect()"
            found = await page.evaluate(
                f"[{box}.left - {side}.left, {box}.top - {side}.top, {box}.right - {side}.left, {box}.bottom - {side}.top]"
            )
            width, height = await page.evaluate(f"[{side}.width, {side}.height]")
            assert found == pytest.approx([left * width, top * height, right * width, bottom * height], abs=4)
        assert await hidden("masks")
        names = await page.evaluate(
            "[...document.querySelectorAll('#details button')].map((button) => button.innerText.replace(/\\s+/g, ' '))"
        )
        assert names == ["1 red 90.0 % left, 180 × 160 pixels", "2 green 60.0 % lower right, 120 × 160 pixels"]
        await page.evaluate("document.querySelectorAll('#details button')[1].click()")
        assert await page.evaluate("[...document.querySelectorAll('.box')].map((box) => box.className)") == ["box chosen", "box other"]
        assert await page.evaluate("document.querySelectorAll('#details button')[1].getAttribute('aria-pressed')") == "true"
        await page.evaluate("document.getElementById('overlay').click()")
        assert await hidden("boxes")
        await page.evaluate("document.getElementById('overlay').click()")
        change = "document.getElementById('threshold').value = {}; document.getElementById('threshold').dispatchEvent(new Event('change'))"
        await page.evaluate(change.format(15))
        await page.until("document.querySelectorAll('.box').length === 3")
        await page.evaluate(change.format(95))
        await page.until(answered("Nothing was found of which the model is so sure."))
        await page.until("document.querySelectorAll('.box').length === 0")
        await page.evaluate(
            "{ const model = document.getElementById('model'); model.selectedIndex = 2; model.dispatchEvent(new Event('change')) }"
        )
        await page.until(answered("shapes, version 1"))
        assert [await hidden(name) for name in ("why-choice", "threshold-choice", "overlay-choice")] == [False, True, True]

    served = serve(f"boxes={patches['detection']}", f"masks={patches['instance']}", f"shapes={bundle}")
    visit(f"http://{served.address}/", steps)


def test_masks_and_maps_lie_over_the_image(visit: Any, serve: Callable[..., Served], patches: dict[str, Path]) -> None:
    async def steps(page: Page) -> None:
        await page.until("document.getElementById('model').options.length === 2")
        await page.evaluate(f"{{ {given(PICTURE, 'drop')} }}")
        await page.until(answered("masks, version 1"))
        inside = [(0.3, 0.5), (0.14, 0.27), (0.48, 0.73), (0.75, 0.75)]
        outside = [(0.1, 0.5), (0.3, 0.2), (0.52, 0.5), (0.3, 0.8), (0.8, 0.1), (0.6, 0.75)]
        assert all([await page.evaluate(alpha(*place)) > 50 for place in inside])
        assert not any([await page.evaluate(alpha(*place)) for place in outside])
        await page.evaluate("document.querySelectorAll('#details button')[1].focus()")
        await page.until(f"{alpha(0.3, 0.5)} < 50 && {alpha(0.75, 0.75)} > 120")
        await page.evaluate(
            "{ const model = document.getElementById('model'); model.selectedIndex = 1; model.dispatchEvent(new Event('change')) }"
        )
        await page.until(answered("map, version 1"))
        names = await page.evaluate("[...document.querySelectorAll('#details .name')].map((name) => name.innerText)")
        assert names == ["background", "red", "green", "blue"]
        assert await page.evaluate(alpha(0.81, 0.1)) > 50
        assert not await page.evaluate(alpha(0.6, 0.1)), "the background stays clear"
        await page.evaluate("document.querySelectorAll('#details button')[0].click()")
        assert await page.evaluate(alpha(0.6, 0.1)) > 120

    served = serve(f"masks={patches['instance']}", f"map={patches['semantic']}")
    visit(f"http://{served.address}/", steps)
