"""Inputs that readers once failed on, by traceback, hang or half-written output; each stands for its kind."""

from __future__ import annotations

import json
import os
import sqlite3
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import planish
from planish.data import load_images
from planish.data.annotations.voc import _parse
from planish.errors import BundleError, DataError, ModelError, PlanError, PlanishError, first_line
from planish.experiments.compression import Comparison
from planish.export.bundle.folder import REFERENCE
from planish.export.onnx.external import read_external
from planish.files.archives import read_arrays
from planish.files.reading import read_bytes, require_regular
from planish.files.yaml_text import parse_yaml
from planish.models.resnet import is_ours
from planish.models.weights.checkpoints import aligned, read_checkpoint
from planish.models.weights.loading import fit_weights
from planish.plan import Plan
from planish.runs.open_model import open_model
from planish.runs.store import Store
from planish.serving.monitoring.drift import Drift
from planish.serving.monitoring.labelling import find_label_candidates
from planish.serving.monitoring.records import records
from planish.split_assignment import SplitAssignment
from planish.testing import write_shapes
from planish.training.recipe import load_recipe

DEEP = {"flow": "a: " + "[" * 100_000, "json": '{"a":' * 100_000, "block": "- " * 3000 + "1", "json lists": "[" * 5000 + "]" * 5000}


@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP)
@pytest.mark.parametrize("read", [Plan.load, load_recipe], ids=["plan", "recipe"])
def test_deep_yaml(tmp_path: Path, text: str, read: Callable[[Path], object]) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(PlanError, match="nested deeper"):
        read(tmp_path / "x.yaml")


@pytest.mark.parametrize("text", ["null: 1", "1: 2", "training: {null: 1}", "norm: {1: 2}"])
def test_recipes_have_keys_of_text(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(PlanError, match=r"no key|Keys should be strings"):
        load_recipe(tmp_path / "r.yaml")


@pytest.mark.parametrize(
    "text",
    ["[" + "1," * 300_000 + "]", "x" * 2_000_000, "a: &x [1]\nb: *x", "{[1]: 2}", "!!python/name:os.system", "9" * 6000],
)
def test_yaml_that_is_too_much_or_none(text: str) -> None:
    with pytest.raises(ValueError):
        parse_yaml(text)


def test_a_message_has_an_end() -> None:
    error = PlanError("x" * 1_000_000, "y" * 1_000_000)
    assert len(str(error)) < 10_000
    assert "[...]" in str(error)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp037"])
def test_entities_are_refused_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "a.xml"
    file.write_bytes(f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'.encode(encoding))
    with pytest.raises(DataError, match="entities"):
        _parse(file)


def test_xml_is_read_as_before(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_bytes("<annotation x='1'><b>ü&amp;</b>\n<c/></annotation>".encode())
    tree = _parse(tmp_path / "a.xml")
    assert tree.findtext("b") == "ü&"
    assert tree.find("c") is not None


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_never_ends_is_not_read(tmp_path: Path, kind: str) -> None:
    """Reading a pipe waits for ever, and a device can fill the memory."""
    data = write_shapes(tmp_path / "data", per_class=4)
    odd = next(data.glob("*/0000.png"))
    odd.unlink()
    {"pipe": lambda: os.mkfifo(odd), "device": lambda: odd.symlink_to("/dev/zero"), "folder": lambda: odd.mkdir()}[kind]()
    with pytest.raises(OSError):
        read_bytes(odd)
    if kind == "folder":
        return
    with pytest.raises(DataError, match="not a regular file"):
        load_images(data, cache_dir=tmp_path / "cache")
    assert len(load_images(data, skip_bad=True, cache_dir=tmp_path / "cache").report.bad) == 1


def test_an_index_of_weights_with_other_types(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    for text in (
        '{"weight_map": {"a": 1}}',
        '{"weight_map": {"a": [1]}}',
        '{"weight_map": "x"}',
        "[" * 100_000,
        '{"weight_map": {"a": "\\u0000"}}',
    ):
        index.write_text(text)
        with pytest.raises(ModelError):
            read_checkpoint(index)


def test_weights_that_cannot_be_copied() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(2, 2))
    state = network.state_dict()
    huge = torch.zeros(1, 1, 1, 1).expand(1 << 30, 3, 3, 3)  # a few bytes in a file
    for value in (state["0.weight"].to_sparse(), huge):
        with pytest.raises(ModelError):
            fit_weights(network, state | {"0.weight": value}, "2")


@pytest.mark.timeout(300)
def test_many_prefixes_are_told_apart() -> None:
    """Each of 100,000 beginnings was once tried with all names of the network."""
    own = [f"layer{i}.weight" for i in range(1000)]
    value = torch.zeros(1)
    state = {f"p{i}.{own[i % 3]}": value for i in range(100_000)} | {f"model.{name}": value for name in own} | {"." * 100_000: value}
    assert set(aligned(state, own)) == set(own)


def write_log(folder: Path, *odd: dict[str, Any]) -> Path:
    record = {"model": "m", "version": "1", "bundle": "b", "time": 1.0, "seconds": 0.1, "image": "0.png"}
    folder.mkdir()
    lines = [record, *(record | one for one in odd)]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


ODD_RECORDS = [
    {"image": ["x"]}, {"class": {}}, {"confidence": "a"}, {"entropy": float("nan")}, {"boxes": 1}, {"boxes": [1]},
    {"seconds": float("inf")}, {"boxes": [{"class": "a", "confidence": 1, "shares": [0, 0, 1]}]},
    {"boxes": [{"class": [], "confidence": 1, "shares": [0, 0, 1, 1]}]},
    {"time": 10**400},
]  # fmt: skip


def test_records_of_other_types_are_passed_over(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", *ODD_RECORDS)
    (log / "predictions.jsonl.1").mkdir()
    os.mkfifo(log / "predictions.jsonl.2")
    assert [record["image"] for record in records(log)] == ["0.png"]


def test_images_to_label_are_there_whole_or_not_at_all(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", {"boxes": [{"class": "a", "confidence": 0.5, "shares": [0, 0, 1, 1]}]})
    (log / "images").mkdir()
    (log / "images" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n no image")
    assert find_label_candidates(log, tmp_path / "out", 3) == 0  # it is passed over, and its size is not asked for
    assert json.loads((tmp_path / "out" / "_annotations.coco.json").read_text())["images"] == []


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", '{"values": {}}', "[" * 100_000,
     *(f'{{"schema_version": 1, {rest}}}' for rest in (
         '"values": 1', '"values": {"a": 1}', '"values": {"a": ["x"]}', '"values": {"a": [NaN]}', '"values": {"a": [1e13]}',
         '"values": {}, "class_counts": []', '"values": {}, "class_counts": {"a": -1}', '"values": {}, "class_counts": {"a": "1"}'))],
)  # fmt: skip
def test_reference_values_of_other_types(tmp_path: Path, text: str) -> None:
    (tmp_path / REFERENCE).write_text(text)
    with pytest.raises(BundleError, match=REFERENCE):
        Drift(tmp_path)


@pytest.mark.parametrize("change", ["found = '{'", "notes = '1'", "elapsed = 'x'", "seconds = x'00'", "found = '" + "[" * 50_000 + "'"])
def test_a_run_whose_store_was_damaged(tmp_path: Path, change: str) -> None:
    store = Store(tmp_path)
    store.once("a", "setup", lambda: 1)
    store.close()
    with sqlite3.connect(tmp_path / "store.sqlite") as db:
        db.execute(f"update finished_steps set {change}")
    db.close()
    with pytest.raises(BundleError, match="cannot be read"):
        Store(tmp_path).once("a", "setup", lambda: 2)


@pytest.mark.parametrize("text", ["", "[", "[" * 100_000, '{"name": 1}', "null", "\xff"])
def test_results_that_were_damaged(tmp_path: Path, text: str) -> None:
    file = tmp_path / "comparison.json"
    file.write_bytes(text.encode("latin-1"))
    for read in (Comparison.load, SplitAssignment.load):
        with pytest.raises(BundleError):
            read(file)
    with pytest.raises(BundleError):
        Comparison.load(tmp_path / "absent.json")


def test_arrays_that_are_none(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    np.savez_compressed(file, a=np.zeros(1 << 20, np.uint8))
    with pytest.raises(DataError, match="at most"):
        read_arrays(file, 1000)
    np.savez(file, a=np.array([object()], dtype=object))
    with pytest.raises(DataError):
        read_arrays(file, 1000)


def test_metadata_of_our_onnx_files_of_other_types(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, save

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in ("x", "logits")]
    model = helper.make_model(helper.make_graph([helper.make_node("Identity", ["x"], ["logits"])], "g", ends[:1], ends[1:]))
    right = {"input_spec": '{"channels": 3, "height": 8, "width": 8}', "preprocessing": "{}", "lineage": "[]", "class_names": "1"}
    for name, text in (("input_spec", "["), ("input_spec", '{"a": 1}'), ("preprocessing", "1"), ("lineage", "{}")):
        helper.set_model_props(model, {f"planish.{key}": value for key, value in (right | {name: text}).items()})
        save(model, tmp_path / "a.onnx")
        with pytest.raises(PlanishError):
            open_model(tmp_path / "a.onnx")
    (tmp_path / "a.onnx").write_bytes(b"no onnx")
    with pytest.raises(ModelError):
        open_model(tmp_path / "a.onnx")


def test_a_data_set_without_a_readable_image(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"no image")
    (tmp_path / "1.png").write_bytes(b"")
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [0, 0, 4, 4]} for i in range(2)]
    images = [{"id": i, "file_name": f"{i}.png", "height": 8, "width": 8} for i in range(2)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="no usable image"):
        load_images(tmp_path, skip_bad=True, cache_dir=tmp_path / "cache")
    for name in ("\ud800.png", "a\x00.png", "x" * 300 + ".png"):  # that no file can have
        images[1]["file_name"] = name
        (tmp_path / "a.json").write_text(json.dumps(content))
        with pytest.raises(DataError):
            load_images(tmp_path, cache_dir=tmp_path / "cache")


def test_pipes_in_the_place_of_models(tmp_path: Path) -> None:
    from planish.explanation.model_file import ModelFile
    from planish.export.onnx.external import metadata_of, read_external
    from planish.export.runtimes.registry import load

    os.mkfifo(tmp_path / "a.onnx")
    (tmp_path / "a.xml").touch()
    os.mkfifo(tmp_path / "a.bin")
    with pytest.raises(PlanishError, match="not a regular file"):
        ModelFile(tmp_path / "a.xml", "openvino").require_first_load()
    for read in (metadata_of, read_external, lambda file: load([file], "onnxruntime"), open_model):
        with pytest.raises(PlanishError, match=r"not a regular file|neither"):
            read(tmp_path / "a.onnx")


@pytest.mark.timeout(120)  # a search that begins again at every character would take hours
def test_the_first_line_of_a_long_message_is_found_in_one_pass() -> None:
    assert len(first_line(ValueError("a" * 3_000_000 + ".cc:"))) <= 300


@pytest.mark.parametrize(
    "spoil",
    [
        lambda model: model.graph.node[-1].ClearField("input"),
        lambda model: model.graph.initializer[-1].ClearField("raw_data"),
        lambda model: model.graph.node[-1].input.__setitem__(2, model.graph.input[0].name),
    ],
)
def test_onnx_files_whose_nodes_do_not_fit(tmp_path: Path, spoil: Callable[[Any], object]) -> None:
    data = write_shapes(tmp_path / "data", per_class=8)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3))
    torch.onnx.export(network, (torch.rand(1, 3, 24, 24),), str(tmp_path / "net.onnx"), dynamo=False)
    model = onnx.load(str(tmp_path / "net.onnx"))
    spoil(model)
    onnx.save(model, str(tmp_path / "net.onnx"))
    with pytest.raises(PlanishError):
        planish.optimize(data, model=str(tmp_path / "net.onnx"), budget="1m", out=tmp_path / "run")


def test_pipes_in_the_place_of_keys_and_records(tmp_path: Path) -> None:
    """Each was read by its name alone, which waits for ever."""
    from types import SimpleNamespace

    from planish.export.bundle.signature import check_signature, sign
    from planish.report.recomputation.recheck import size_on_disk
    from planish.serving.http.key_file import read_keys

    os.mkfifo(tmp_path / "pipe")
    for read in (
        lambda: read_keys(tmp_path / "pipe"),
        lambda: sign(tmp_path, tmp_path / "pipe"),
        lambda: check_signature(tmp_path, tmp_path / "pipe"),
    ):
        with pytest.raises(BundleError, match="cannot be read"):
            read()
    (tmp_path / "work" / "0").mkdir(parents=True)
    os.mkfifo(tmp_path / "work" / "0" / "artifact.json")
    run: Any = SimpleNamespace(path=tmp_path, result=SimpleNamespace(chosen=SimpleNamespace(key="1")), evidence={"files": {}})
    candidate: Any = SimpleNamespace(key="0")
    assert size_on_disk(run, candidate) is None


@pytest.mark.parametrize("name", ["a.json", "a.json.partial"])
def test_a_folder_in_the_place_of_a_file(tmp_path: Path, name: str) -> None:
    from planish.files.workspace import replacing

    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match="is a folder"), replacing(tmp_path / "a.json") as partial:
        partial.write_text("x")


def test_a_checkpoint_with_names_in_no_encoding(tmp_path: Path) -> None:
    """zipfile raises UnicodeDecodeError for a member that is flagged as UTF-8 and is not."""
    file = tmp_path / "a.pth"
    torch.save({"é": torch.zeros(1)}, file)
    data = bytearray(file.read_bytes())
    place = data.rindex(b"PK\x01\x02")  # the last entry of the directory
    data[place + 9] |= 0x08
    data[place + 46] = 0xFF
    file.write_bytes(bytes(data))
    with pytest.raises(ModelError, match="cannot be read: UnicodeDecodeError"):
        read_checkpoint(file)


def test_an_index_of_no_weights_ends(tmp_path: Path) -> None:
    """All names of none begin with any prefix, which was taken off for ever."""
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    with pytest.raises(ModelError, match="holds no tensors"):
        read_checkpoint(tmp_path / "model.safetensors.index.json")


def test_a_classifier_that_is_one_number() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(2, 2))
    fresh, notes = fit_weights(network, network.state_dict() | {"2.weight": torch.tensor(1.0)}, "2")
    assert fresh
    assert "a classifier of another shape (2.weight is (), not (2, 2))" in notes[0]


def test_links_in_circles(tmp_path: Path) -> None:
    from planish.data.sources.listing import files_below

    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").touch()
    (tmp_path / "a" / "up").symlink_to("..")
    (tmp_path / "elsewhere").symlink_to("a")
    (tmp_path / "self.png").symlink_to("self.png")
    assert sorted(file.name for file in files_below(tmp_path)) == ["self.png", "x.png"]


def test_lengths_beyond_the_end_of_a_file(tmp_path: Path) -> None:
    """Of a PNG file with a part of 4 GB, reading took 4 GB."""
    from planish.data.annotations.annotated_image import AnnotatedImage
    from planish.data.annotations.map_codes import size_in
    from planish.data.annotations.validation import size_of
    from planish.explanation.opening import _load
    from planish.files.reading import open_bounded

    file = tmp_path / "a.png"
    Image.new("RGB", (40, 30)).save(file)
    data = file.read_bytes()
    with open_bounded(file) as stream:
        assert stream.read(1 << 60) == data
        stream.seek(5)
        assert (stream.read(3), stream.read(), stream.read(1 << 60)) == (data[5:8], data[8:], b"")
    place = data.index(b"IDAT") - 4
    file.write_bytes(data[:place] + b"\xff\xff\xff\xf0" + data[place + 4 :])
    tracemalloc.start()
    assert size_of(AnnotatedImage("a.png", file, None)) == size_in(file) == (30, 40)
    assert tracemalloc.get_traced_memory()[1] < 100 << 20
    tracemalloc.stop()
    array = tmp_path / "a.npy"
    np.save(array, np.zeros((3, 4)))
    array.write_bytes(array.read_bytes().replace(b"(3, 4), }      ", b"(3999999999,), }"))
    with pytest.raises(DataError, match="cannot be read"):
        _load(array)


def test_a_seal_that_is_no_text(tmp_path: Path) -> None:
    import hashlib
    from types import SimpleNamespace

    from planish.export.bundle.folder import DESCRIPTION, EXPECTED, SEAL, changed_files

    (tmp_path / "golden").mkdir()
    (tmp_path / EXPECTED).write_bytes(b"x")
    (tmp_path / DESCRIPTION).write_bytes(b"{}")
    bundle: Any = SimpleNamespace(files=(), golden_samples=(), sha256={EXPECTED: hashlib.sha256(b"x").hexdigest()})
    for seal, right in ((b"", True), (b"  bundle.json\n", True), (b" \xff", False)):
        (tmp_path / SEAL).write_bytes(hashlib.sha256(b"{}").hexdigest().encode() + seal)
        assert changed_files(tmp_path, bundle) == ([] if right else [f"{DESCRIPTION} was changed"])


def test_known_outputs_that_are_no_numbers() -> None:
    from planish.export.checks.agreement import disagreement

    found = {"boxes": np.zeros((1, 2, 4)), "scores": np.full((1, 2), 0.5), "labels": np.zeros((1, 2), int)}
    assert disagreement(found, found) == 0
    for name in ("boxes", "scores"):
        assert disagreement(found | {name: found[name] > 0}, found) == float("inf")


def test_known_outputs_that_are_truth_values() -> None:
    from planish.export.bundle.verify import _other_tops

    known = np.array([[True, False], [False, True]])
    assert _other_tops(known, known, 0.1) == ["", ""]


def test_an_onnx_file_with_names_in_no_encoding(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3))
    torch.onnx.export(network, (torch.rand(1, 3, 24, 24),), str(tmp_path / "net.onnx"), dynamo=False)
    model = onnx.load(str(tmp_path / "net.onnx"))
    model.graph.node[0].domain = "unreadable"
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString().replace(b"unreadable", b"unread\xffble"))
    with pytest.raises(ModelError, match="not UTF-8"):
        read_external(tmp_path / "net.onnx")


def test_a_file_name_that_no_file_can_have() -> None:
    with pytest.raises(OSError, match="no file can have that name"):
        require_regular(Path("a\0b"))


def test_a_network_of_billions_of_weights_is_not_built_by_its_name() -> None:
    assert is_ours("resnet8x32")
    assert not is_ours("resnet8x255")


def test_an_evaluation_without_metrics() -> None:
    """Its page begins with the primary one."""
    from pydantic import ValidationError

    from planish.runs.evaluation import Evaluation

    with pytest.raises(ValidationError, match="at least 1 item"):
        Evaluation(
            name="n", created="c", command="c", machine={}, model="m", data="d", split="test", runtime="onnxruntime", metrics={},
            per_class=[], confusions=[], thresholds=[], misclassified=0,
        )  # fmt: skip
