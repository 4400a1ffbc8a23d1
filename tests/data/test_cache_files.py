"""Entries of the cache appear whole, and what killed processes left is deleted."""

import os

from planish.data.cache import files as cache


def test_only_temporary_folders_of_killed_processes_are_deleted(tmp_path) -> None:
    left, users = tmp_path / f"partial-{'0' * 32}", tmp_path / "partial-labels"
    for folder in (left, users):
        folder.mkdir()
        os.utime(folder, (0, 0))
    with cache.whole(tmp_path / "tiles"):
        pass
    assert users.is_dir()
    assert not left.exists()


def test_two_that_make_the_same_thing(tmp_path) -> None:
    final = tmp_path / "x" / "final"
    with cache.whole(final) as one, cache.whole(final) as two:
        (one / "f").write_text("one")
        (two / "f").write_text("two")
    assert (final / "f").read_text() == "two"
    assert [p.name for p in final.parent.iterdir()] == ["final"]
