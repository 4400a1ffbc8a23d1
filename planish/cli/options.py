"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planish.cli.running import fail, one_of

if TYPE_CHECKING:
    from planish.runs.open_network import Network
    from planish.serving.monitoring.drift import DriftSettings

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="Folder with a folder per class, with annotations of COCO, Pascal VOC or YOLO, or with mask images; COCO or "
        "YOLO's YAML file; CSV or JSON-lines manifest; or fashion-mini, fashion-scenes, cifar10, fashion-mnist, mnist.",
    ),
]
Model = Annotated[str, typer.Option(help="resnet20, torchvision:NAME, timm:NAME, or FILE.py:factory; optimize also takes FILE.onnx.")]
Weights = Annotated[str | None, typer.Option(help="imagenet, or a .safetensors or .pth file.")]
TaskName = Annotated[
    str | None, typer.Option("--task", help="classification, detection, instance or semantic; by default what the data is for.")
]
LayoutName = Annotated[
    str | None,
    typer.Option(
        "--layout",
        help="How DATA is laid out, where it could be read in several ways: classes, splits, coco, voc, yolo or masks. The same as "
        "LAYOUT:DATA.",
    ),
]
Out = Annotated[Path | None, typer.Option(help="Folder for the results.")]
Budget = Annotated[str, typer.Option(help="Wall-clock time for everything: 20m, 90s, 1h30m.")]
Runtime = Annotated[str, typer.Option(help="auto, onnxruntime or openvino.")]
Threads = Annotated[int, typer.Option(help="Threads the runtime may use.")]
Batch = Annotated[int, typer.Option(help="Batch size.")]
ImageSize = Annotated[int | None, typer.Option(help="Pixels the model is fed; by default the images' own size, at most 224.")]
RecipeName = Annotated[
    str | None,
    typer.Option("--recipe", help="Name (see planish recipes) or YAML file; by default one for fresh or for pretrained weights."),
]
Changes = Annotated[list[str] | None, typer.Option("--set", help="Change a value of the recipe: training.epochs=10, norm=group.")]
Epochs = Annotated[int | None, typer.Option(min=1, help="Times every image is seen; --set training.epochs.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave broken images out instead of stopping.")]
Seed = Annotated[int, typer.Option(help="Of the split, fresh weights and training.")]
Resize = Annotated[str | None, typer.Option(help="squash, or crop to the middle; by default squash for images that are about square.")]
Mean = Annotated[str | None, typer.Option(help="That FILE.onnx expects taken off pixel / 255: 0.485,0.456,0.406 by default, or 0.")]
Std = Annotated[str | None, typer.Option(help="That it expects to be divided by then: 0.229,0.224,0.225 by default, or 1.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out; no finished step is repeated.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Train = Annotated[str, typer.Option(help="auto trains the model unless it was already trained on these classes; always; never.")]

NamedModel = Annotated[
    str | None,
    typer.Option(
        "--model", help="Instead of MODEL: FILE.py:factory, timm:NAME, torchvision:NAME; with --weights, and its --mean and --std."
    ),
]
ModelAndData = Annotated[
    list[str], typer.Argument(metavar="[MODEL] DATA", help="Folder of a saved model, and the images; the images alone with --model.")
]
MeanOfNetwork = Annotated[str | None, typer.Option("--mean", help="That --model expects taken off pixel / 255: 0.485,0.456,0.406, or 0.")]
StdOfNetwork = Annotated[str | None, typer.Option("--std", help="That it expects to be divided by then: 0.229,0.224,0.225, or 1.")]

Correlation = Annotated[
    str,
    typer.Option(help="Time after which two images of one source (header X-Source) are independent: 0, 60s, 10m. Drift is judged by such."),
]
Cycle = Annotated[
    str, typer.Option(help="none, day or week: what comes back in each, as day and night do, is no drift. Judged at its end.")
]


def data_in(data: str, layout: str | None) -> str:
    """DATA, to be read in the layout that --layout names."""
    from planish.data.sources.source import with_layout

    return with_layout(data, layout)


def recipe_changes(changes: list[str] | None, **short: int | None) -> list[str]:
    """What --set says of the recipe, after what has an option of its own."""
    return [*(f"{key}={value}" for key, value in short.items() if value is not None), *(changes or ())]


def numbers(option: str, text: str | None) -> list[float] | None:
    """``0.5`` or ``0.485,0.456,0.406``."""
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        fail(f"{option} {text} is not a number, nor several with commas between. For example {option} 0.485,0.456,0.406.")


def model_and_data(
    positional: list[str],
    model: str | None,
    weights: str | None,
    mean: str | None,
    std: str | None,
    image_size: int | None,
    resize: str | None,
    task: str | None,
) -> tuple[str | Network, str]:
    """MODEL and DATA of a command, where the model may be named by --model and what belongs to it."""
    given = {"--weights": weights, "--mean": mean, "--std": std, "--image-size": image_size, "--resize": resize, "--task": task}
    if model is None:
        if extra := [name for name, value in given.items() if value is not None]:
            fail(f"{', '.join(extra)} only valid with --model. A saved model keeps its own.")
        if len(positional) != 2:
            fail("Give MODEL and DATA; or DATA with --model FILE.py:factory and --weights FILE.")
        return positional[0], positional[1]
    if len(positional) != 1:
        fail("With --model there is no MODEL before DATA. Give the images alone.")
    from planish.runs.open_network import Network

    how: Any = None if resize is None else one_of("--resize", resize, "squash", "crop")
    return Network(model, weights, numbers("--mean", mean), numbers("--std", std), image_size, how, task), positional[0]


def drift_settings(correlation: str, cycle: str, false_alarms: float = 0.05, period: str = "week") -> DriftSettings:
    """What is assumed of images that do not drift."""
    from planish.serving.monitoring.drift import DriftSettings
    from planish.units import seconds

    correlation_s = 0.0 if correlation.strip() == "0" else seconds(correlation)
    return DriftSettings(
        false_alarms, one_of("--period", period, "day", "week"), correlation_s, one_of("--cycle", cycle, "none", "day", "week")
    )
