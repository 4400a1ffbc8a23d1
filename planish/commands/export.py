"""Export of a model to another format, as a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from planish.commands.compress import compress
from planish.commands.options import Layout, Resize
from planish.errors import ModelError
from planish.units import ImageSize

if TYPE_CHECKING:
    from planish.data.sources.dataset import Dataset

Format = Literal["onnx", "openvino", "litert", "executorch", "torch_export", "stablehlo", "tensorrt"]


def export(
    model: str | Path,
    data: str | Path | Dataset,
    *,
    to: Format,
    out: str | Path = "bundle",
    int8: bool = False,
    calibrate: bool = False,
    weights: str | Path | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    image_size: ImageSize | None = None,
    resize: Resize | None = None,
    task: str | None = None,
    layout: Layout | None = None,
    skip_bad: bool = False,
    seed: int = 0,
) -> Path:
    """Export a model to another format as a bundle, checked against the model on real images.

    Args:
        model: Folder of a saved model; or the name of a network together with --weights: FILE.py:factory, timm:NAME, torchvision:NAME.
        data: The dataset it was trained on, for calibration and for checking the file against the model.
        to: Format to export to.
        out: Output folder for the bundle.
        int8: Quantize to 8 bits; weights to 7 if this machine's kernels would overflow with 8.
        calibrate: Divide the logits by a temperature fitted on validation, for calibrated probabilities.
        weights: Weights of a network given by name: a .safetensors or .pth file.
        mean: Mean the network expects, on the scale 0 to 1: one value, or one per channel, such as 0.485,0.456,0.406.
        std: Standard deviation the network expects, given like --mean, such as 0.229,0.224,0.225.
        image_size: Input size in pixels, or HEIGHTxWIDTH.
        resize: How images are brought to the input size.
        task: classification, detection, instance, semantic, or the name of an installed task.
        layout: Layout of the dataset, if it could be read in more than one way.
        skip_bad: Skip broken images instead of stopping.
        seed: Seed of the split, if the model does not store one.

    Returns:
        The bundle's folder.

    Raises:
        ModelError: the format does not support the requested options.

    Example:
        $ planish export model/ photos/ --to openvino --int8 --out bundle/
    """
    from planish.compression import Int8
    from planish.export import Temperature, ToExecuTorch, ToLiteRt, ToOnnx, ToOpenVino, ToStableHlo, ToTensorRt, ToTorchExport
    from planish.plan import Plan

    by_way_of_onnx: dict[str, tuple[Any, ...]] = {"onnx": (), "openvino": (ToOpenVino(),), "tensorrt": (ToTensorRt(),)}
    directly: dict[str, Any] = {
        "litert": ToLiteRt(int8=int8), "executorch": ToExecuTorch(int8=int8), "torch_export": ToTorchExport(), "stablehlo": ToStableHlo(),
    }  # fmt: skip
    if to in directly:
        if calibrate or (int8 and to in ("torch_export", "stablehlo")):
            what = "a temperature" if calibrate else "INT8"
            raise ModelError(
                f"{what} in a {to} file", "it is written into ONNX files, and what is made of them", "export to onnx or openvino"
            )
        steps = [directly[to]]
    elif to in by_way_of_onnx:
        steps = [ToOnnx(), *[Int8.for_device()] * int8, *[Temperature()] * calibrate, *by_way_of_onnx[to]]
    else:
        raise ModelError(f"there is no format {to!r}", f"formats are {', '.join([*by_way_of_onnx, *directly])}", "for example --to onnx")
    return compress(
        model, data, plan=Plan(*steps), out=out, weights=weights, mean=mean, std=std, image_size=image_size, resize=resize, task=task,
        layout=layout, skip_bad=skip_bad, seed=seed,
    ).folder  # fmt: skip
