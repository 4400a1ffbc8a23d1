"""Check that the Chinese pages of the documentation are up to date with the English ones.

python tools/translations.py                                  # lists those whose English page changed after they were translated
python tools/translations.py --revised docs/zh/start/onnx.md  # after a page was revised: stores the hash of its English page
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

PROJECT = Path(__file__).parent.parent
CHINESE = PROJECT / "docs" / "zh"

_FRONT_MATTER = re.compile(r"\A---\nenglish: (\w+)\n---\n+")
_SNIPPET = re.compile(r'^--8<-- "(README\.md):(\w+)"$', re.MULTILINE)
_WHAT_TO_DO = "revise each, then run: python tools/translations.py --revised PAGE ..."


def main(arguments: list[str]) -> int:
    """List outdated pages, or store hashes of revised ones; return the exit code."""
    if arguments[:1] == ["--revised"] and arguments[1:]:
        for name in arguments[1:]:
            mark_revised(Path(name).resolve())
        return 0
    if arguments:
        print(__doc__)
        return 2
    found = outdated()
    print("\n".join([*found, _WHAT_TO_DO] if found else ["all Chinese pages are up to date"]))
    return int(bool(found))


def translated(folder: Path = CHINESE) -> list[Path]:
    """Return the Chinese pages."""
    return sorted(folder.rglob("*.md"))


def english_page(page: Path, folder: Path = CHINESE) -> Path:
    """Return the path of the English page that a Chinese page is a translation of."""
    return folder.parent / page.relative_to(folder)


def body(page: Path) -> str:
    """Return the text of a Chinese page without its front matter."""
    return _FRONT_MATTER.sub("", page.read_text(encoding="utf-8"))


def english_text(page: Path, folder: Path = CHINESE) -> str:
    """Return the text of the English page, with the sections of the README that it includes, unless the Chinese page includes them too."""
    readme = (folder.parents[1] / "README.md").read_text(encoding="utf-8")
    own = set(_SNIPPET.findall(body(page)))

    def section(found: re.Match[str]) -> str:
        if found.groups() in own:
            return found[0]
        start, end = (f"<!-- --8<-- [{mark}:{found[2]}] -->" for mark in ("start", "end"))
        return readme.partition(start)[2].partition(end)[0].strip()

    return _SNIPPET.sub(section, english_page(page, folder).read_text(encoding="utf-8"))


def outdated(folder: Path = CHINESE) -> list[str]:
    """Return one line per Chinese page that was not revised after its English page changed, or whose English page is gone."""
    problems = []
    for page in translated(folder):
        english, stored = english_page(page, folder), _FRONT_MATTER.match(page.read_text(encoding="utf-8"))
        name, source = (one.relative_to(folder.parents[1]) for one in (page, english))
        if not english.is_file():
            problems.append(f"{name}: there is no {source}")
        elif stored is None or stored[1] != _hash(page, folder):
            problems.append(f"{name}: {source} has changed")
    return problems


def mark_revised(page: Path, folder: Path = CHINESE) -> None:
    """Store the hash of the English page in the front matter of a Chinese page."""
    page.write_text(f"---\nenglish: {_hash(page, folder)}\n---\n\n{body(page)}", encoding="utf-8")


def _hash(page: Path, folder: Path) -> str:
    return hashlib.sha256(english_text(page, folder).encode()).hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
