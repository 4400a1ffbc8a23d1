"""Entry points of packages that are not installed, for tests of extensions to Planish."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from planish import technique
from planish.export.runtimes import registry as runtimes
from planish.models import factories
from planish.task import installed_tasks

_CACHES = (technique.registered, runtimes.registered, factories.installed_models, installed_tasks)


@contextmanager
def entry_points(folder: Path, groups: Mapping[str, Mapping[str, str]]) -> Iterator[None]:
    """Make a package in ``folder`` with these entry points importable as if it were installed, in this process, until the block ends.

    Args:
        folder: an empty folder; modules placed in it can be imported, too.
        groups: names and ``MODULE:OBJECT`` by group, as in ``pyproject.toml``: ``{"planish.tasks": {"numbers": "my_package:Numbers"}}``.
    """
    described = folder / "planish_test_package-0.0.dist-info"
    described.mkdir(parents=True)
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: planish-test-package\nVersion: 0.0\n")
    lines = [line for group, names in groups.items() for line in (f"[{group}]", *(f"{name} = {value}" for name, value in names.items()))]
    (described / "entry_points.txt").write_text("\n".join(lines) + "\n")
    sys.path.insert(0, str(folder))
    _forget()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        _forget()


def _forget() -> None:
    """Clear Python's import caches and the caches of installed extensions."""
    importlib.invalidate_caches()
    for cached in _CACHES:
        cached.cache_clear()
