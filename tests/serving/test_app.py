"""What the service answers: to good requests what the bundle promised, to bad ones an error of the client's, never one of its own."""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from service_log import service_log

from planish.artifact import InputSpec, Preprocessing
from planish.errors import BundleError
from planish.files.workspace import replace_folder
from planish.serving.batching import Batcher
from planish.serving.health import Health
from planish.serving.http.app import service
from planish.serving.http.protocol import HEADER_LENGTH
from planish.serving.limits import Limits
from planish.serving.model import ServedModel
from planish.serving.models import Entry, Models
from planish.serving.occlusion import covered, lost, seen_region
from planish.serving.serve import _shares, open_models


@pytest.fixture(scope="module")
def client(bundle: Path) -> Iterator[TestClient]:
    with TestClient(service(open_models([f"shapes={bundle}", f"shapes@2={bundle}"]), Limits(max_bytes=200_000, max_pixels=100_000))) as c:
        yield c


def golden(bundle: Path) -> tuple[list[bytes], np.ndarray, list[str]]:
    described = json.loads((bundle / "bundle.json").read_text())
    with np.load(bundle / "golden" / "expected.npz") as saved:
        return [(bundle / name).read_bytes() for name in described["golden_samples"]], saved["logits"], described["class_names"]


def tensor(client: TestClient, count: int = 1, **changes: Any) -> dict[str, Any]:
    shape = client.get("/v2/models/shapes").json()["inputs"][0]["shape"][1:]
    one = {"name": "images", "datatype": "UINT8", "shape": [count, *shape], "data": [7] * (count * int(np.prod(shape)))}
    return {"inputs": [one | changes]}


def test_image_files_get_the_answers_the_bundle_knows(client: TestClient, bundle: Path) -> None:
    files, logits, names = golden(bundle)
    for data, expected in zip(files, logits, strict=True):
        said = client.post("/predict", content=data)
        assert said.status_code == 200
        shares = np.exp(expected - expected.max()) / np.exp(expected - expected.max()).sum()
        assert said.json()["class"] == names[int(expected.argmax())]
        assert {c["name"]: c["confidence"] for c in said.json()["classes"]} == pytest.approx(
            dict(zip(names, shares, strict=True)), abs=1e-4
        )
        assert client.post("/models/shapes/predict?version=2", content=data).json()["version"] == "2"


def test_the_parts_that_carry_the_answer_are_found() -> None:
    """A model that looks at one corner: covering anything else costs nothing."""
    image = np.zeros((1, 16, 16, 1), np.uint8)
    image[0, 10:, 10:] = 200
    found = np.array(lost(200.0, [float(part[12, 12, 0]) for part in covered(image)]))
    assert found.shape == (8, 8)
    assert (found[5:8, 5:8].sum() > 0, found[:5].max(), found[:, :5].max()) == (True, 0.0, 0.0)


def test_why_is_told_where_it_is_asked_for(client: TestClient, bundle: Path) -> None:
    data = golden(bundle)[0][0]
    said = client.post("/predict?why=true", content=data).json()
    assert np.shape(said["why"]) == (8, 8)
    assert said["region"] == [0, 0, 1, 1]
    assert "why" not in client.post("/predict", content=data).json()


def test_the_region_of_a_crop_is_its_middle() -> None:
    crop = Preprocessing(64, "crop", (0.5,), (0.5,))
    assert seen_region(100, 200, InputSpec(1, 32, 32), crop) == (0.25, 0, 0.5, 1)
    assert seen_region(100, 50, InputSpec(1, 32, 32), crop) == (0, 0.25, 1, 0.5)


def test_the_protocol_in_json_and_in_binary(client: TestClient) -> None:
    request = tensor(client, 3)
    plain = client.post("/v2/models/shapes/infer", json=request | {"id": "seven"}).json()
    assert (plain["id"], plain["outputs"][0]["shape"][0]) == ("seven", 3)
    values = np.array(request["inputs"][0].pop("data"), np.uint8)
    request["inputs"][0]["parameters"] = {"binary_data_size": values.nbytes}
    head = json.dumps(request | {"parameters": {"binary_data_output": True}}).encode()
    answer = client.post("/v2/models/shapes/versions/1/infer", content=head + values.tobytes(), headers={HEADER_LENGTH: str(len(head))})
    length = int(answer.headers[HEADER_LENGTH])
    found = np.frombuffer(answer.content[length:], np.float32)
    assert json.loads(answer.content[:length])["outputs"][0]["parameters"]["binary_data_size"] == found.nbytes
    assert found == pytest.approx(plain["outputs"][0]["data"])


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"}, {"datatype": "FP32"}, {"shape": [1, 2, 3]}, {"shape": [-1, 16, 16, 1]}, {"shape": "x"}, {"shape": [1e9]},
        {"data": [1, 2]}, {"data": [[1], [2, 3]]}, {"data": ["a"]}, {"data": None}, {"data": [float("nan")]}, {"data": [300] * 256},
        {"parameters": {"binary_data_size": 12}}, {"parameters": {"binary_data_size": -1}}, {"parameters": {"binary_data_size": "12"}},
    ],
)  # fmt: skip
def test_wrong_tensors_are_the_clients_fault(client: TestClient, changes: dict[str, Any]) -> None:
    answer = client.post("/v2/models/shapes/infer", content=json.dumps(tensor(client, **changes)))
    assert answer.status_code == 400
    assert answer.json()["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"[" * 100_000, b'{"inputs": []}', b'{"inputs": 3}', b"\xff\xfe"])
def test_what_is_no_request(client: TestClient, body: bytes) -> None:
    assert client.post("/v2/models/shapes/infer", content=body).status_code == 400
    assert client.post("/predict", content=body).status_code == 400


@pytest.mark.parametrize("length", ["-1", "x", "99999999", "²", ""])
def test_wrong_header_lengths(client: TestClient, length: str) -> None:
    answer = client.post("/v2/models/shapes/infer", content=b"{}", headers={HEADER_LENGTH: length.encode()})
    assert answer.status_code == 400


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 400), st.integers(0, 255))
def test_damaged_images_are_refused_or_answered(client: TestClient, bundle: Path, noise: bytes, place: int, value: int) -> None:
    data = bytearray(golden(bundle)[0][0])
    data[place % len(data)] = value
    for body in (bytes(data), bytes(data[:place]), noise, bytes(data[:50]) + noise):
        assert client.post("/predict", content=body).status_code in (200, 400)


def test_limits(client: TestClient) -> None:
    large = io.BytesIO()
    Image.new("RGB", (400, 300)).save(large, "PNG")
    assert client.post("/predict", content=large.getvalue()).status_code == 400, "more pixels than allowed"
    assert client.post("/predict", content=b"x" * 200_001).status_code == 413


def test_names_and_versions_that_are_not_there(client: TestClient) -> None:
    for path in ("/v2/models/other", "/v2/models/shapes/versions/3", "/v2/models/other/ready"):
        assert client.get(path).status_code == 404
    assert client.post("/models/..%2f/predict", content=b"x").status_code == 404
    assert client.post("/models/shapes/predict?version=9", content=b"x").status_code == 404


def test_health_metadata_and_metrics(client: TestClient) -> None:
    assert client.get("/v2/health/ready").status_code == 200
    found = client.get("/v2/models/shapes").json()
    assert found["versions"] == ["1", "2"]
    before = client.get("/metrics").text
    client.post("/predict", content=b"no image")
    after = client.get("/metrics").text
    line = 'planish_requests_total{model="shapes",status="400",version="1"}'
    count = [float(next((row.split()[-1] for row in text.splitlines() if row.startswith(line)), "0")) for text in (before, after)]
    assert count[1] == count[0] + 1


def test_the_page_asks_nobody_else(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    parts = [page.text, *(client.get(f"/page/{name}").text for name in ("page.js", "places.js", "page.css"))]
    assert all("http://" not in part and "https://" not in part for part in parts)
    assert [model["version"] for model in client.get("/models").json()["models"]] == ["1", "2"]
    assert client.get("/page/..%2fapp.py").status_code == 404


def test_keys(bundle: Path) -> None:
    with TestClient(service(open_models([bundle]), Limits(keys=("one", "two")))) as client:
        assert client.get("/v2").status_code == 401
        assert client.get("/v2", headers={"Authorization": "Bearer three"}).status_code == 401
        assert client.get("/v2", headers={"Authorization": "Bearer two"}).status_code == 200
        assert client.get("/v2", headers={"X-API-Key": "one"}).status_code == 200
        assert client.get("/v2/health/live").status_code == 200


@pytest.mark.parametrize(("parameters", "message"), [
    ({"classification": -1}, "number of classes"), ({"classification": True}, "number of classes"),
    ({"classification": "2"}, "number of classes"), ({"class_count": 2}, "'classification'"),
])  # fmt: skip
def test_classification_is_refused_where_it_is_no_number(client: TestClient, parameters: dict[str, Any], message: str) -> None:
    answer = client.post("/v2/models/shapes/infer", json=tensor(client) | {"outputs": [{"name": "logits", "parameters": parameters}]})
    assert (answer.status_code, message in answer.json()["error"]) == (400, True)


def test_classification_is_refused_of_outputs_that_are_no_classes(patches: dict[str, Path]) -> None:
    with TestClient(service(open_models([f"shapes={patches['detection']}"]))) as client:
        output = client.get("/v2/models/shapes").json()["outputs"][0]["name"]
        asked = {"outputs": [{"name": output, "parameters": {"classification": 2}}]}
        assert "a value for each" in client.post("/v2/models/shapes/infer", json=tensor(client) | asked).json()["error"]


def test_other_sites_may_ask_where_they_are_named(bundle: Path) -> None:
    """Preflight requests bring no key; credentials are never allowed."""
    site, key = "https://example.com", {"X-API-Key": "one"}
    preflight = {"Origin": site, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,x-api-key"}

    def allowed(answer: Any) -> str | None:
        assert "access-control-allow-credentials" not in answer.headers
        found: str | None = answer.headers.get("access-control-allow-origin")
        return found

    data = golden(bundle)[0][0]
    for origins, expected in (((), None), ((site, "http://localhost:3000"), site), (("*",), "*"), (("https://example.org",), None)):
        with TestClient(service(open_models([f"shapes={bundle}"]), Limits(keys=("one",), cors_origins=origins))) as client:
            asked = client.options("/predict", headers=preflight)
            assert allowed(asked) == expected
            assert (asked.status_code == 200) == (expected is not None)
            if expected is not None:
                assert "POST" in asked.headers["access-control-allow-methods"]
                assert "x-api-key" in asked.headers["access-control-allow-headers"].lower()
            answer = client.post("/predict", content=data, headers={"Origin": site, **key})
            assert (answer.status_code, allowed(answer)) == (200, expected)
            refused = client.post("/predict", content=data, headers={"Origin": site})
            assert (refused.status_code, allowed(refused)) == (401, expected), "a page can read why"
            assert allowed(client.get("/v2/health/live", headers={"Origin": "https://evil.example"})) == ("*" if "*" in origins else None)
    for wrong in (
        "example.com",
        "https://example.com/",
        "https://example.com/page",
        "null",
        "https://a.example,https://b.example",
        "",
        "https://*.a",
    ):
        with pytest.raises(BundleError, match="origin"):
            Limits(cors_origins=(wrong,))


def test_a_changed_bundle_is_not_served(bundle: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(bundle, tmp_path / "mine"))
    (mine / "model.onnx").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"model\.onnx was changed"):
        open_models([mine])
    with pytest.raises(BundleError, match="two bundles"):
        open_models([bundle, bundle])


def test_a_canary_answers_its_share(bundle: Path) -> None:
    models = open_models([f"shapes={bundle}", f"shapes@2={bundle}", f"other={bundle}"])

    def start(model: ServedModel) -> Entry:
        return Entry(model, Batcher(model.run, max_batch=1, max_queue=1), Health(model, lambda reason: None))

    served = Models(models, start, {("shapes", "2"): 0.25})
    found = [served.find("shapes") for _ in range(4000)]
    assert 0.2 < sum(entry.model.version == "2" for entry in found if entry) / len(found) < 0.3
    assert all(served.find("shapes", "1") is entry for entry in found if entry and entry.model.version == "1")
    for share in ({("shapes", "3"): 0.1}, {("shapes", "2"): 1.5}, {("shapes", "1"): 0.6, ("shapes", "2"): 0.6}):
        with pytest.raises(BundleError):
            Models(models, start, share)


def test_canary_shares_that_are_1_in_decimals_are_accepted(bundle: Path) -> None:
    models = open_models([f"shapes@{version}={bundle}" for version in range(4)])
    start = partial(Entry, batcher=cast(Any, None), health=cast(Any, None))
    shares = {("shapes", "1"): 0.33, ("shapes", "2"): 0.56, ("shapes", "3"): 0.11}  # one after the other in floats: more than 1
    assert (0.33 + 0.56) + 0.11 > 1
    served = Models(models, start, shares)
    assert "0" not in {entry.model.version for entry in (served.find("shapes") for _ in range(200)) if entry}


def test_a_version_has_one_share() -> None:
    with pytest.raises(BundleError, match=r"shirts@2 is given two shares"):
        _shares(["shirts@2=0.5", "shirts@2=0.25"])


def test_a_bundle_that_is_replaced_while_the_service_starts_is_served(bundle: Path, other_bundle: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(bundle, tmp_path / "mine"))
    data, models = golden(bundle)[0][0], open_models([f"mine={mine}"])
    with TestClient(service(models)) as client:
        old = client.post("/predict", content=data).json()
    replace_folder(mine, Path(shutil.copytree(other_bundle, tmp_path / "next")))
    with TestClient(service(models, reload_s=0.02)) as client:
        end = time.monotonic() + 10
        while (found := client.post("/predict", content=data).json()) == old and time.monotonic() < end:
            time.sleep(0.02)
    assert found != old


def test_a_newer_bundle_is_exchanged_and_a_broken_one_is_not(bundle: Path, other_bundle: Path, tmp_path: Path) -> None:
    """Every request is answered by the old model or by the new one, and the new one answers in the end."""
    mine, other = (Path(shutil.copytree(one, tmp_path / name)) for one, name in ((bundle, "mine"), (other_bundle, "other")))
    data = golden(bundle)[0][0]

    def answer(of: Path) -> dict[str, Any]:
        with TestClient(service(open_models([f"mine={of}"]))) as c:
            return dict(c.post("/predict", content=data).json())

    old, new = answer(mine), answer(other)
    assert old["classes"] != new["classes"]
    with service_log() as lines, TestClient(service(open_models([f"mine={mine}"]), reload_s=0.05)) as client:
        broken = Path(shutil.copytree(other, tmp_path / "broken"))
        (broken / "model.onnx").write_bytes(b"x")
        replace_folder(mine, broken)
        while not any("is not served" in line for line in lines):
            assert client.post("/predict", content=data).json() == old
        replace_folder(mine, other)
        found: dict[str, Any] = {}
        while found != new:
            answered = client.post("/predict", content=data)
            assert answered.status_code == 200
            found = answered.json()
            assert found in (old, new)


@pytest.mark.parametrize(
    "path", ["/", "/v2/health/live", "/v2/health/ready", "/v2/models/shapes/ready", "/v1/models", "/metrics", "/nowhere"]
)
def test_head_is_answered_as_get_without_a_body(bundle: Path, path: str) -> None:
    with TestClient(service(open_models([bundle]))) as client:
        got, head = client.get(path), client.head(path)
    assert (head.status_code, head.headers["content-type"], head.content) == (got.status_code, got.headers["content-type"], b"")


def test_head_of_what_takes_post_is_refused(bundle: Path) -> None:
    with TestClient(service(open_models([bundle]))) as client:
        assert client.head("/predict").status_code == 405
