"""A job lists a folder, or parses its annotations, once, however often it loads the images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planish import commands
from planish.data import load_images, require_classes, task_in
from planish.data.sources import reading
from planish.data.sources.reading import CachedSource
from planish.testing import write_shapes

SMALL: dict[str, Any] = {"model": "resnet8x0.5", "changes": ["augmentation=none", "batch_size=16"], "epochs": 1}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    real = reading._read

    def counted(named: Any, *rest: Any) -> Any:
        found.append(str(named))
        return real(named, *rest)

    monkeypatch.setattr(reading, "_read", counted)
    return found


@pytest.mark.parametrize(
    "job",
    [
        lambda data, out: commands.train(data, out=out, **SMALL),
        lambda data, out: commands.crossval(data, out=out, folds=2, repeats=2, **SMALL),
        lambda data, out: commands.experiment(data, out=out, vary=["activation=relu,elu"], seeds=2, **SMALL),
        lambda data, out: commands.label_issues(data, out=out, folds=2, **SMALL),
    ],
    ids=["train", "crossval", "experiment", "label_issues"],
)
def test_a_job_reads_its_data_once(job: Callable[[Path, Path], Any], reads: list[str], tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "shapes", per_class=12, size=16)
    job(data, tmp_path / "out")
    assert reads == [str(data)]


def test_what_is_left_out_is_counted_anew_each_time(tmp_path: Path, reads: list[str]) -> None:
    data = write_shapes(tmp_path / "shapes", per_class=8)
    (data / "disc" / "broken.png").write_bytes(b"no image")
    once = CachedSource(str(data))
    assert task_in(once) == "classification"
    require_classes(once, "a test")
    found = [load_images(once, skip_bad=True).report.model_dump(mode="json")["inventory"] for _ in range(2)]
    assert found[0] == found[1]
    assert sum(one["count"] for one in found[0]["left_out"]) == 1
    assert reads == [str(data)]
