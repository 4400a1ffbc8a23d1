"""Tensors in JSON: read as JSON says, in little memory, in small steps and beside other requests."""

from __future__ import annotations

import json
import threading
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.errors import DataError
from planish.serving.http import protocol
from planish.serving.http.app import service
from planish.serving.http.protocol import read_request, response_parts, write_response
from planish.serving.serve import open_models

SHAPE = (3, 2, 1)


def request(data: str, count: int = 1, shape: tuple[int, ...] = SHAPE, extra: str = "") -> bytes:
    return (
        f'{{"id": "x", "inputs": [{{"name": "images", "datatype": "UINT8", "shape": {[count, *shape]}, "data": {data}{extra}}}]}}'
    ).encode()


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(1, 4), st.booleans(), st.integers(5, 60), st.sampled_from([None, 0, 2]))
def test_numbers_are_those_that_json_says(data: st.DataObject, count: int, nested: bool, size: int, indent: int | None) -> None:
    values = np.array(data.draw(st.lists(st.integers(0, 255), min_size=6 * count, max_size=6 * count)), np.uint8)
    values = values.reshape(count, *SHAPE)
    text = json.dumps((values if nested else values.ravel()).tolist(), indent=indent)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(protocol, "_SLICE", size)
        found, whole = read_request(request(text, count), None, SHAPE, 10)
        assert np.array_equal(found, values)
        assert whole["id"] == "x"
        first = request(text, count).replace(b'"id": "x", ', b"").replace(b'"name": "images", ', b"")
        reordered = first.replace(b"}]}", b', "name": "images"}], "id": "\\"data\\": [1]"}')
        again, whole = read_request(reordered, None, SHAPE, 10)
        assert np.array_equal(again, values)
        assert whole["id"] == '"data": [1]'


@pytest.mark.parametrize(
    "text",
    ["[1, 2, 3, 4, 5]", "[1, 2, 3, 4, 5, 6, 7]", "[1 2, 3, 4, 5, 6, 7]", "[[1][2], 3, 4, 5, 6]", "[1,, 2, 3, 4, 5, 6]", "[1, 2, 3, 4, 5, 6",
     "[]", "[[], 1, 2, 3, 4, 5, 6]", "[1, 2, 3, 4, 5, 256]", "[1, 2, 3, 4, 5, -1]", "[1, 2, 3, 4, 5, 6.5]", "[true, 2, 3, 4, 5, null]",
     '"a"', "{}", "7",
     '["1", 2, 3, 4, 5, 6]', "[1, 2, 3, 4, 5, 6, ]", "[NaN, 2, 3, 4, 5, 6]", "[1, 2, 3, 4, 5, " + "9" * 5000 + "]"],
)  # fmt: skip
def test_what_are_no_such_numbers_is_refused(text: str) -> None:
    with pytest.raises(DataError):
        read_request(request(text), None, SHAPE, 10)


def test_too_many_images_are_refused() -> None:
    with pytest.raises(DataError, match="may bring 3"):
        read_request(request(json.dumps([0] * 24), 4), None, SHAPE, 3)


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"[]," * 1_000_000 + b"[]]",
        request("[" + "[]," * 1_000_000 + "[]]"),
        request('["a"' + ',"bc"' * 700_000 + "]"),
        request("[1,2,3,4,5,6]", extra=', "x": [' + "{}," * 900_000 + "{}]"),
    ],
    ids=["no object", "nested data", "texts", "beside the data"],
)
def test_json_that_would_need_much_memory_is_refused(body: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(DataError):
        read_request(body, None, SHAPE, 10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * len(body), "as Python's objects it is twenty times as much"


def test_large_json_is_read_in_steps_and_not_by_the_event_loop(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between steps other threads run, the event loop's among them."""
    (model,) = open_models([f"shapes={bundle}"])
    threads, sizes, loops = set[int](), list[int](), list[int]()
    loads = json.loads

    def watched(text: bytes) -> Any:
        threads.add(threading.get_ident())
        sizes.append(len(text))
        return loads(text)

    with TestClient(service([model])) as client:
        monkeypatch.setattr(protocol, "json", SimpleNamespace(loads=watched, dumps=json.dumps))
        client.portal.call(lambda: loops.append(threading.get_ident()))  # type: ignore[union-attr]
        values = np.random.default_rng(0).integers(0, 256, (100, *model.input_shape), np.uint8)
        text = request(json.dumps(values.tolist()), 100, model.input_shape)
        answer = client.post("/v2/models/shapes/infer", content=text)
        assert answer.status_code == 200
        expected = np.concatenate([model.run(values[i : i + 16])["logits"] for i in range(0, 100, 16)])
        np.testing.assert_allclose(np.array(answer.json()["outputs"][0]["data"]).reshape(expected.shape), expected, atol=1e-4)
    assert len(text) > 200_000
    assert not threads & set(loops)
    assert max(sizes) < 70_000


def test_answers_are_json_of_any_length(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (model,) = open_models([f"shapes={bundle}"])
    monkeypatch.setattr(protocol, "_SLICE", 5)
    outputs = {"a": np.arange(24, dtype=np.float32).reshape(2, 12) / 7, "b": np.array([[True], [False]]), "c": np.zeros((2, 0), np.int64)}
    asked = {"id": "é", "outputs": [{"name": "b"}, {"name": "a"}, {"name": "c"}]}
    content, head = write_response(model, outputs, response_parts(outputs, asked, []), asked)
    said = json.loads(content)
    assert (head, said["id"], [one["name"] for one in said["outputs"]]) == (None, "é", ["b", "a", "c"])
    assert said["outputs"][1]["data"] == outputs["a"].ravel().tolist()
    assert (said["outputs"][0]["data"], said["outputs"][2]["data"]) == ([True, False], [])
    monkeypatch.setattr(protocol, "_MOST_JSON_VALUES", 20)
    with pytest.raises(DataError, match="binary"):
        response_parts(outputs, asked, [])
