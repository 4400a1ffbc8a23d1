"""One image through the original and the chosen model of a run, in turns."""

from __future__ import annotations

import base64
import io
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from planish.artifact import Predictor
from planish.data.preprocessing import decode_with_size, resize
from planish.errors import BundleError
from planish.files.atomic import read_result
from planish.runs.open_model import Opened, open_model
from planish.search.evidence import RunEvidence
from planish.search.result import Result
from planish.serving.occlusion import seen_region
from planish.tasks import registered
from planish.tasks.localisation import View
from planish.tasks.responses import PLAIN, responses

_CALLS = 15  # of each model; enough to see a difference, not to claim one
_MAX_PIXELS = 24_000_000


@dataclass(frozen=True)
class Side:
    """What one of the two models says.

    Args:
        title: ``original`` or ``chosen``.
        name: summary and runtime.
        lines: the answer, a line for each class or object.
        milliseconds: median of a few calls in turns with the other model.
        picture: data URI of the image with the answer drawn into it; empty if there is nothing to draw.
    """

    title: str
    name: str
    lines: tuple[str, ...]
    milliseconds: float
    picture: str


def side_by_side(run: Path, file_bytes: bytes) -> list[Side]:
    """Let both models of a finished run answer an image file.

    Raises:
        BundleError: the run's files are not there.
        DataError: it is no image.
    """
    models = _models(run, (run / "result.json").stat().st_mtime_ns)
    given = [_input(opened, file_bytes) for _, _, opened, _ in models]
    times: list[list[float]] = [[] for _ in models]
    outputs: list[Any] = [predict(pixels) for (_, _, _, predict), (pixels, _) in zip(models, given, strict=True)]
    for _ in range(_CALLS):
        for (_, _, _, predict), (pixels, _), spent in zip(models, given, times, strict=True):
            begun = time.perf_counter()
            predict(pixels)
            spent.append(1000 * (time.perf_counter() - begun))
    return [
        Side(title, name, _lines(opened, found, view), float(np.median(spent)), _picture(opened, pixels, found))
        for (title, name, opened, _), (pixels, view), found, spent in zip(models, given, outputs, times, strict=True)
    ]


@lru_cache(maxsize=2)
def _models(run: Path, _: int) -> list[tuple[str, str, Opened, Predictor]]:
    """The original in its fastest float32 runtime, and the chosen model; loaded once for each version of the result."""
    result, evidence = Result.load(run / "result.json"), read_result(run / "evidence.json", RunEvidence)
    found = []
    for title, one in (("original", result.baseline), ("chosen", result.chosen)):
        place = run / "work" / evidence.files.get(one.key, "")
        if one.key not in evidence.files or not place.is_dir():
            raise BundleError(f"the files of {one.summary} are not in {run / 'work'}", "they were deleted", "start the run again")
        opened = replace(open_model(place), runtime=one.runtime)  # which may be openvino-default
        found.append((title, f"{one.summary}; {one.runtime}", opened, opened.predictor()))
    return found


def _input(opened: Opened, file_bytes: bytes) -> tuple[Any, View]:
    spec, how = opened.input_spec, opened.preprocessing
    image, (height, width) = decode_with_size(file_bytes, spec.channels, how.decode_side, _MAX_PIXELS)
    return resize(image, spec, how)[None], View(height, width, seen_region(image.shape[0], image.shape[1], spec, how))


def _lines(opened: Opened, outputs: Any, view: View) -> tuple[str, ...]:
    (answer,) = responses(opened.task, outputs, opened.class_names, [view], PLAIN)
    rows = next((answer[key] for key in ("classes", "objects", "regions") if isinstance(answer.get(key), list)), None)
    if rows is None:
        return tuple(f"{name}: {str(value)[:80]}" for name, value in answer.items())
    return tuple(_line(row) for row in rows[:10])


def _line(row: dict[str, Any]) -> str:
    sure = next((row[key] for key in ("share", "confidence") if key in row), None)
    return f"{row.get('class', row.get('name', row))}" + ("" if sure is None else f" {100 * sure:.1f} %")


def _picture(opened: Opened, pixels: Any, outputs: Any) -> str:
    drawn = registered()[opened.task]({}, opened.class_names).draw(pixels, outputs, None)
    if drawn is None:
        return ""
    buffer = io.BytesIO()
    Image.fromarray(drawn[0]).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
