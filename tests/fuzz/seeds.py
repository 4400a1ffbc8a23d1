"""Small examples of everything that is read, made by the project's own writers and by the libraries whose files people have."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from mutate import ESCAPE
from PIL import Image, ImageDraw

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / room) for room in ("helpers", "report", "export")]
NAMES = ("cat", "dog")
_SIDE = 24


def picture(number: int, mode: str = "RGB", side: int = _SIDE) -> Image.Image:
    rng = np.random.default_rng(number)
    image = Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)).resize((side, side))
    ImageDraw.Draw(image).ellipse((4, 5, 14, 18), fill=(200, 20 * (number % 2), 60))
    return image.convert(mode)


def _images(folder: Path, count: int = 10) -> list[str]:
    folder.mkdir(parents=True)
    names = [f"{i:02d}.png" for i in range(count)]
    for i, name in enumerate(names):
        picture(i).save(folder / name)
    return names


def coco(folder: Path) -> None:
    from pycocotools import mask

    names = _images(folder / "images")
    kinds = [
        lambda i: [[4.0, 5.0, 14.0, 5.0, 14.0, 18.0]],
        lambda i: {"size": [_SIDE, _SIDE], "counts": [100, 5, _SIDE * _SIDE - 105]},
        lambda i: {"size": [_SIDE, _SIDE], "counts": mask.encode(np.asfortranarray(np.eye(_SIDE, dtype=np.uint8)))["counts"].decode()},
    ]
    content = {
        "info": {"year": 2024},
        "images": [{"id": i, "file_name": name, "height": _SIDE, "width": _SIDE} for i, name in enumerate(names)],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)],
        "annotations": [
            {"id": i, "image_id": i % len(names), "category_id": i % 2 + 1, "bbox": [4, 5, 10, 13], "area": 130.0, "iscrowd": int(i == 5),
             "segmentation": kinds[i % 3](i)}
            for i in range(12)
        ],
    }  # fmt: skip
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances.json").write_text(json.dumps(content))


def yolo(folder: Path, polygons: bool = False) -> None:
    names = _images(folder / "images" / "train")
    _images(folder / "images" / "val", 4)
    for split, count in (("train", len(names)), ("val", 4)):
        (folder / "labels" / split).mkdir(parents=True)
        for i in range(count):
            line = f"{i % 2} 0.2 0.2 0.6 0.2 0.6 0.7\n" if polygons else f"{i % 2} 0.5 0.5 0.4 0.5\n"
            (folder / "labels" / split / f"{i:02d}.txt").write_text(line * (1 + i % 2))
    (folder / "val.txt").write_text("".join(f"./images/val/{i:02d}.png\n" for i in range(4)))
    (folder / "data.yaml").write_text(
        yaml.safe_dump({"path": ".", "train": "images/train", "val": "val.txt", "nc": 2, "names": dict(enumerate(NAMES))})
    )


def yolo_polygons(folder: Path) -> None:
    yolo(folder, polygons=True)


def voc(folder: Path) -> None:
    names = _images(folder / "JPEGImages")
    (folder / "Annotations").mkdir()
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    for split, some in (("train", names[:6]), ("val", names[6:8]), ("test", names[8:])):
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{Path(n).stem}\n" for n in some))
    for i, name in enumerate(names):
        thing = (
            "<object><name>%s</name><difficult>0</difficult>"
            "<bndbox><xmin>4</xmin><ymin>5</ymin><xmax>14</xmax><ymax>18</ymax></bndbox></object>"
        )
        (folder / "Annotations" / f"{Path(name).stem}.xml").write_text(
            f"<annotation><filename>{name}</filename><size><width>{_SIDE}</width><height>{_SIDE}</height><depth>3</depth></size>"
            + thing % NAMES[i % 2] + "</annotation>"
        )  # fmt: skip


def masks(folder: Path) -> None:
    names = _images(folder / "images")
    (folder / "masks").mkdir()
    for i, name in enumerate(names):
        values = np.zeros((_SIDE, _SIDE), np.uint8)
        values[4:14, 5:18] = 1 + i % 2
        Image.fromarray(values).save(folder / "masks" / name)
    (folder / "classes.json").write_text(json.dumps({"background": 0, "cat": 1, "dog": 2}))


def instance_masks(folder: Path) -> None:
    names = _images(folder / "images")
    for i, name in enumerate(names):
        own = folder / "masks" / Path(name).stem
        own.mkdir(parents=True)
        for k in range(2):
            values = np.zeros((_SIDE, _SIDE), np.uint8)
            values[4 + 8 * k : 10 + 8 * k, 5:18] = 255
            Image.fromarray(values).save(own / f"{NAMES[(i + k) % 2]}_{k}.png")


def manifest(folder: Path) -> None:
    names = _images(folder / "images", 12)
    rows = [(f"images/{name}", NAMES[i % 2], ("train", "val", "test")[i // 2 % 3]) for i, name in enumerate(names)]
    (folder / "data.csv").write_text("path,label,split\n" + "".join(",".join(row) + "\n" for row in rows))
    (folder / "data.jsonl").write_text("".join(json.dumps(dict(zip(("path", "label", "split"), row, strict=True))) + "\n" for row in rows))


def class_folders(folder: Path) -> None:
    for i, name in enumerate(NAMES):
        (folder / name).mkdir(parents=True)
        for k in range(5):
            picture(10 * i + k).save(folder / name / f"{k}.{('png', 'jpg', 'bmp', 'gif', 'tif')[k]}")


def images(folder: Path) -> None:
    folder.mkdir(parents=True)
    exif = Image.Exif()
    exif[274] = 6
    exif[282] = 72.5
    picture(0).save(folder / "exif.jpg", exif=exif)
    picture(1, "CMYK").save(folder / "cmyk.jpg")
    picture(2, "L").save(folder / "grey.jpg", progressive=True)
    picture(3, "P").save(folder / "palette.png", transparency=3)
    picture(4, "RGBA").save(folder / "alpha.png")
    picture(5, "1").save(folder / "bits.png")
    Image.fromarray((np.arange(576, dtype=np.uint16) * 100).reshape(24, 24)).save(folder / "deep.png")
    for k, compression in enumerate((None, "tiff_lzw", "tiff_deflate", "jpeg", "packbits", "group4")):
        picture(6, "1" if compression == "group4" else "RGB").save(folder / f"{k}.tif", compression=compression, tiffinfo={274: 6})
    Image.fromarray((np.arange(576, dtype=np.float32)).reshape(24, 24)).save(folder / "float.tif")
    picture(7).save(folder / "x.bmp")
    picture(8).save(folder / "x.gif", save_all=True, append_images=[picture(9)])
    for lossless in (False, True):
        picture(9, "RGBA").save(folder / f"{lossless}.webp", lossless=lossless)
    picture(9).save(folder / "x.jp2")
    picture(9).save(folder / "x.ppm")
    picture(9, "1").save(folder / "x.pbm")
    picture(9).save(folder / "x.avif")
    (folder / "plain.ppm").write_text("P3\n2 2\n255\n" + "1 2 3 " * 4)


class Small(torch.nn.Module):
    """The network of the examples of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.bn1 = torch.nn.BatchNorm2d(4)
        self.fc = torch.nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.bn1(self.conv1(x))).mean((2, 3)))


class _RunsCode:
    """What an attacker puts into a pickle."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch /tmp/{ESCAPE}",)


def checkpoints(folder: Path) -> None:
    import argparse

    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    torch.manual_seed(0)
    state = Small().state_dict()
    save_file(state, folder / "model.safetensors")
    torch.save(state, folder / "weights.pth")
    torch.save(state, folder / "old.pt", _use_new_zipfile_serialization=False)
    arguments = argparse.Namespace(lr=0.1)
    whole = {
        "epoch": 3,
        "args": arguments,
        "model": {f"module.{k}": v for k, v in state.items()},
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
    }
    torch.save(whole, folder / "checkpoint.pth")
    torch.save({"state_dict": state, "state_dict_ema": state, "rng": torch.get_rng_state()}, folder / "ema.ckpt")
    torch.save(whole, folder / "old_whole.pth", _use_new_zipfile_serialization=False)
    for name, is_zip in (("runs_code.pth", True), ("old_runs_code.pt", False)):
        torch.save({"state_dict": state, "hook": _RunsCode()}, folder / name, _use_new_zipfile_serialization=is_zip)
    keys = list(state)
    parts = {"part-1.safetensors": keys[:4], "part-2.safetensors": keys[4:]}
    for name, some in parts.items():
        save_file({k: state[k] for k in some}, folder / name)
    weight_map = {k: name for name, some in parts.items() for k in some}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 1000}, "weight_map": weight_map}))


class _Images:
    keys = tuple(f"{i}.png" for i in range(6))
    targets = np.arange(6) % 2

    def __len__(self) -> int:
        return 6

    def images(self, spec: Any, preprocessing: Any) -> Any:
        return np.stack([np.asarray(picture(i, side=spec.height)) for i in range(6)])

    def file_bytes(self, index: int) -> bytes:
        file = io.BytesIO()
        picture(index).save(file, "PNG")
        return file.getvalue()


class _Task:
    name, class_names = "classification", NAMES

    def split(self, name: str) -> Any:
        return _Images()


def _classifier() -> Any:
    from planish.artifact import Artifact, InputSpec, Lineage, Preprocessing
    from planish.models.zoo import create

    torch.manual_seed(0)
    created = create("resnet8x0.25", num_classes=2, channels=3, image_size=16)
    spec, preprocessing = InputSpec(3, 16, 16), Preprocessing(16, "squash", (0.5,) * 3, (0.25,) * 3)
    return Artifact("torch", spec, preprocessing, NAMES, Lineage(created.source), created.module.eval())


def artifact(folder: Path) -> None:
    from planish.models.storage import save_artifact
    from planish.split_assignment import SplitAssignment

    save_artifact(_classifier(), folder, SplitAssignment(0, {"0123456789abcdef": "train", "1123456789abcdef": "test"}))


def onnx_files(folder: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)

    def write(name: str, opset: int, last: list, shape: tuple, output: str = "z", more: list | None = None) -> None:  # type: ignore[type-arg]
        constants = [
            numpy_helper.from_array(rng.normal(size=(4, 3, 3, 3)).astype(np.float32), "w"),
            numpy_helper.from_array(rng.normal(size=(2, 4)).astype(np.float32), "v"),
            numpy_helper.from_array(rng.normal(size=2).astype(np.float32), "b"),
        ]
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1], strides=[2, 2]),
            helper.make_node("Relu", ["c"], ["r"], "relu"),
            helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
            helper.make_node("Flatten", ["p"], ["f"], "flat"),
            helper.make_node("Gemm", ["f", "v", "b"], ["z"], "fc", transB=1),
            *last,
        ]
        graph = helper.make_graph(
            nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)], constants,
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        if more:
            onnx.save_model(model, folder / name, save_as_external_data=True, location="model.data", size_threshold=0)
        else:
            onnx.save(model, folder / name)

    write("plain.onnx", 17, [], ("N", 3, 16, 16))
    write("softmax.onnx", 13, [helper.make_node("Softmax", ["z"], ["s"], "soft")], (1, 3, 16, 16), "s")
    write("old.onnx", 9, [], (2, 3, "h", "w"))
    write("external.onnx", 17, [], ("N", 3, 16, 16), more=[1])


def files_of_others(folder: Path) -> None:
    """One network for ONNX Runtime and for OpenVINO."""
    import openvino

    onnx_files(folder)
    openvino.save_model(openvino.convert_model(str(folder / "plain.onnx")), str(folder / "model.xml"), compress_to_fp16=False)
    for file in folder.iterdir():
        if file.stem not in ("plain", "model") or file.suffix == ".data":
            file.unlink()


def our_onnx(folder: Path) -> None:
    """A file that Planish wrote of a classifier."""
    folder.mkdir(parents=True)
    from planish.artifact import Artifact
    from planish.export import ToOnnx

    made = ToOnnx().apply(_classifier(), _Task())
    assert isinstance(made, Artifact)
    shutil.copyfile(made.files[0], folder / "model.onnx")


def classifier_bundle(folder: Path) -> None:
    from planish.export import ToOnnx
    from planish.export.bundle.folder import write_bundle
    from planish.settings import DeploymentTarget

    task = _Task()
    exported = ToOnnx().apply(_classifier(), task)
    write_bundle(exported, task, folder, target=DeploymentTarget("onnxruntime"), measurements={}, golden=3)


def plans(folder: Path) -> None:
    from planish.compression import ChannelPruning, Int8
    from planish.export import ToOnnx
    from planish.plan import Plan
    from planish.training import Distill

    folder.mkdir(parents=True)
    plan = Plan(ChannelPruning(pruning_ratio=0.5), Distill(epochs=2), ToOnnx(), Int8())
    (folder / "plan.yaml").write_text(plan.to_yaml())
    (folder / "plan.json").write_text(plan.to_json())


def recipes(folder: Path) -> None:
    from planish.training.recipe import load_recipe, set_values

    folder.mkdir(parents=True)
    recipe = set_values(load_recipe("scratch-small"), ["activation=elu", "norm.kind=group", "image_size=32"])
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    (folder / "short.yml").write_text("base: finetune-few\ntraining:\n  epochs: 3\nmodifications:\n  activation: elu\n")
    (folder / "recipe.json").write_text(json.dumps(yaml.safe_load(recipe.to_yaml())))


def run_folder(folder: Path) -> None:
    from fake_run import write_run

    from planish.runs.store import Store
    from planish.split_assignment import SplitAssignment

    folder.parent.mkdir(parents=True, exist_ok=True)
    write_run(folder, NAMES, n=60, side=12)
    SplitAssignment(0, {"0123456789abcdef": "train", "1123456789abcdef": "test"}).save(folder / "splits.json")
    store = Store(folder)
    store.once("job", "setup", lambda: {"data": "x"})
    store.once("trial:1", "searching", lambda: {"score": 1.0})
    store.close()


def localisation_run(folder: Path) -> None:
    from fake_localisation import write_localisation_run

    folder.mkdir(parents=True, exist_ok=True)
    write_localisation_run(folder)


def evaluation(folder: Path) -> None:
    from fake_evaluation import write_fake

    folder.mkdir(parents=True, exist_ok=True)
    write_fake(folder, NAMES, n=40)


def comparison(folder: Path) -> None:
    from fake_comparison import make_comparison

    folder.mkdir(parents=True)
    make_comparison(4).save(folder / "comparison.json")


def bundle(task: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        from patches import write_patches

        folder.parent.mkdir(parents=True, exist_ok=True)
        write_patches(folder, task)

    return write


def log(folder: Path) -> None:
    """What a service logged of the bundle beside it."""
    from patches import write_patches

    folder.mkdir(parents=True)
    write_patches(folder / "model", "detection")
    (folder / "model.onnx").unlink()
    seal = (folder / "model" / "bundle.json.sha256").read_text()[:12]
    (folder / "log" / "images").mkdir(parents=True)
    lines = []
    for i in range(8):
        name = f"{i}.png"
        picture(i).save(folder / "log" / "images" / name)
        lines.append({
            "model": "model", "version": "1", "bundle": seal, "time": 1.7e9 + 3600 * i, "seconds": 0.01, "image": name, "source": "camera",
            "class": "red", "confidence": 0.7, "entropy": 0.4, "brightness": 0.5,
            "boxes": [{"class": "red", "confidence": 0.7, "shares": [0.1, 0.1, 0.5, 0.6]}],
        })  # fmt: skip
    (folder / "log" / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def keys(folder: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    from planish.export.bundle.signature import sign

    folder.mkdir(parents=True)
    (folder / "keys.txt").write_text("# keys\nabcdef0123456789\nsecond-key\n")
    private = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    (folder / "key.pem").write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "public.pem").write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    bundle("semantic")(folder / "model")
    sign(folder / "model", folder / "key.pem")
