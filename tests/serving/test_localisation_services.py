"""Services of models that say where: boxes and masks of the image that was sent, tensors by Triton's client, and drift."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tritonclient.http as triton
from cli_runner import invoke
from fastapi.testclient import TestClient
from patches import COLOURS, PREPROCESSING, SPEC, file_of, picture, prepared, scattered, write_patches
from PIL import Image
from pycocotools import mask as coco

from planish.data.preprocessing import preprocess
from planish.export.bundle.folder import SEAL
from planish.export.bundle.reference import image_values
from planish.export.runtimes.registry import load
from planish.serving.http.app import service
from planish.serving.http.openapi import Prediction
from planish.serving.limits import Limits
from planish.serving.monitoring.drift import CLASSES, DriftSettings
from planish.serving.monitoring.monitor import monitor
from planish.serving.monitoring.recorder import LOG_FILE, LogSettings, Recorder
from planish.serving.monitoring.records import records
from planish.serving.serve import open_models

if TYPE_CHECKING:
    from conftest import Served

TASKS = ("detection", "instance", "semantic")
INDEPENDENT = DriftSettings(correlation_s=0)
RED, GREEN = (0.125, 0.25, 0.5, 0.75), (0.625, 0.5, 0.875, 1.0)


@pytest.fixture(scope="module")
def client(patches: dict[str, Path]) -> Iterator[TestClient]:
    with TestClient(service(open_models([f"{task}={folder}" for task, folder in patches.items()]), Limits())) as c:
        yield c


def ask(client: TestClient, task: str, data: bytes, **parameters: Any) -> dict[str, Any]:
    answer = client.post(f"/models/{task}/predict", content=data, params=parameters)
    assert answer.status_code == 200, answer.text
    said = answer.json()
    described = Prediction.model_validate(said, strict=True, extra="forbid")  # what the OpenAPI document says of it
    assert described.model_dump(by_alias=True, exclude_none=True) == said
    return dict(said)


def decoded(lengths: dict[str, Any]) -> np.ndarray:
    return coco.decode({**lengths, "counts": lengths["counts"].encode()}).astype(bool)


@pytest.mark.parametrize("size", [(480, 320), (1600, 1200), (60, 90)])  # the second is shrunk on the way, the others are not
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_boxes_are_in_the_pixels_of_the_image_that_was_sent(client: TestClient, size: tuple[int, int], kind: str) -> None:
    data = file_of(picture({"red": RED, "green": GREEN}, size, shape="rectangle"), kind)
    said = ask(client, "detection", data)
    assert (said["width"], said["height"]) == size
    assert [one["class"] for one in said["objects"]] == ["red", "green"]
    scale = np.array([*size, *size])
    for one, expected in zip(said["objects"], (RED, GREEN), strict=True):
        assert one["box"] == pytest.approx((np.array(one["shares"]) * scale).tolist(), abs=0.1)
        assert np.abs(np.array(one["shares"]) - expected).max() < 0.04
        assert "mask" not in one


def test_an_image_that_is_turned_by_its_exif_is_told_as_it_is_shown(client: TestClient) -> None:
    exif = Image.Exif()
    exif[274] = 6  # a quarter to the right
    upright = picture({"red": RED}, (320, 480), shape="rectangle")
    data = file_of(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95)
    assert Image.open(io.BytesIO(data)).size == (480, 320)
    said = ask(client, "instance", data)
    assert (said["width"], said["height"]) == (320, 480)
    assert said["objects"][0]["shares"] == pytest.approx(RED, abs=0.03)
    assert said["objects"][0]["mask"]["size"] == [480, 320]


def test_masks_and_regions_cover_the_patches(client: TestClient) -> None:
    image = picture({"red": RED, "green": GREEN}, (480, 320))
    colours = np.asarray(image).astype(int)
    truth = {name: colours[..., c] > colours.sum(axis=2) - colours[..., c] for c, name in enumerate(COLOURS[:2])}
    instances, regions = ask(client, "instance", file_of(image)), ask(client, "semantic", file_of(image))
    for one in [*instances["objects"], *regions["regions"][1:]]:
        found, expected = decoded(one["mask"]), truth[one["class"]]
        assert found.shape == (320, 480)
        assert (found & expected).sum() / (found | expected).sum() > 0.9
    assert [one["class"] for one in regions["regions"]] == ["background", "red", "green"]
    assert np.sum([decoded(one["mask"]) for one in regions["regions"]], axis=0).tolist() == np.ones((320, 480)).tolist()
    assert sum(one["share"] for one in regions["regions"]) == pytest.approx(1, abs=1e-5)
    assert 0.9 < regions["confidence"] < 1


def test_what_may_be_asked_for_depends_on_the_model(client: TestClient) -> None:
    data = file_of(picture({"red": RED, "blue": GREEN}))
    assert len(ask(client, "detection", data)["objects"]) == 1
    assert len(ask(client, "detection", data, threshold=0.1)["objects"]) == 2
    assert ask(client, "detection", data, threshold=0.95)["objects"] == []
    assert {model["name"]: model["options"] for model in client.get("/models").json()["models"]} == {
        "detection": ["threshold"], "instance": ["threshold"], "semantic": [],
    }  # fmt: skip
    for task, parameters in (("detection", "why=true"), ("semantic", "why=true"), ("semantic", "threshold=0.5")):
        answer = client.post(f"/models/{task}/predict?{parameters}", content=data)
        assert answer.status_code == 400
        assert "it may be asked for" in answer.json()["error"]
    for wrong in ("2", "-0.1", "nan", "inf", "x"):
        assert client.post(f"/predict?threshold={wrong}", content=data).status_code == 400


def test_metrics_count_every_object(patches: dict[str, Path]) -> None:
    with TestClient(service(open_models([f"patches={patches['detection']}"]))) as client:
        for _ in range(3):
            client.post("/predict", content=file_of(picture({"red": RED, "green": GREEN})))
        lines = client.get("/metrics").text.splitlines()
    found = {
        line.split('class="')[1].split('"')[0]: float(line.split()[-1]) for line in lines if line.startswith("planish_predictions_total{")
    }
    assert found == {"red": 3, "green": 3}


@pytest.mark.parametrize("task", TASKS)
def test_tritons_client_reads_every_output(task: str, patches: dict[str, Path], serve: Callable[..., Served]) -> None:
    client = triton.InferenceServerClient(serve(f"patches={patches[task]}").address)
    told = {one["name"]: one for one in client.get_model_metadata("patches")["outputs"]}
    images = np.concatenate([preprocess(data, SPEC, PREPROCESSING)[None] for data in scattered(5, seed=3)])
    expected = load([patches[task] / "model.onnx"], "onnxruntime")(images)
    given = triton.InferInput("images", list(images.shape), "UINT8")
    given.set_data_from_numpy(images)
    names = {"float32": "FP32", "int64": "INT64", "uint8": "UINT8"}
    for binary in (True, False):
        asked = [triton.InferRequestedOutput(name, binary_data=binary) for name in told]
        found = client.infer("patches", [given], outputs=asked)
        assert list(told) == list(expected)
        for name, values in expected.items():
            assert told[name]["datatype"] == names[values.dtype.name] == found.get_output(name)["datatype"]
            assert told[name]["shape"] == [-1, *values.shape[1:]]
            assert found.as_numpy(name).dtype == values.dtype
            np.testing.assert_allclose(found.as_numpy(name), values, rtol=1e-6)


@pytest.fixture(scope="module", params=TASKS)
def watched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With enough images for its reference."""
    return write_patches(tmp_path_factory.mktemp("watched") / request.param, request.param, scattered(250, seed=5))


def logged(bundle: Path, files: list[bytes], folder: Path) -> Path:
    """What a service writes of these files, without one."""
    (model,) = open_models([bundle])
    head = {"model": bundle.name, "version": "1", "bundle": (bundle / SEAL).read_text()[:12], "seconds": 0.01}
    folder.mkdir()
    with (folder / "predictions.jsonl").open("w") as file:
        for number, data in enumerate(files):
            pixels = preprocess(data, SPEC, PREPROCESSING)[None]
            (values,) = image_values(model.bundle.task, model.bundle.class_names, pixels, model.run(pixels), [data])
            file.write(json.dumps(head | {"time": 4e5 + number} | values) + "\n")
    return folder


def test_other_objects_are_noticed_and_the_same_are_not(watched: Path, tmp_path: Path) -> None:
    semantic = watched.name == "semantic"
    (same,) = monitor(logged(watched, scattered(150, seed=6), tmp_path / "same"), [watched], settings=INDEPENDENT)
    assert (same.images, same.drifted) == (150, [])
    (larger,) = monitor(logged(watched, scattered(150, seed=7, size=0.5), tmp_path / "larger"), [watched], settings=INDEPENDENT)
    assert ("share of green" if semantic else "object size") in larger.drifted
    (other,) = monitor(
        logged(watched, scattered(150, seed=8, colours=["green", "blue"]), tmp_path / "other"), [watched], settings=INDEPENDENT
    )
    if semantic:
        assert "share of red" in other.drifted
        assert "share of blue" not in other.drifted
    else:
        assert {CLASSES, "confidence", "objects"} <= set(other.drifted), "the confidence of green is less than that of red"
        assert "object size" not in other.drifted


def test_a_service_logs_what_it_watches(patches: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "log"
    with TestClient(service(open_models([patches["detection"]]), recorder=Recorder(LogSettings(folder), 1e6))) as client:
        for colours in ({"red": RED, "green": GREEN}, {}):
            assert client.post("/predict", content=file_of(picture(colours, shape="rectangle"))).status_code == 200
    two, none = sorted(records(folder), key=lambda record: record["time"])
    assert (two["objects"], none["objects"]) == (2, 0)
    assert two["class"] in ("red", "green")
    assert two["object size"] == pytest.approx((0.375 * 0.5 + 0.25 * 0.5) / 2, abs=0.01)
    assert two["confidence"] == pytest.approx(0.75, abs=1e-4)
    assert not {"class", "object size", "confidence"} & none.keys()


def test_images_worth_a_label_are_of_every_class_and_of_none(patches: dict[str, Path], tmp_path: Path) -> None:
    for task in TASKS:
        log = tmp_path / task
        with TestClient(service(open_models([patches[task]]), recorder=Recorder(LogSettings(log, images=50), 1e6))) as client:
            for number, data in enumerate((*scattered(12, seed=9), file_of(picture({}))), 1):
                assert client.post("/predict", content=data).status_code == 200
                # one after the other: what its thread is not ready for is passed over
                while not (log / LOG_FILE).exists() or len(list(records(log))) < number:
                    time.sleep(0.002)
        folder = tmp_path / f"{task}-out"
        printed = invoke(["label-candidates", str(log), "--out", str(folder), "--count", "6"]).stdout.split()
        assert printed[0] == "6"
        assert Path(printed[-1]).is_file(), "the file that is to be filled in or corrected"
        if task == "semantic":
            rows = list(csv.DictReader((folder / "labels.csv").open()))
            assert all(row["label"] == row["predicted"] == "" for row in rows)
            continue
        assert not (folder / "labels.csv").exists()
        written = json.loads((folder / "_annotations.coco.json").read_text())
        assert len(written["images"]) == 6
        names = {one["id"]: one["name"] for one in written["categories"]}
        assert set(names.values()) == {"red", "green"}
        assert {one["id"] for one in written["images"]} > {one["image_id"] for one in written["annotations"]}, "one holds nothing"
        with TestClient(service(open_models([patches[task]]))) as client:
            for image in written["images"]:
                said = client.post("/predict", content=(folder / image["file_name"]).read_bytes()).json()["objects"]
                boxes = [one for one in written["annotations"] if one["image_id"] == image["id"]]
                assert [(names[one["category_id"]], pytest.approx(one["score"], abs=1e-3)) for one in boxes] == [
                    (one["class"], one["confidence"]) for one in said
                ]
                for box, one in zip(boxes, said, strict=True):
                    left, top, right, bottom = one["box"]
                    assert box["bbox"] == pytest.approx([left, top, right - left, bottom - top], abs=0.05)


def test_batches_of_several_requests_are_told_apart(client: TestClient) -> None:
    images = np.concatenate([prepared(picture({"red": RED})), prepared(picture({"green": GREEN}))])
    request = {"inputs": [{"name": "images", "datatype": "UINT8", "shape": list(images.shape), "data": images.ravel().tolist()}]}
    outputs = {one["name"]: one for one in client.post("/v2/models/instance/infer", json=request).json()["outputs"]}
    assert [outputs[name]["datatype"] for name in ("boxes", "scores", "labels", "masks")] == ["FP32", "FP32", "INT64", "FP32"]
    assert np.array(outputs["labels"]["data"]).reshape(2, -1)[:, 0].tolist() == [0, 1]
