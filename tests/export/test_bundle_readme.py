"""The lines in a bundle's README: few, plain Python, and the same outputs as the bundle's own, whatever kind of image they are given."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_fakes import CLASSES, FakeTask, Images
from PIL import Image
from torch import nn

from planish.artifact import Artifact, InputSpec, Lineage, Preprocessing, Source
from planish.errors import RuntimeMissingError
from planish.evaluation.torch_predictor import TorchPredictor
from planish.export import Pack, ToExecuTorch, ToLiteRt, ToOnnx, ToOpenVino, ToStableHlo, ToTorchExport
from planish.export.bundle.folder import write_bundle
from planish.export.bundle.readme import readme
from planish.export.litert_file import converter_python
from planish.export.runtimes.registry import find
from planish.plan import Plan
from planish.settings import DeploymentTarget

_REPLAY = """
import sys
class Absent:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent)
import numpy
found = []
for image in sys.argv[2:]:
    sys.argv[1:] = [image]
    names = {{}}
    exec(open({code!r}).read(), names)
    found.append(names["logits"])
numpy.save({out!r}, numpy.concatenate(found))
"""


class OddImages(Images):
    """Rotated, transparent, grey, one-bit, CMYK, wide, tall, tiny, and one that fits already."""

    def __init__(self) -> None:
        rng = np.random.default_rng(5)

        def noise(height: int, width: int, channels: int) -> Any:
            return np.kron(rng.integers(0, 256, (-(-height // 5), -(-width // 5), channels)), np.ones((5, 5, 1)))[:height, :width].astype(
                "u1"
            )

        def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
            file = io.BytesIO()
            image.save(file, kind, **options)
            return file.getvalue()

        turned = Image.Exif()
        turned[274] = 6
        colours = Image.fromarray(noise(40, 53, 3)).quantize(8)
        self.files = [
            saved(Image.fromarray(noise(71, 44, 3)), "JPEG", exif=turned),
            saved(Image.fromarray(noise(50, 61, 4))),
            saved(colours, "GIF", transparency=2),
            saved(Image.fromarray(noise(48, 37, 4), "CMYK"), "TIFF"),
            saved(Image.fromarray(noise(33, 47, 1)[..., 0] > 90)),
            saved(Image.fromarray(noise(30, 90, 2), "LA")),
            saved(Image.fromarray(noise(19, 150, 3))),
            saved(Image.fromarray(noise(150, 19, 1)[..., 0])),
            saved(Image.fromarray(noise(3, 2, 3))),
            saved(Image.fromarray(noise(24, 20, 3))),
        ]
        self.targets = np.arange(len(self.files)) % 3
        self.keys = [f"{i}.png" for i in range(len(self.files))]


def exported(channels: Any, resize: Any, steps: Sequence[Any], task: FakeTask) -> Artifact:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(channels, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(160, 3))
    how = Preprocessing(36, resize, (0.4,) * channels, (0.2,) * channels)
    artifact = Artifact("torch", InputSpec(channels, 24, 20), how, CLASSES, Lineage(Source("module", 3, channels)), module=net.eval())
    return Plan(*steps).apply(artifact, task)


def replay(folder: Path, tmp_path: Path, absent: Sequence[str]) -> tuple[Any, str]:
    """What the README's lines make of the golden images, in a process that cannot import what is absent; and what they print."""
    lines = (folder / "README.md").read_text().split("```python\n")[1].split("\n```")[0]
    assert len(lines.splitlines()) <= 12
    assert all(len(line) <= 140 for line in lines.splitlines())
    (tmp_path / "lines.py").write_text(lines)
    program = _REPLAY.format(absent=absent, code=str(tmp_path / "lines.py"), out=str(tmp_path / "found.npy"))
    golden = sorted(f"golden/{file.name}" for file in (folder / "golden").iterdir() if file.suffix != ".npz")
    done = subprocess.run([sys.executable, "-I", "-c", program, "", *golden], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return np.load(tmp_path / "found.npy"), done.stdout


FORMATS: dict[str, tuple[tuple[Any, ...], str]] = {
    "onnx": ((ToOnnx(),), "onnxruntime"),
    "onnx in openvino": ((ToOnnx(),), "openvino"),
    "openvino": ((ToOnnx(), ToOpenVino()), "openvino"),
    "packed": ((ToOnnx(), Pack()), "onnxruntime"),
    "packed in openvino": ((ToOnnx(), Pack()), "openvino"),
    "torch_export": ((ToTorchExport(),), "torch"),
    "litert": ((ToLiteRt(),), "litert"),
    "litert, INT8": ((ToLiteRt(int8=True),), "litert"),
    "executorch": ((ToExecuTorch(),), "executorch"),
    "stablehlo": ((ToStableHlo(),), "jax"),
}


@pytest.mark.parametrize(
    ("form", "resize", "channels"),
    [*(("onnx", r, c) for r in ("squash", "crop") for c in (1, 3)), *((f, "crop", 3) for f in list(FORMATS)[1:])],
)
def test_the_lines_give_the_golden_outputs(tmp_path: Path, form: str, resize: str, channels: int) -> None:
    steps, runtime = FORMATS[form]
    try:
        find(runtime)
        if runtime == "litert":
            converter_python()
    except RuntimeMissingError as error:
        pytest.skip(str(error))
    task = FakeTask()
    task.splits["validation"] = OddImages()
    artifact = exported(channels, resize, steps, task)
    folder = write_bundle(artifact, task, tmp_path / "b", target=DeploymentTarget(runtime), measurements={}, golden=20)
    own = () if artifact.format == "packed" else ("planish",)  # packed files are Planish's own
    torch_itself = () if runtime in ("torch", "executorch") else ("torch",)
    found, printed = replay(folder, tmp_path, (*own, *torch_itself, "torchvision"))
    with np.load(folder / "golden" / "expected.npz") as saved:
        expected = saved["logits"]
    assert np.abs(expected - expected.mean(axis=0)).max() > 0.1, "the images differ"
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert printed.split() == [CLASSES[i] for i in expected.argmax(axis=1)]


class Pixels(nn.Module):
    """Tells pixels apart, and reads that itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Any) -> Any:
        return 9 * self.layer(x)

    def decode(self, outputs: Any) -> Any:
        confidence, classes = outputs.softmax(1).max(1)
        return {"classes": classes.to(torch.uint8), "confidence": confidence}


@pytest.mark.parametrize("form", ["onnx", "torch_export", "litert", "executorch", "stablehlo"])
def test_the_lines_read_several_outputs_by_name(tmp_path: Path, form: str) -> None:
    steps, runtime = FORMATS[form]
    try:
        find(runtime)
        if runtime == "litert":
            converter_python()
    except RuntimeMissingError as error:
        pytest.skip(str(error))
    torch.manual_seed(0)
    how = Preprocessing(36, "squash", (0.4,) * 3, (0.2,) * 3)
    before = Artifact("torch", InputSpec(3, 24, 20), how, CLASSES, Lineage(Source("module", 3, 3)), module=Pixels().eval())
    task, images = FakeTask(), Images(4, seed=0)
    after = Plan(*steps).apply(before, task)
    lines = readme(after, "semantic", runtime).split("```python\n")[1].split("\n```")[0]
    assert len(lines.splitlines()) <= 12
    assert all(len(line) <= 140 for line in lines.splitlines())
    expected = TorchPredictor(before.module, how)(images.images(before.input_spec, how))["classes"]
    assert len(np.unique(expected)) == 3
    (tmp_path / "bundle.json").write_text(json.dumps({"files": [str(after.files[0])], "class_names": CLASSES}))
    for number, classes in enumerate(expected):
        (tmp_path / "image.png").write_bytes(images.file_bytes(number))
        done = subprocess.run([sys.executable, "-I", "-c", lines, "image.png"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said = [line.split() for line in done.stdout.splitlines() if line.startswith(CLASSES)]
        shares = np.bincount(classes.ravel(), minlength=3) / classes.size
        assert {name: float(share) for name, share in said} == pytest.approx(
            {name: share for name, share in zip(CLASSES, shares, strict=True) if share}
        )
