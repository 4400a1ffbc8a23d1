"""The local page in a headless Chromium: it is used by clicks and keys, at the width of a phone too."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import CHROMIUM, Page, browse
from report.fake_run import write_run

from planish.report import write_report
from planish.testing import write_shapes
from planish.ui.listen import listen

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page on a folder with one finished run, served from a thread."""
    folder, told = tmp_path_factory.mktemp("runs"), list[str]()
    (folder / "first" / "work").mkdir(parents=True)
    (folder / "first" / "store.sqlite").touch()
    write_run(folder / "first")
    write_report(folder / "first")
    write_shapes(folder / "shapes", per_class=5, size=24)
    threading.Thread(target=listen, args=(folder, 0), kwargs={"open_browser": False, "watch": told.append}, daemon=True).start()
    for _ in range(100):
        if told:
            break
        time.sleep(0.1)
    return told[0].partition(" ")[0]


def test_it_is_used_by_clicks(address: str, tmp_path: Path) -> None:
    async def steps(page: Page) -> None:
        await page.call("Network.enable")
        await page.call("Page.navigate", url=address)
        await page.until("document.querySelector('h1')?.textContent === 'Runs'")
        assert "token" not in await page.evaluate("location.href"), "the secret does not stay in the address"
        await page.evaluate("document.querySelector('tbody a').click()")
        await page.until("document.querySelector('#would-ship')?.textContent.includes('×')")
        before = await page.evaluate("document.querySelector('#would-ship').textContent")
        await page.evaluate(
            "{ const slider = document.querySelector('#limit'); slider.value = 5; slider.dispatchEvent(new Event('input')) }"
        )
        assert await page.evaluate("document.querySelectorAll('tr.would').length") == 1
        after = await page.evaluate("document.querySelector('#would-ship').textContent")
        assert after >= before
        await page.evaluate("[...document.querySelectorAll('a')].find((one) => one.textContent === 'Open the report').click()")
        await page.until("document.title && location.pathname === '/runs/report' && document.readyState === 'complete'")
        await page.evaluate("history.back()")
        await page.until("!!document.querySelector('nav a[href=\"/new\"]')")
        await page.evaluate("document.querySelector('nav a[href=\"/new\"]').click()")
        await page.until("!!document.querySelector('#data')")
        await page.evaluate("document.querySelector('#data').focus()")
        await page.call("Input.insertText", text="shapes")
        await page.until("document.querySelector('#look pre')?.textContent.startsWith('planish optimize shapes')")
        assert not page.happened("Runtime.exceptionThrown")
        asked = [event["request"]["url"] for event in page.happened("Network.requestWillBeSent")]
        assert not [url for url in asked if not url.startswith(("http://127.0.0.1:", "data:"))], "no other host is asked"

    browse(tmp_path / "profile", steps)


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_cut_off(address: str, tmp_path: Path, width: int) -> None:
    async def steps(page: Page) -> None:
        await page.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
        await page.call("Page.navigate", url=address)
        for path in ("/", "/runs?id=first", "/compare?id=first", "/new"):
            await page.call("Page.navigate", url=address.partition("?")[0].rstrip("/") + path)
            await page.until("document.readyState === 'complete' && !!document.querySelector('h1')")
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
            controls = "[...document.querySelectorAll('input:not([type=hidden]), button, a')]"
            named = "one.labels?.length || one.textContent.trim() || one.getAttribute('aria-label')"
            unnamed = f"{controls}.filter((one) => !({named})).length"
            assert await page.evaluate(unnamed) == 0, f"a control of {path} has no name"

    browse(tmp_path / "profile", steps)
