"""The record of splits: what is written is read, damage is refused, and of several models an image is in train if any was trained on it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from planish.errors import BundleError
from planish.split_assignment import SplitAssignment, assignment_beside, combined


def hashes(*names: str) -> np.ndarray:
    return np.stack([np.frombuffer(hashlib.sha256(name.encode()).digest(), np.uint8) for name in names])


def test_what_is_written_is_read_and_names_no_file(tmp_path: Path) -> None:
    kept = SplitAssignment.of(hashes("a", "b", "c", "c"), ["train", "test", "test", "validation"], 7)
    kept.save(tmp_path / "splits.json")
    assert SplitAssignment.load(tmp_path / "splits.json") == kept
    assert kept.find(hashes("b", "a", "new", "c")) == ["test", "train", None, "validation"], "of copies the one nearer to training counts"
    assert kept.counts() == {"train": 1, "validation": 1, "test": 1}
    assert hashlib.sha256(b"a").hexdigest()[:16] in (tmp_path / "splits.json").read_text()
    later = SplitAssignment.of(hashes("a", "new"), ["test", "test"], 0)
    assert kept.updated(later).find(hashes("a", "new")) == ["train", "test"], "nothing moves"


@pytest.mark.parametrize("content", ["", "[]", '{"a.png": "train"}', '{"schema_version": 1, "seed": 0, "train": []}'])
def test_damage_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "splits.json").write_text(content)
    with pytest.raises(BundleError, match=r"splits\.json"):
        assignment_beside(tmp_path)


def test_where_it_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = SplitAssignment.of(hashes("a"), ["train"], 0)
    (tmp_path / "work" / "original").mkdir(parents=True)
    kept.save(tmp_path / "splits.json")
    (tmp_path / "model.onnx").touch()
    monkeypatch.chdir(tmp_path)
    for place in (tmp_path, tmp_path / "model.onnx", tmp_path / "work" / "original", Path("model.onnx"), Path("work/original")):
        assert assignment_beside(place) == kept, place
    for place in (Path("imagenet"), tmp_path / "work"):
        assert assignment_beside(place) is None, place


def test_what_any_model_was_trained_on_is_in_train() -> None:
    first = SplitAssignment.of(hashes("a", "b", "c"), ["train", "test", "test"], 3)
    second = SplitAssignment.of(hashes("a", "b", "d"), ["test", "validation", "test"], 4)
    both = combined([None, first, second])
    assert both is not None
    assert both.find(hashes("a", "b", "c", "d")) == ["train", "validation", "test", "test"]
    assert both.seed == 3
    assert combined([None]) is None
