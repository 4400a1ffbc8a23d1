"""Which network to start from: what is too slow is left out, what transfers better comes first, and nothing is measured twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cli_runner import invoke

import planish
from planish.datacentric.backbones import CANDIDATES, BackboneResult, Backbones
from planish.errors import ModelError
from planish.measurement import Measurement
from planish.models.weights.pretrained import licence_of, weights_of_each
from planish.models.zoo import create, names
from planish.report.pages.backbones import recommendation
from planish.testing import write_shapes

FACTORIES = """
from torch import nn

def wide(num_classes, channels):
    return nn.Sequential(*_body(channels, 24), nn.Linear(24, num_classes))

def narrow(num_classes, channels):
    return nn.Sequential(*_body(channels, 2), nn.Linear(2, num_classes))

def slow(num_classes, channels):
    return nn.Sequential(*_body(channels, 512), nn.Linear(512, num_classes))

def broken(num_classes, channels):
    raise ValueError("no such layer")

def _body(channels, width):
    return [nn.Conv2d(channels, width, 5, 2, 2), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbones")
    write_shapes(folder / "shapes", per_class=40, size=24)
    (folder / "nets.py").write_text(FACTORIES)
    (folder / "weights").mkdir()
    torch.manual_seed(0)
    for name in ("wide", "narrow", "slow"):
        module = create(f"{folder}/nets.py:{name}", num_classes=3, channels=3, image_size=24).module
        torch.save(module.state_dict(), folder / "weights" / f"{name}.pth")
    return folder


def of(place: Path, *given: str) -> list[str]:
    return [f"{place}/nets.py:{name}" for name in given]


def test_it_measures_ranks_and_resumes(place: Path, tmp_path: Path) -> None:
    out, seen = tmp_path / "out", list[int]()
    options = {
        "candidates": of(place, "narrow", "broken", "wide"), "weights": place / "weights", "out": out,
        "runtime": "onnxruntime",
    }  # fmt: skip
    found = planish.backbones(place / "shapes", watch=lambda networks: seen.append(len(networks)), **options)
    assert seen == sorted(seen)
    assert [one.name.rpartition(":")[2] for one in found.backbones] == ["wide", "narrow", "broken"], "two channels see less than 24"
    wide, narrow, broken = found.backbones
    assert "no such layer" in broken.left_out
    for one in (wide, narrow):
        assert one.latency.keys() == one.size.keys() == {"fp32", "int8"}
        assert one.probe is not None
        assert one.accuracy is not None
        assert one.rounds >= 1
        assert one.weights.endswith(".pth")
    assert wide.parameters > narrow.parameters
    assert wide.probe.value > narrow.probe.value
    assert Backbones.load(out / "backbones.json") == found
    page = (out / "backbones.html").read_text()
    assert recommendation(found) in page.replace("&#39;", "'")
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")

    again = planish.backbones(place / "shapes", resume=True, **options)
    assert [one.latency for one in again.backbones] == [one.latency for one in found.backbones]
    assert [one.accuracy for one in again.backbones] == [one.accuracy for one in found.backbones]


def test_what_is_too_slow_or_too_large_is_left_out(place: Path, tmp_path: Path) -> None:
    words = ["backbones", str(place / "shapes"), "--weights", "none", "--runtime", "onnxruntime", "--max-size", "100kB", "--json"]
    given = [f"--candidate={name}" for name in of(place, "slow", "narrow")]
    done = invoke([*words, *given, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    narrow, slow = found["backbones"]
    assert narrow["name"].endswith("narrow")
    assert narrow["left_out"] == ""
    assert slow["left_out"] == "not within 0.1 MB, in fp32 or INT8"
    assert narrow["probe"] is narrow["accuracy"] is None, "without weights features say nothing"


def _network(name: str, ms: float, accuracy: float | None = None, **more: object) -> BackboneResult:
    measured = None if accuracy is None else Measurement("accuracy", accuracy, "%", 100, True, accuracy - 2, accuracy + 2)
    return BackboneResult(name, latency={"int8": Measurement("latency_ms", ms, "ms", 10, False)}, accuracy=measured, **more)  # type: ignore[arg-type]


def _found(*networks: BackboneResult, as_good: list[str] | None = None, limit: float | None = 5.0) -> Backbones:
    return Backbones(
        name="x", created="", command="", machine={}, data="photos", runtime="openvino", threads=1, batch=1, max_latency_ms=limit,
        max_size_bytes=None, noise_floor=Measurement("noise", 1.0, "%", 10, False), backbones=list(networks), as_good=as_good or [],
    )  # fmt: skip


def test_the_recommendation_names_a_faster_network_that_is_as_good() -> None:
    first, second, third = _network("a", 4.0, 91.0), _network("b", 2.0, 90.5), _network("c", 6.0, left_out="not within 5 ms")
    assert recommendation(_found(first, second, third)) == "Start from a, 4.00 ms in INT8: 91.00 % on validation, fine-tuned."
    assert "b is faster (2.00 ms), and its accuracy is no difference" in recommendation(_found(first, second, third, as_good=["b"]))
    worse = _network("e", 4.0, 72.0, probe=Measurement("accuracy", 85.0, "%", 100, True))
    assert "too short for e, below the linear classifier" in recommendation(_found(first, worse))
    assert recommendation(_found(third)).startswith("No network is within 5 ms; the fastest is c, 6.00 ms in INT8.")
    assert "ranked by latency alone: the fastest within 5 ms is d" in recommendation(_found(_network("d", 1.0)))


def test_weights_of_a_folder_and_what_is_wrong_with_it(tmp_path: Path) -> None:
    (tmp_path / "resnet18.safetensors").touch()
    assert weights_of_each(tmp_path, ["timm:resnet18", "timm:resnet34"]) == {
        "timm:resnet18": tmp_path / "resnet18.safetensors", "timm:resnet34": None,
    }  # fmt: skip
    assert weights_of_each("none", ["a"]) == {"a": None}
    with pytest.raises(ModelError, match="no weights of these networks"):
        weights_of_each(tmp_path, ["timm:lcnet_050"])
    with pytest.raises(ModelError, match="is no folder"):
        weights_of_each(tmp_path / "weights", ["timm:lcnet_050"])


def test_unknown_networks_and_other_tasks_are_named(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="resnet81"):
        planish.backbones(place / "shapes", candidates=["resnet81"], weights="none", out=tmp_path / "out")
    with pytest.raises(ModelError, match="is no folder"):
        planish.backbones(place / "shapes", weights=tmp_path / "nowhere", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_default_candidates_exist_and_timm_states_a_licence() -> None:
    known = set(names())
    assert all(name in known for name in CANDIDATES)
    assert licence_of("timm:lcnet_050") == "apache-2.0"
    assert licence_of("timm:lcnet_050.ra2_in1k") == "apache-2.0"
    assert licence_of("torchvision:resnet18") == ""
