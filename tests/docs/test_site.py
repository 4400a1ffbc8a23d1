"""The built site: links and anchors lead somewhere, nothing comes from another host, pages fit a phone, and search finds pages."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from blocks import CHINESE, DOCS, PAGES, PROJECT
from chromium import CHROMIUM, Page, browse

sys.path.insert(0, str(PROJECT / "tools"))

import chinese_site
import error_catalogue
import reference

pytest.importorskip("zensical")
_FETCHED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("source", "src")}
_HOME = "https://github.com/planish/planish/"


class Links(HTMLParser):
    """Everything that a page refers to, and everything in it that can be referred to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str, str]] = []
        self.anchors: set[str] = set()
        self.without_text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {value for key in ("id", "name") if (value := given.get(key))}
        self.found += [(tag, key, value) for key in ("href", "src") if (value := given.get(key))]
        if tag == "img" and not given.get("alt"):
            self.without_text.append(str(given.get("src")))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site in both languages, built from a copy of the sources, since the generated pages are written beside the others."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(DOCS, folder / "docs")
    for name in ("zensical.toml", "README.md"):
        shutil.copy(PROJECT / name, folder)
    (folder / "planish").symlink_to(PROJECT / "planish")
    reference.main(folder / "docs" / "reference")
    chinese_site.main(folder)
    for configuration in ("zensical.toml", "zensical.zh.toml"):
        command = [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", configuration]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "build" / "site"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Links]:
    return {file: Links(file.read_text(encoding="utf-8")) for file in site.rglob("*.html")}


def test_every_link_and_anchor_leads_somewhere(site: Path, pages: dict[Path, Links]) -> None:
    checked, broken = 0, []
    for page, links in pages.items():
        if page.name == "404.html":  # is shown at any address
            continue
        for tag, _, url in links.found:
            parts = urlsplit(url)
            if parts.scheme or parts.netloc or (tag == "link" and not parts.path):
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            checked += 1
            if not target.is_file():
                broken.append(f"{page.relative_to(site)}: {url}")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                broken.append(f"{page.relative_to(site)}: {url} has no such anchor")
    assert not broken
    assert checked > 1000


def test_links_to_the_repository_name_files_in_it(pages: dict[Path, Links]) -> None:
    urls = {url for links in pages.values() for _, _, url in links.found if url.startswith((f"{_HOME}tree/main/", f"{_HOME}blob/main/"))}
    assert urls
    assert [url for url in urls if not (PROJECT / url.removeprefix(_HOME).split("/", 2)[2].partition("#")[0]).exists()] == []


def test_nothing_is_fetched_from_another_host(site: Path, pages: dict[Path, Links]) -> None:
    fetched = [url for links in pages.values() for tag, key, url in links.found if (tag, key) in _FETCHED]
    assert fetched
    assert [url for url in fetched if urlsplit(url).netloc] == []
    styles = "".join(file.read_text(encoding="utf-8") for file in site.rglob("*.css"))
    assert not re.search(r"""(?:@import|url\()\s*["']?(?:https?:)?//""", styles)


def test_every_page_is_in_the_navigation() -> None:
    def listed(entry: Any) -> set[str]:
        inner = entry.values() if isinstance(entry, dict) else entry
        return {entry} if isinstance(entry, str) else set().union(*map(listed, inner))

    nav = listed(tomllib.loads((PROJECT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"])
    generated = {f"reference/{name}.md" for name in ("commands", "errors", "files", "plans", "recipes")}
    assert nav == {str(page.relative_to(DOCS)) for page in PAGES} | generated | {"decisions/README.md"}


def test_a_page_links_to_itself_in_the_other_language(site: Path, pages: dict[Path, Links]) -> None:
    for page, links in pages.items():
        inside = page.relative_to(site)
        if page.name == "404.html":
            continue
        chinese = inside.parts[0] == "zh"
        other = site / inside.relative_to("zh") if chinese else site / "zh" / inside
        found = {(page.parent / url).resolve() for tag, key, url in links.found if (tag, key) == ("a", "href")}
        assert other.resolve() in found, inside
        assert f'<html lang="{"zh" if chinese else "en"}"' in page.read_text(encoding="utf-8")


def test_the_chinese_site_has_the_translations(site: Path) -> None:
    translations = sorted(CHINESE.rglob("*.md"))
    assert translations
    for page in translations:
        title = next(line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("# "))
        built = (site / "zh" / page.relative_to(CHINESE)).with_suffix(".html").read_text(encoding="utf-8")
        assert re.search(rf"<h1[^>]*>{re.escape(title[2:])}<", built), page.name


def test_pictures_are_small_and_described(site: Path, pages: dict[Path, Links]) -> None:
    pictures = [file for file in site.joinpath("images").iterdir() if file.suffix in (".png", ".svg", ".webp", ".jpg")]
    assert pictures
    assert [file.name for file in pictures if file.stat().st_size >= 200_000] == []
    assert [url for links in pages.values() for url in links.without_text] == []


def test_errors_are_in_the_catalogue_as_they_are_raised() -> None:
    from planish.errors import DataError, PlanError
    from planish.plan import Plan

    found = error_catalogue.messages()
    with pytest.raises(PlanError) as raised:
        Plan.from_dicts([{"name": "chanel_pruning"}])
    said = "no technique is called '…'"
    assert str(raised.value).startswith("no technique is called 'chanel_pruning'")
    assert any(message.startswith(said) for message, _ in found[PlanError.__name__])
    assert len(found[DataError.__name__]) > 100


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_in_a_browser(site: Path, pages: dict[Path, Links], tmp_path: Path) -> None:
    """Without a web server: no request leaves, pages fit a phone, search answers, and the colours follow the system."""

    async def steps(page: Page) -> None:
        await page.call("Network.enable")
        await page.call("Page.enable")

        async def visit(file: Path) -> None:
            await page.call("Page.navigate", url=file.as_uri())
            await page.until(f"document.readyState === 'complete' && location.pathname.endsWith({file.name!r})")

        for width, mobile in ((390, True), (1280, False)):
            await page.call("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=mobile)
            for file in pages:
                inside = file.relative_to(site)
                translated = inside.parts[0] != "zh" or (CHINESE / inside.relative_to("zh")).with_suffix(".md").exists()
                if translated and "decisions" not in file.parts and file.name != "404.html":
                    await visit(file)
                    assert await page.evaluate("document.documentElement.scrollWidth") <= width, file.name
        for scheme, name in (("dark", "slate"), ("light", "default")):
            await page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            await visit(site / "index.html")
            await page.until(f"document.body.getAttribute('data-md-color-scheme') === {name!r}")
        await search(page, "noise floor", "report.html")
        await visit(site / "zh" / "index.html")
        await search(page, "噪声基底", "latency.html")
        requests = [event["request"]["url"] for event in page.happened("Network.requestWillBeSent")]
        assert len(requests) > 100
        assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
        assert not page.happened("Runtime.exceptionThrown")

    browse(tmp_path / "profile", steps)


async def search(page: Page, words: str, result: str) -> None:
    """Type words into the search, whose dialog is a shadow tree, and wait for a page that has them."""
    await page.evaluate("document.querySelector('.md-search__button, [for=__search]').click()")
    shadow = "document.activeElement.shadowRoot"
    await page.until(f"{shadow}?.activeElement?.tagName === 'INPUT'")
    await page.call("Input.insertText", text=words)
    await page.until(f"[...{shadow}.querySelectorAll('a')].some((link) => link.href.includes({result!r}))")
