"""Synthesis of images from a trained network."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from planish.commands.options import Resize, at_least
from planish.errors import DataError
from planish.units import ImageSize, image_sides

if TYPE_CHECKING:
    from planish.artifact import Artifact, Pixels
    from planish.settings import ModelSettings

_USUAL_SIDE = 224
_OPENED_WITH = 8  # images that a network is opened with


def synthesize(
    model: str | Path,
    *,
    out: str | Path,
    count: int = 64,
    steps: int = 200,
    weights: str | Path | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    image_size: ImageSize | None = None,
    resize: Resize | None = None,
    task: str | None = None,
    seed: int = 0,
) -> Path:
    """Make images from a trained network for calibration, where there are no others.

    The images get the means and variances of feature maps that batch norm keeps of the training images. Files of exporters that fold batch
    norm away keep none; the images are then random discs in which the network recognises its classes.

    Args:
        model: Folder of a saved model; or the name of a network together with --weights: FILE.py:factory, timm:NAME, torchvision:NAME;
            or an .onnx file.
        out: Output folder; must not exist.
        count: Number of images.
        steps: Steps of gradient descent for each image.
        weights: Weights of a network given by name: a .safetensors or .pth file.
        mean: Mean the network expects, on the scale 0 to 1: one value, or one per channel, such as 0.485,0.456,0.406.
        std: Standard deviation the network expects, given like --mean, such as 0.229,0.224,0.225.
        image_size: Input size in pixels, or HEIGHTxWIDTH; 224 for a network that takes any.
        resize: How images are brought to the input size, for networks given by name.
        task: outputs takes any network; detection, instance or semantic need a saved model's weights.
        seed: Seed of the images.

    Returns:
        The output folder.

    Raises:
        DataError: the output folder exists.
        ModelError: the network cannot be opened, or is an exported model.
        GoalError: the normalisation of the network's images is not known.

    Example:
        $ planish synthesize timm:resnet18 --weights net.pth --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --out synthesized/
    """
    import tempfile

    from planish.commands.models import channel_list
    from planish.data.sources.unlabelled import SYNTHESIZED
    from planish.files.workspace import replace_folder
    from planish.models.onnx.unfolding import unfolded_norms
    from planish.progress import collecting_notes, note
    from planish.runs.converted_onnx import is_external_onnx
    from planish.runs.networks.synthesis import dead_leaves, norms_of
    from planish.runs.networks.synthesis import synthesize as synthesize_images
    from planish.settings import ModelSettings

    at_least(3, count=count)
    at_least(0, steps=steps)
    folder = Path(out)
    if folder.exists():
        raise DataError(f"{folder} exists already", "images are never overwritten", "choose another --out")
    network = ModelSettings(str(model), weights, image_size, resize, channel_list(mean), channel_list(std), task)
    height, width = (_USUAL_SIDE, _USUAL_SIDE) if image_size is None else image_sides(image_size)
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.absolute().parent) as place:
        with collecting_notes(silent=True):  # about images that are there only to open the network with
            artifact = _opened(network, Path(place), (height, width), seed)
        module, spec = artifact.module, artifact.input_spec
        assert module is not None
        inserted = set(unfolded_norms(module)) if is_external_onnx(network.name) else set()
        norms = [norm for norm in norms_of(module) if norm not in inserted]
        note(f"{count} images of {spec.height} x {spec.width} pixels, from the statistics in {len(norms)} batch norms")
        if not norms:
            note(f"{network.name} keeps no statistics of its training images: what is made is less like them")
        leaves = dead_leaves(count, spec, seed)
        made = synthesize_images(module, norms, leaves, artifact.preprocessing, steps=steps, seed=seed) if steps else leaves
        whole = Path(place) / "whole"
        whole.mkdir()
        _save(whole, made)
        text = f"Images synthesized by planish synthesize from {network.name}: {steps} steps, seed {seed}.\n"
        (whole / SYNTHESIZED).write_text(text, encoding="utf-8")
        replace_folder(folder.absolute(), whole)
    return folder


def _opened(network: ModelSettings, place: Path, size: tuple[int, int], seed: int) -> Artifact:
    """Open a network with images that are drawn for this: in colour, or, if it does not take those, in grey."""
    from planish.artifact import InputSpec
    from planish.commands.models import open_unanswered
    from planish.errors import PlanishError
    from planish.runs.networks.synthesis import dead_leaves

    def opened(channels: Literal[1, 3]) -> Artifact:
        folder = place / f"start-{channels}"
        folder.mkdir()
        _save(folder, dead_leaves(_OPENED_WITH, InputSpec(channels, *size), seed))
        return open_unanswered(network, f"unlabelled:{folder}", seed=seed, skip_bad=False).artifact

    try:
        return opened(3)
    except PlanishError:
        with suppress(PlanishError):
            return opened(1)
        raise


def _save(folder: Path, images: Pixels) -> None:
    from PIL import Image

    for i, pixels in enumerate(images):
        Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(folder / f"{i:04}.png")
