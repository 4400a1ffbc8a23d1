"""``planish explain`` as people use it: on all that is a model, and on what is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runner import invoke
from nets import Samples, artifact, convolutions, foreign
from PIL import Image
from rich.console import Console

import planish
from planish.artifact import Artifact
from planish.compression import Int8
from planish.explanation.result import Explanation
from planish.export import Pack, ToOnnx, ToOpenVino
from planish.export.bundle.folder import write_bundle
from planish.models.storage import save_artifact
from planish.report.pages.explanation import explanation
from planish.settings import DeploymentTarget


class Task(Samples):
    """With image files, which a bundle keeps as golden samples."""

    name, keys = "classification", tuple(f"a/{i}.png" for i in range(16))

    def file_bytes(self, index: int) -> bytes:
        import io

        file = io.BytesIO()
        Image.fromarray(self.pixels[index]).save(file, "PNG")
        return file.getvalue()


def run(*arguments: object, code: int = 0) -> str:
    result = invoke(["explain", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output if code else result.stdout


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A saved torch model, its fp32 and INT8 bundles in both formats, a run's folder."""
    folder, task = tmp_path_factory.mktemp("bundles"), Task(32)
    any_task: Any = task
    torch_artifact = artifact("resnet8", 32)
    float_ = ToOnnx().apply(torch_artifact, any_task)
    int8 = replace(Int8.for_device(), calibration_images=16).apply(float_, any_task)
    save_artifact(torch_artifact, folder / "model")

    def write(name: str, made: Artifact, runtime: str) -> None:
        write_bundle(made, any_task, folder / name, target=DeploymentTarget(runtime), measurements={})

    write("fp32", float_, "onnxruntime")
    write("int8", int8, "onnxruntime")
    write("packed", Pack().apply(int8, any_task), "onnxruntime")
    write("run/bundle", ToOpenVino().apply(int8, any_task), "openvino")
    return {path.name: path for path in folder.iterdir()}


def test_json_holds_all_of_it(bundles: dict[str, Path]) -> None:
    found = json.loads(run(bundles["int8"], "--json"))
    assert found["runtime"] == "onnxruntime"
    assert found["findings"] == []
    assert 15 < found["errors"]["final_db"] < 80
    assert found["errors"]["images"] == 16
    assert found["preprocessing_ms"] > 0
    layers = [x for x in found["layers"] if x["kind"] == "convolution"]
    assert len(layers) == 9
    assert all(x["precision"] == "int8" and x["ms"] > 0 and x["gops"] > 0 and x["snr_db"] for x in layers)
    assert sum(found["kinds_ms"].values()) == pytest.approx(found["latency_ms"])


@pytest.mark.parametrize(
    ("name", "options", "runtime"),
    [
        ("model", (), "onnxruntime"),
        ("model", ("--runtime", "openvino"), "openvino"),
        pytest.param("fp32", ("--batch", 2), "onnxruntime", marks=pytest.mark.slow),
        ("run", (), "openvino"),
        ("int8", ("--reference", "fp32"), "onnxruntime"),
        ("packed", (), "onnxruntime"),
    ],
)
def test_every_kind_of_model(bundles: dict[str, Path], name: str, options: tuple[object, ...], runtime: str) -> None:
    given = [bundles.get(str(option), option) for option in options]
    found = json.loads(run(bundles[name], *given, "--json"))
    assert found["runtime"] == runtime
    assert len([x for x in found["layers"] if x["macs"]]) == 10
    if name in ("run", "int8", "packed"):
        assert found["errors"]["final_db"] > 10
        assert ("unrounded" in found["errors"]["reference"]) == (name != "int8")


@pytest.mark.parametrize("width", [80, 120])
def test_the_page_fits_the_terminal(bundles: dict[str, Path], width: int) -> None:
    found = planish.explain(bundles["int8"])
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(explanation(found, width=width))
    text = console.export_text()
    assert all(len(line) <= width for line in text.splitlines())
    assert "nothing found" in text
    assert "GOP/s" in text
    for row in sorted(found.layers, key=lambda x: -x.ms)[:12]:
        assert (row.source or row.name)[-8:] in text, "the end of a name tells layers apart"


def test_it_prints_in_python(bundles: dict[str, Path]) -> None:
    found = planish.explain(bundles["fp32"])
    assert isinstance(found, Explanation)
    assert "10 in fp32" in str(found)
    assert "no finding" in str(planish.explain(bundles["int8"]))


def test_mistakes_are_told_in_a_line(bundles: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no protobuf")
    (tmp_path / "broken.xml").write_text("<net/>")
    (tmp_path / "empty").mkdir()
    theirs = foreign(convolutions(8), 24, tmp_path / "theirs.onnx")
    np.save(tmp_path / "wrong.npy", np.zeros((2, 24, 24, 3), dtype=np.uint8))
    cases = [
        ((tmp_path / "none.onnx",), "does not exist"),
        ((tmp_path / "empty",), "neither a bundle"),
        ((tmp_path / "broken.onnx",), "cannot open"),
        ((tmp_path / "broken.xml",), "cannot open"),
        ((theirs, "--batch", 4), "batches of 1 only"),
        ((theirs, "--data", tmp_path / "empty"), "npy"),
        ((theirs, "--data", tmp_path / "wrong.npy"), "takes float32"),
        ((bundles["fp32"], "--threads", 0), "at least 1"),
        ((bundles["fp32"], "--runtime", "opnvino"), "opnvino"),
        ((bundles["fp32"], "--setting", "f32"), "NAME=VALUE"),
        ((bundles["run"], "--setting", "NO_SUCH=1"), "NO_SUCH"),
        ((bundles["int8"], "--reference", theirs), "same inputs"),
    ]
    for arguments, message in cases:
        output = " ".join(run(*arguments, code=2).split())
        assert "error:" in output, arguments
        assert message in output, (arguments, output)
