"""The command, in a process of its own, and Triton's own client."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tritonclient.http as triton

from planish.serving.serve import _listening

if TYPE_CHECKING:
    from conftest import Served


@pytest.fixture
def served(bundle: Path, serve: Callable[..., Served]) -> Served:
    return serve(f"shapes={bundle}")


def test_tritons_client_works_unchanged(served: Served) -> None:
    client = triton.InferenceServerClient(served.address)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("shapes")
    metadata = client.get_model_metadata("shapes")
    shape = metadata["inputs"][0]["shape"][1:]
    images = np.random.default_rng(0).integers(0, 256, (5, *shape), np.uint8)
    given = triton.InferInput("images", list(images.shape), "UINT8")
    given.set_data_from_numpy(images)
    together = client.infer("shapes", [given]).as_numpy("logits")
    for i in range(5):
        one = triton.InferInput("images", [1, *shape], "UINT8")
        one.set_data_from_numpy(images[i : i + 1], binary_data=False)
        asked = triton.InferRequestedOutput("logits", binary_data=False)
        alone = client.infer("shapes", [one], outputs=[asked], request_id=str(i))
        assert alone.as_numpy("logits")[0] == pytest.approx(together[i], abs=1e-4)


def test_tritons_client_gets_classes_compressed_or_not(served: Served, bundle: Path) -> None:
    """https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_classification.md"""
    names = json.loads((bundle / "bundle.json").read_text())["class_names"]
    client = triton.InferenceServerClient(served.address)
    assert {"binary_tensor_data", "classification"} <= set(client.get_server_metadata()["extensions"])
    images = np.random.default_rng(0).integers(0, 256, (3, *client.get_model_metadata("shapes")["inputs"][0]["shape"][1:]), np.uint8)
    given = triton.InferInput("images", list(images.shape), "UINT8")
    given.set_data_from_numpy(images)
    logits = client.infer("shapes", [given]).as_numpy("logits")
    for binary in (True, False):
        for count, compression in ((1, None), (2, "gzip"), (1000, "deflate")):
            asked = triton.InferRequestedOutput("logits", binary_data=binary, class_count=count)
            found = client.infer("shapes", [given], outputs=[asked], request_compression_algorithm=compression).as_numpy("logits")
            assert found.shape == (3, min(count, len(names)))
            for row, values in zip(found, logits, strict=True):
                parts = [(one.decode() if isinstance(one, bytes) else one).split(":") for one in row]
                order = np.argsort(-values)[:count]
                assert [(int(index), name) for _, index, name in parts] == [(i, names[i]) for i in order]
                assert [float(value) for value, *_ in parts] == pytest.approx(values[order], abs=1e-4)


def test_an_answer_does_not_wait_for_an_acknowledgement() -> None:
    """With Nagle's algorithm each takes 40 ms more on a connection that is kept, as its body waits for its head to be acknowledged."""
    with _listening("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
