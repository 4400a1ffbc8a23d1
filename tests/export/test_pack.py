"""Packed files: the same bytes, the size that theory allows, and runtimes that open them."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from export_fakes import FakeTask
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from planish.artifact import Artifact
from planish.errors import ExportError
from planish.evaluation.torch_predictor import TorchPredictor
from planish.export import Pack, ToOnnx
from planish.export.bundle.folder import write_bundle
from planish.export.bundle.verify import verify
from planish.export.runtimes import packed_file
from planish.export.runtimes.packed_file import Tensor, pack, unpack, unpacked
from planish.export.runtimes.registry import load
from planish.settings import DeploymentTarget

rng = np.random.default_rng(0)


def packed_size(array: Any) -> int:
    data = array.tobytes()
    packed = pack(data, [Tensor(0, array.itemsize, array.shape)])
    assert unpack(packed) == data
    return len(packed)


ODD = [0.0, -0.0, 1.0, np.inf, -np.inf, np.nan, 1e-45, 2.5]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        hnp.arrays(st.sampled_from([np.float32, np.float16, np.int8, np.float64]), hnp.array_shapes(min_dims=1, max_dims=3, max_side=20)),
        max_size=3,
    ),
    st.binary(max_size=20),
    st.integers(0, 5),
)
def test_every_bit_comes_back(arrays: list[Any], between: bytes, keep: int) -> None:
    data, tensors = between, []
    for array in arrays:
        few = np.where(rng.random(array.shape) < keep / 5, array, array.flat[0] * 0)
        tensors.append(Tensor(len(data), array.itemsize, array.shape))
        data += few.astype(array.dtype).tobytes() + between
    assert unpack(pack(data, tensors)) == data


@pytest.mark.parametrize(
    "array",
    [
        rng.choice(ODD, (64, 32)).astype(np.float32),
        np.zeros((40, 100), np.float32),
        np.full((40, 100), -0.0, np.float32),
        np.bincount([0, 700, 955, 1210, 5000, 9999], minlength=10000).astype(np.float32),  # gaps of more than one escape
        np.zeros((0, 3), np.float32),
        np.float32(3).reshape(()),
    ],
)
def test_odd_tensors(array: Any) -> None:
    packed_size(array)


def test_sizes_are_near_what_theory_allows() -> None:
    shape, n = (256, 64, 3, 3), 256 * 64 * 9
    dense = rng.normal(size=shape).astype(np.float32)
    zero = rng.random(shape) < 0.9
    position_bits = -(0.9 * np.log2(0.9) + 0.1 * np.log2(0.1))
    values = rng.integers(1, 17, shape).astype(np.float32) / 7
    per_row = values * rng.uniform(0.5, 1, (256, 1, 1, 1)).astype(np.float32)
    for array, bits in (
        (np.where(zero, 0, dense).astype(np.float32), position_bits + 0.1 * 28),  # sign and exponent of a normal value: about 4 bits
        (values, 4.0),
        (per_row, 4.0 + 256 * 16 * 32 / n),
        (per_row.reshape(256, -1).T.copy(), 4.0 + 256 * 16 * 32 / n),
        (np.where(zero, 0, values).astype(np.float32), position_bits + 0.1 * 4),
        (rng.choice([-1, 0, 1], shape, p=[0.05, 0.9, 0.05]).astype(np.int8), position_bits + 0.1),
    ):
        assert packed_size(array) * 8 / n < 1.06 * bits + 0.03
    assert packed_size(dense) < 0.91 * dense.nbytes
    assert packed_size(rng.integers(0, 256, 4096).astype(np.uint8)) < 4096 + 300


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    values = rng.choice([0, 0, 0, 1, 2], (50, 40)).astype(np.float32)
    packed = pack(b"head" + values.tobytes(), [Tensor(4, 4, values.shape)])
    data, refused = unpack(packed), 0
    for at in range(len(packed)):
        with pytest.raises(ExportError):
            unpack(packed[:at])
        try:  # a few bits say nothing, such as those that fill the last byte of a stream
            assert unpack(packed[:at] + bytes([packed[at] ^ 0x41]) + packed[at + 1 :]) == data
        except ExportError:
            refused += 1
    assert refused > 0.95 * len(packed)
    file = tmp_path / "model.onnx.packed"
    file.write_bytes(packed[:-3])
    with pytest.raises(ExportError, match="not a whole packed file"):
        load([file], "onnxruntime")


def crafted(description: Any, rest: bytes, parts: bytes = b"") -> bytes:
    header, rest = zlib.compress(json.dumps(description).encode(), 9), zlib.compress(rest, 9)
    description["rest"] = len(rest)
    header = zlib.compress(json.dumps(description).encode(), 9)
    return b"".join((b"planish packed 1\n", len(header).to_bytes(4, "little"), header, rest, parts))


ONE_SYMBOL = (2**31 - 1).to_bytes(4, "little") + b"\1\0" + b"\0\0" + b"\0" * 2 * 2**21  # two billion zeros in four million bytes
BOMBS = {
    "rest": lambda: crafted({"sha256": "", "rest": 0, "tensors": []}, b"\0" * 40_000_000),
    "header": lambda: crafted({"sha256": "0" * 40_000_000, "rest": 0, "tensors": []}, b""),
    "shape": lambda: crafted({"sha256": "", "rest": 0, "tensors": [[0, 4, [2**20, 2**20], False, 0, []]]}, b""),
    "many shapes": lambda: crafted({"sha256": "", "rest": 0, "tensors": [[0, 1, [2**20], False, 0, []]] * 100}, b""),
    "stream": lambda: crafted({"sha256": "", "rest": 0, "tensors": [[0, 1, [9], False, 0, [[True, len(ONE_SYMBOL)]]]]}, b"", ONE_SYMBOL),
    "nested": lambda: b"planish packed 1\n" + len(NESTED).to_bytes(4, "little") + NESTED,
}
NESTED = zlib.compress(b"[" * 100_000)


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_small_file_does_not_take_much_memory(bomb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_file, "_SMALL", 10_000_000)
    monkeypatch.setattr(packed_file, "_MOST_TIMES", 0)
    packed = BOMBS[bomb]()
    tracemalloc.start()
    with pytest.raises(ExportError, match="not a whole packed file"):
        unpack(packed)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 35_000_000


@pytest.fixture(scope="module")
def sparse(network: Artifact, task: FakeTask) -> Artifact:
    from planish.compression import UnstructuredPruning, WeightSharing

    return WeightSharing(bits=3).apply(UnstructuredPruning(sparsity=0.8).apply(network, task), task)  # type: ignore[arg-type]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_runtimes_open_it(sparse: Artifact, task: FakeTask, runtime: str) -> None:
    exported = ToOnnx().apply(sparse, task)
    packed = Pack().apply(exported, task)
    assert unpacked(packed.files[0]) == exported.files[0].read_bytes()
    step = packed.lineage.steps[-1]
    assert step.structure == {"disk_bytes": packed.size_bytes, "runtime_bytes": exported.size_bytes}
    assert packed.size_bytes < 0.5 * exported.size_bytes
    images = task.split("validation").images(sparse.input_spec, sparse.preprocessing)[:8]
    expected = TorchPredictor(sparse.module, sparse.preprocessing)(images)["logits"]
    np.testing.assert_allclose(load(packed.files, runtime)(images)["logits"], expected, atol=1e-4 * np.abs(expected).max())


def test_shared_weights_reach_the_file(sparse: Artifact, task: FakeTask) -> None:
    model = onnx.load(str(ToOnnx().apply(sparse, task).files[0]))
    weights = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    layers = [weights[node.input[1]] for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(layers) >= 3
    for layer in layers:
        assert len(np.unique(layer)) <= 9  # eight and zero


def test_runtimes_fold_what_the_file_keeps_apart(sparse: Artifact, network: Artifact, task: FakeTask, tmp_path: Path) -> None:
    """Batch norm beside shared weights costs nothing: ONNX Runtime runs as many nodes as for a file in which it is folded."""
    import onnxruntime

    counts = []
    for artifact in (sparse, network):
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        options.log_severity_level = 4
        onnxruntime.InferenceSession(str(ToOnnx().apply(artifact, task).files[0]), options, providers=["CPUExecutionProvider"])
        counts.append(sorted(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node))
    assert counts[0] == counts[1]


def test_it_ships_in_a_bundle(sparse: Artifact, task: FakeTask, tmp_path: Path) -> None:
    packed = Pack().apply(ToOnnx().apply(sparse, task), task)
    folder = write_bundle(packed, task, tmp_path / "b", target=DeploymentTarget("onnxruntime"), measurements={}, golden=4)
    assert verify(folder).ok
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    done = subprocess.run([sys.executable, "-c", code, "golden/000.png"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with np.load(folder / "golden" / "expected.npz") as saved:
        assert done.stdout.strip() == packed.class_names[saved["logits"][0].argmax()]


def test_int8_is_packed_too_and_several_files_are_refused(int8_artifact: Artifact, task: FakeTask) -> None:
    packed = Pack().apply(int8_artifact, task)
    assert packed.size_bytes < int8_artifact.size_bytes
    with pytest.raises(ExportError, match="2 files"):
        Pack().apply(replace(int8_artifact, files=int8_artifact.files * 2), task)
