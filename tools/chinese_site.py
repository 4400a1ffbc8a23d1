"""Write the sources of the Chinese site: all pages of the documentation, in Chinese where there is a translation in ``docs/zh``.

python tools/chinese_site.py    # `make docs` runs it; writes build/docs-zh and zensical.zh.toml
"""

from __future__ import annotations

import posixpath
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from markdown.extensions.toc import slugify
from translations import PROJECT, body, english_page, translated

# What differs from zensical.toml. Titles of pages come from the pages.
_CHANGES = {
    'site_description = "Makes convolutional networks accurate, small and fast, and proves it by measurement."':
        'site_description = "让卷积网络又准、又小、又快，并用实测数据证明。"',
    ">Source on GitHub<": ">GitHub 源码<",
    'docs_dir = "docs"': 'docs_dir = "build/docs-zh"',
    'site_dir = "build/site"': 'site_dir = "build/site/zh"',
    'language = "en"': 'language = "zh"',
    'link = ""': 'link = "../"',
    'link = "zh/"': 'link = ""',
    '"As the system: switch to light"': '"跟随系统：切换到浅色"',
    '"Light: switch to dark"': '"浅色：切换到深色"',
    '"Dark: switch to the system\'s"': '"深色：切换到跟随系统"',
    '{"Start here" =': '{"入门" =',
    '{"Guides" =': '{"指南" =',
    '{"Tasks" =': '{"任务" =',
    '{"Accuracy" =': '{"精度" =',
    '{"Speed and size" =': '{"速度与体积" =',
    '{"Deployment" =': '{"部署" =',
    '{"Extending" =': '{"扩展" =',
    '{"Concepts" =': '{"原理" =',
    '{"Reference" =': '{"参考（多为英文）" =',
    '{"Decisions" =': '{"设计决策" =',
    '{"Benchmarks" =': '{"基准测试（英文）" =',
}  # fmt: skip
_FENCE = re.compile(r"^```")
_HEADING = re.compile(r"^(#{1,6}) (.+)$")
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")


def main(root: Path = PROJECT) -> int:
    """Write the pages and the configuration, and return the exit code."""
    target, chinese = root / "build" / "docs-zh", root / "docs" / "zh"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(root / "docs", target, ignore=shutil.ignore_patterns("zh"))
    for page in translated(chinese):
        (target / page.relative_to(chinese)).write_text(site_page(page, chinese), encoding="utf-8")
    english = (root / "zensical.toml").read_text(encoding="utf-8")
    (root / "zensical.zh.toml").write_text(configuration(english), encoding="utf-8")
    return 0


def configuration(text: str) -> str:
    """Return the configuration of the Chinese site, made from that of the English one.

    Raises:
        ValueError: a string that would be translated is not in it.
    """
    for old, new in _CHANGES.items():
        if text.count(old) != 1:
            raise ValueError(f"zensical.toml has {text.count(old)} times {old}; change it in {Path(__file__).name} as well")
        text = text.replace(old, new)
    return text


def site_page(page: Path, folder: Path) -> str:
    """Return a Chinese page as it is built in place of the English one: links lead to pages beside it, anchors are those in English."""
    place = page.relative_to(folder).parent.as_posix()
    anchors = [slugify(title, "-") for _, title in headings(english_page(page, folder).read_text(encoding="utf-8"))]
    lines, count = [], 0
    for line, is_code in marked_lines(body(page)):
        if not is_code:
            line = _LINK.sub(lambda found: site_link(found[1], place), line)
            if _HEADING.match(line):
                line += f" {{#{anchors[count]}}}" * (count > 0)
                count += 1
        lines.append(line)
    return "\n".join(lines) + "\n"


def site_link(target: str, place: str) -> str:
    """Return a link of a Chinese page without the step out of ``docs/zh``, where it has one.

    Args:
        target: path of the link, relative to the page.
        place: folder of the page, relative to ``docs/zh``.
    """
    path = posixpath.normpath(posixpath.join(place, target))
    return posixpath.relpath(path.removeprefix("../"), place) if path.startswith("../") else target


def headings(text: str) -> list[tuple[int, str]]:
    """Return level and title of each heading."""
    found = [_HEADING.match(line) for line, is_code in marked_lines(text) if not is_code]
    return [(len(one[1]), one[2]) for one in found if one]


def marked_lines(text: str) -> Iterator[tuple[str, bool]]:
    """Yield each line, and whether it belongs to a fenced block."""
    is_code = False
    for line in text.splitlines():
        is_fence = bool(_FENCE.match(line))
        yield line, is_code or is_fence
        is_code ^= is_fence


if __name__ == "__main__":
    sys.exit(main())
