"""The Chinese pages say what the English ones say: none is out of date, and they have the same headings, blocks, code, links and tables."""

from __future__ import annotations

import posixpath
import re
import shutil
import sys
from pathlib import Path

import pytest
from blocks import CHINESE, DOCS, GENERATED, PROJECT

sys.path.insert(0, str(PROJECT / "tools"))

import chinese_site
import translations

NAMES = {str(page.relative_to(CHINESE)): page for page in translations.translated()}
EVERY_PAGE = pytest.mark.parametrize("page", NAMES.values(), ids=NAMES)
_LINK = re.compile(r"\]\(([^)]+)\)")
_HAN = "\u4e00-\u9fff"


def prose(text: str) -> str:
    return "\n".join(line for line, is_code in chinese_site.marked_lines(text) if not is_code)


def code(text: str) -> list[str]:
    return [line for line, is_code in chinese_site.marked_lines(text) if is_code]


def links(text: str, folder: str) -> list[str]:
    """Addresses and paths of all links, paths relative to ``docs/``."""
    return sorted(link if re.match(r"[a-z]+:|#", link) else posixpath.normpath(f"{folder}/{link}") for link in _LINK.findall(prose(text)))


def test_no_english_page_has_changed_since_it_was_translated() -> None:
    assert not (found := translations.outdated()), "\n".join([*found, "revise each, then run: python tools/translations.py --revised PAGE"])


@EVERY_PAGE
def test_a_translation_has_the_parts_of_its_source(page: Path) -> None:
    chinese, english = translations.body(page), translations.english_text(page)
    assert [level for level, _ in chinese_site.headings(chinese)] == [level for level, _ in chinese_site.headings(english)]
    assert code(chinese) == code(english)
    assert set(re.findall(r"`[^`]+`", prose(chinese))) == {" ".join(one.split()) for one in re.findall(r"`[^`]+`", prose(english))}
    rows = [[line.count("|") for line in prose(text).splitlines() if line.startswith("|")] for text in (chinese, english)]
    assert rows[0] == rows[1]


@EVERY_PAGE
def test_a_translation_links_where_its_source_links(page: Path) -> None:
    folder = page.relative_to(CHINESE).parent.as_posix()
    found = links(translations.body(page), f"zh/{folder}")
    for link in found:
        inside = link.partition("#")[0]
        if not re.match(r"[a-z]+:|#", link):
            assert (DOCS / inside).exists() or DOCS / inside in GENERATED, f"{page.name}: there is no {link}"
            assert inside.startswith("zh/") or not (CHINESE / inside).exists(), f"{page.name}: {link} is translated, link to it in docs/zh"
    assert sorted(link.removeprefix("zh/") for link in found) == links(translations.english_text(page), folder)


@EVERY_PAGE
def test_punctuation_is_chinese_and_a_paragraph_is_one_line(page: Path) -> None:
    """A line break between two characters would be shown as a space."""
    text = re.sub(r"`[^`]*`", "x", prose(translations.body(page)))
    assert re.findall(rf"[{_HAN}][,;:?!]|[{_HAN}]\.(?:\s|$)|[{_HAN}] [{_HAN}]", text, re.MULTILINE) == []
    assert re.findall(rf".*[{_HAN}，。；：、]\n[{_HAN}].*", text) == []


def test_a_change_of_the_english_page_is_found_until_the_translation_is_revised(tmp_path: Path) -> None:
    chinese = tmp_path / "docs" / "zh" / "a.md"
    chinese.parent.mkdir(parents=True)
    english, readme = tmp_path / "docs" / "a.md", tmp_path / "README.md"
    readme.write_text("x\n<!-- --8<-- [start:how] -->\nIt works.\n<!-- --8<-- [end:how] -->\nOther text.\n")
    english.write_text('# Title\n\n--8<-- "README.md:how"\n')
    chinese.write_text("# 标题\n\n它能用。\n", encoding="utf-8")
    folder = chinese.parent
    assert translations.outdated(folder) == ["docs/zh/a.md: docs/a.md has changed"]
    translations.mark_revised(chinese, folder)
    assert translations.outdated(folder) == []
    assert translations.body(chinese) == "# 标题\n\n它能用。\n"
    for file, old, new in ((english, "Title", "Heading"), (readme, "works", "is fast")):
        file.write_text(file.read_text().replace(old, new))
        assert translations.outdated(folder) == ["docs/zh/a.md: docs/a.md has changed"]
        translations.mark_revised(chinese, folder)
        assert translations.outdated(folder) == []
    readme.write_text(readme.read_text().replace("Other text", "Another text"))  # the page does not include it
    assert translations.outdated(folder) == []
    english.unlink()
    assert translations.outdated(folder) == ["docs/zh/a.md: there is no docs/a.md"]


def test_sections_that_both_pages_include_may_change(tmp_path: Path) -> None:
    folder = tmp_path / "docs" / "zh"
    folder.mkdir(parents=True)
    shutil.copy(PROJECT / "README.md", tmp_path)
    for file in (tmp_path / "docs" / "a.md", folder / "a.md"):
        file.write_text('# A\n\n--8<-- "README.md:demo"\n')
    translations.mark_revised(folder / "a.md", folder)
    (tmp_path / "README.md").write_text("another output")
    assert translations.outdated(folder) == []


def test_links_and_anchors_of_the_built_page(tmp_path: Path) -> None:
    folder = tmp_path / "docs" / "zh"
    (folder / "guides").mkdir(parents=True)
    (tmp_path / "docs" / "guides").mkdir()
    (tmp_path / "docs" / "guides" / "a.md").write_text("# Page\n\n## A `--risk` taken\n")
    page = folder / "guides" / "a.md"
    page.write_text("# 页\n\n## `--risk`\n\n[x](b.md#c) [y](../start/d.md) ![z](../../images/e.png) [w](https://f.org)\n", encoding="utf-8")
    assert chinese_site.site_page(page, folder).splitlines()[2:] == [
        "## `--risk` {#a-risk-taken}", "", "[x](b.md#c) [y](../start/d.md) ![z](../images/e.png) [w](https://f.org)"
    ]  # fmt: skip
    assert chinese_site.site_link("../benchmarks.md", ".") == "benchmarks.md"


def test_the_configuration_is_made_from_the_english_one() -> None:
    text = (PROJECT / "zensical.toml").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="has 0 times"):
        chinese_site.configuration(text.replace('"Concepts"', '"Ideas"'))
