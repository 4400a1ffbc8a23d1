"""Models of a few lines that find red, green and blue patches, as bundles: services and bundles of detection and segmentation are tested
with them, whose answers can be told from the image."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from onnx import TensorProto, checker, helper, save
from PIL import Image, ImageDraw

from planish.artifact import Artifact, InputSpec, Lineage, Preprocessing, Source
from planish.data.preprocessing import preprocess
from planish.export.bundle.folder import write_bundle
from planish.settings import DeploymentTarget

COLOURS = ("red", "green", "blue")
SCORES = (0.9, 0.6, 0.2)
SPEC = InputSpec(3, 64, 96)
PREPROCESSING = Preprocessing(480, "squash", (0.5,) * 3, (0.25,) * 3)
Box = tuple[float, float, float, float]
_PAINTS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (40, 70, 220)}
_ROWS = 5  # that the files return; the last ones are nothing


def picture(patches: Mapping[str, Box], size: tuple[int, int] = (480, 320), seed: int = 0, shape: str = "ellipse") -> Image.Image:
    """A grey image of ``(width, height)`` with such patches, given as left, top, right, bottom in shares of its sides."""
    width, height = size
    rng = np.random.default_rng(seed)
    slope = np.linspace(90, 190, width)[None, :, None] + rng.normal(0, 6, (height, width, 1))
    image = Image.fromarray(np.repeat(slope.clip(0, 255).astype(np.uint8), 3, axis=2))
    pen = ImageDraw.Draw(image)
    for name, (left, top, right, bottom) in patches.items():
        corners = (left * width, top * height, right * width - 1, bottom * height - 1)
        getattr(pen, shape)(corners, fill=_PAINTS[name])
    return image


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The image as a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def prepared(image: Image.Image) -> Any:
    """As the models are fed it, uint8 ``(1, H, W, 3)``."""
    return preprocess(file_of(image), SPEC, PREPROCESSING)[None]


def scattered(count: int, seed: int = 0, size: float = 0.25, colours: Sequence[str] = COLOURS) -> list[bytes]:
    """Image files with a patch of some of these colours each, none in some, of about that size."""
    rng = np.random.default_rng(seed)
    files = []
    for number in range(count):
        patches: dict[str, Box] = {}
        for colour in colours:
            if rng.random() < 0.7:
                wide, high = rng.uniform(0.6 * size, 1.4 * size, 2)
                left, top = rng.uniform(0, 1 - wide), rng.uniform(0, 1 - high)
                patches[colour] = (left, top, left + wide, top + high)
        files.append(file_of(picture(patches, (96, 64), seed=1000 * seed + number)))
    return files


class _Graph:
    """ONNX nodes, written down as they are called."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def __getattr__(self, kind: str) -> Any:
        def call(*inputs: Any, **attributes: Any) -> str:
            name = f"v{len(self.nodes)}"
            self.nodes.append(helper.make_node(kind, [self._named(value) for value in inputs], [name], **attributes))
            return name

        return call

    def _named(self, value: Any) -> str:
        if isinstance(value, str):
            return value
        array = np.asarray(value)
        name = f"c{len(self.constants)}"
        self.constants.append(helper.make_tensor(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, array.ravel().tolist()))
        return name


def write_model(file: Path, task: str, scores: Sequence[float] = SCORES) -> Path:
    """An ONNX file for ``detection``, ``instance`` or ``semantic``; patches of a colour are found together, and as sure as ``scores``."""
    g, height, width = _Graph(), SPEC.height, SPEC.width
    pixels = g.Transpose(g.Cast("images", to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
    others = g.Sub(g.ReduceSum(pixels, np.array([1]), keepdims=1), pixels)
    stands_out = g.Sub(pixels, g.Mul(others, np.float32(0.5)))  # (N, 3, H, W)
    found = g.Cast(g.Greater(stands_out, np.float32(40)), to=TensorProto.FLOAT)
    if task == "semantic":
        nothing = g.Mul(g.ReduceMax(found, axes=[1], keepdims=1), np.float32(-1))
        logits = g.Mul(g.Concat(g.Add(nothing, np.float32(1)), found, axis=1), np.float32(4))
        outputs = {
            "classes": g.Cast(g.ArgMax(logits, axis=1, keepdims=0), to=TensorProto.UINT8),
            "confidence": g.ReduceMax(g.Softmax(logits, axis=1), axes=[1], keepdims=0),
        }
        shapes = {"classes": ["N", height, width], "confidence": ["N", height, width]}
    else:
        across, down = g.ReduceMax(found, axes=[2], keepdims=0), g.ReduceMax(found, axes=[3], keepdims=0)  # (N, 3, W), (N, 3, H)
        corners = []
        for places, side, last in ((across, width, 0), (down, height, 0), (across, width, 1), (down, height, 1)):
            place = g.Cast(g.ArgMax(places, axis=2, keepdims=1, select_last_index=last), to=TensorProto.FLOAT)
            corners.append(g.Mul(g.Add(place, np.float32(last)), np.float32(1 / side)))
        there = g.ReduceMax(across, axes=[2], keepdims=0)  # (N, 3)
        sure, order = g.Mul(there, np.array(scores, np.float32)), None
        top, order = f"top{len(g.nodes)}", f"order{len(g.nodes)}"
        g.nodes.append(helper.make_node("TopK", [sure, g._named(np.array([len(COLOURS)]))], [top, order], axis=1))
        rest = np.array([0, 0, 0, _ROWS - len(COLOURS)])
        boxes = g.GatherElements(g.Concat(*corners, axis=2), g.Expand(g.Unsqueeze(order, np.array([2])), np.array([1, 1, 4])), axis=1)
        outputs = {
            "boxes": g.Pad(boxes, np.array([0, 0, 0, 0, _ROWS - len(COLOURS), 0])),
            "scores": g.Pad(top, rest),
            "labels": g.Pad(order, rest),
        }
        shapes = {"boxes": ["N", _ROWS, 4], "scores": ["N", _ROWS], "labels": ["N", _ROWS]}
        if task == "instance":
            small = g.AveragePool(found, kernel_shape=[4, 4], strides=[4, 4])
            picked = g.Expand(g.Unsqueeze(order, np.array([2, 3])), np.array([1, 1, height // 4, width // 4]))
            outputs["masks"] = g.Pad(g.GatherElements(small, picked, axis=1), np.array([0, 0, 0, 0, 0, _ROWS - len(COLOURS), 0, 0]))
            shapes["masks"] = ["N", _ROWS, height // 4, width // 4]
    kinds = {"classes": TensorProto.UINT8, "labels": TensorProto.INT64}
    g.nodes += [helper.make_node("Identity", [inner], [name]) for name, inner in outputs.items()]
    graph = helper.make_graph(
        g.nodes,
        "patches",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", height, width, 3])],
        [helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), shapes[name]) for name in outputs],
        g.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    save(model, str(file))
    return file


class _Split:
    def __init__(self, files: Sequence[bytes]) -> None:
        self.files, self.keys = files, [f"{i}.png" for i in range(len(files))]

    def __len__(self) -> int:
        return len(self.files)

    def images(self, spec: InputSpec, preprocessing: Preprocessing) -> Any:
        return np.stack([preprocess(data, spec, preprocessing) for data in self.files])

    def file_bytes(self, index: int) -> bytes:
        return self.files[index]


def write_patches(folder: Path, task: str, files: Sequence[bytes] | None = None, *, golden: int = 4) -> Path:
    """A bundle of such a model; golden samples and reference values are of these image files."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = write_model(folder.parent / "model.onnx", task)
    classes = ("background", *COLOURS) if task == "semantic" else COLOURS
    source = Source("patches", len(classes), 3, task=task)
    artifact = Artifact("onnx", SPEC, PREPROCESSING, classes, Lineage(source), files=(file,))
    split = _Split(scattered(24) if files is None else files)
    fake: Any = SimpleNamespace(name=task, class_names=classes, split=lambda name: split)
    return write_bundle(artifact, fake, folder, target=DeploymentTarget("onnxruntime"), measurements={}, golden=golden)
