"""The commands in the help and in a bundle's README, as they stand there, in a shell."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from planish.commands.deployment.serve import serve as command

if TYPE_CHECKING:
    from conftest import Served

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def curls(text: str) -> list[str]:
    return [line.strip().removeprefix("$ ") for line in text.splitlines() if "curl " in line]


@pytest.fixture
def photos(bundle: Path, tmp_path: Path) -> Path:
    golden = next((bundle / "golden").glob("*.png"))
    for name in ("photo.jpg", "other.jpg"):
        shutil.copyfile(golden, tmp_path / name)
    Image.open(golden).save(tmp_path / "photo.bmp")
    return tmp_path


def test_the_examples_are_answered(serve: Callable[..., Served], bundle: Path, photos: Path) -> None:
    served = serve(f"model={bundle}")
    examples = curls(command.__doc__ or "") + curls((bundle / "README.md").read_text())
    assert len(examples) == 8
    examples += [found[1] for found in re.finditer("try: (curl.*)", served.log.read_text())]
    for example in examples:
        line = example.replace("localhost:8000", served.address).replace("/NAME:", "/model:")
        done = subprocess.run(["sh", "-c", line], cwd=photos, capture_output=True, text=True, timeout=60)
        answer = json.loads(done.stdout)
        found = answer.get("predictions", [answer])
        assert [one["class"] for one in found] == [found[0]["class"]] * (2 if "other.jpg" in example else 1), (example, answer)
