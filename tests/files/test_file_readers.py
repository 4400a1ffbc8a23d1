"""What the package opens files with: nothing that runs code from them, but where ``planish.files.trust`` asks first."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import planish
from planish.errors import ExportError, ModelError, PlanishError
from planish.export.onnx.external import read_external
from planish.export.runtimes.registry import available, load
from planish.models.weights.checkpoints import read_checkpoint

PACKAGE = Path(planish.__file__).parent
# Where each may be called at all: behind the trust gate, or on what the same command has just written.
GATED = {
    "torch.export.load": {"export/runtimes/torch.py", "export/litert_convert.py"},
    "deserialize_cuda_engine": {"export/runtimes/tensorrt.py"},
    "load_program": {"export/runtimes/executorch.py"},
    "exec_module": {"models/factories.py"},
    "jax.export.deserialize": {"export/runtimes/jax.py"},
}
# What these are called on is the package's own, and comes from no file of others.
OWN = {
    ("cli/arguments.py", "eval"),  # annotations of the command functions
    ("testing/task.py", "exec"),  # the lines of a README, as the task gives them
    ("training/parallel/processes.py", "cloudpickle.loads"),  # trainings, from the first process of the same command
    ("runs/workers/parcel.py", "pickle.loads"),  # steps, from a run that the user let this process work for
    ("runs/workers/parcel.py", "cloudpickle.loads"),
    ("runs/workers/database.py", "pickle.loads"),  # their outcomes, from the database that the user named
}
NEVER = {
    "pickle.load", "pickle.loads", "marshal.load", "marshal.loads", "shelve.open", "dill.load", "joblib.load", "cloudpickle.load",
    "cloudpickle.loads", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "yaml.load", "yaml.unsafe_load",
    "yaml.full_load", "yaml.load_all", "eval", "exec", "register_custom_ops_library", "add_extension", "torch.ops.load_library",
    "extractall", "unpack_archive",
}  # fmt: skip


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """File, dotted name and node of every call in the package, files of templates left out."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                yield file.relative_to(PACKAGE).as_posix(), ast.unparse(node.func), node


def option(node: ast.Call, name: str) -> str:
    return next((ast.unparse(k.value) for k in node.keywords if k.arg == name), "")


def is_call_of(name: str, wanted: str) -> bool:
    return name == wanted or (wanted not in ("eval", "exec") and name.endswith(f".{wanted}"))  # networks have an eval()


def test_every_reader_is_one_that_runs_nothing() -> None:
    wrong = []
    for file, name, node in calls():
        if any(is_call_of(name, reader) for reader in NEVER) and (file, name) not in OWN:
            wrong.append(f"{file}:{node.lineno}: {name}")
        if is_call_of(name, "torch.load") and option(node, "weights_only") != "True":
            wrong.append(f"{file}:{node.lineno}: {name} without weights_only=True")
        if is_call_of(name, "np.load") and option(node, "allow_pickle") not in ("", "False"):
            wrong.append(f"{file}:{node.lineno}: {name} with pickles")
        for reader, allowed in GATED.items():
            if is_call_of(name, reader) and file not in allowed:
                wrong.append(f"{file}:{node.lineno}: {name} outside of {', '.join(sorted(allowed))}")
    assert not wrong


def test_pickled_networks_are_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pth")
    with pytest.raises(ModelError, match="only plain weights"):
        read_checkpoint(tmp_path / "whole.pth")


def write_external(file: Path, location: str) -> None:
    """A classifier whose weights lie in another file."""
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3, 2], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "24")):
        entry = weights.external_data.add()
        entry.key, entry.value = key, value
    nodes = [helper.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=0), helper.make_node("MatMul", ["m", "w"], ["logits"])]
    ends = (
        (helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8]),),
        (helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2]),),
    )
    graph = helper.make_graph(nodes, "g", *map(list, ends), [weights])
    file.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())


@pytest.mark.parametrize("way", ["beside", "above", "absolute", "link", "linked folder"])
def test_weights_of_an_onnx_file_lie_in_its_folder(tmp_path: Path, way: str) -> None:
    """Wherever such a file is opened: our own reader and both runtimes, whose newest versions see to it."""
    folder, outside = tmp_path / "model", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    secret, beside = outside / "secret.bin", folder / "w.bin"
    for file in (secret, beside):
        file.write_bytes(np.arange(6, dtype=np.float32).tobytes())
    (folder / "link.bin").symlink_to(secret)
    (folder / "there").symlink_to(outside)
    locations = {"beside": "w.bin", "above": "../outside/secret.bin", "absolute": str(secret), "link": "link.bin"}
    locations["linked folder"] = "there/secret.bin"
    write_external(folder / "model.onnx", locations[way])
    if way == "beside":
        assert read_external(folder / "model.onnx").channels == 3
        assert all(load([folder / "model.onnx"], runtime) for runtime in available("onnx"))
        return
    with pytest.raises(ModelError):
        read_external(folder / "model.onnx")
    for runtime in available("onnx"):
        with pytest.raises(ExportError):
            load([folder / "model.onnx"], runtime)


def test_operators_of_other_libraries_are_not_looked_for(tmp_path: Path) -> None:
    node = helper.make_node("Anything", ["x"], ["logits"], domain="from.elsewhere")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in ("x", "logits")]
    model = helper.make_model(
        helper.make_graph([node], "g", ends[:1], ends[1:]),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("from.elsewhere", 1)],
        ir_version=8,
    )
    onnx.save(model, tmp_path / "model.onnx")
    for runtime in available("onnx"):
        with pytest.raises(PlanishError):
            load([tmp_path / "model.onnx"], runtime)
