"""Report of a comparison of backbones: the terminal table and conclusion, and ``backbones.html``, one file that works offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup
from rich import box
from rich.table import Table

from planish.datacentric.backbones import BackboneResult, Backbones
from planish.report import formatting as words
from planish.report.pages.html import filled, write_page
from planish.report.plots.accuracy_latency import LatencyPoint, accuracy_over_latency
from planish.runs.networks.network_files import limits_in_words


def backbones_table(found: Sequence[BackboneResult]) -> Table:
    """Build a table with one row per network, the recommended one first."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("network", "fp32 ms", "INT8 ms", "INT8 size", "linear probe", "fine-tuned", "95% interval", "left out"):
        table.add_column(heading, justify="left" if heading in ("network", "left out") else "right", overflow="fold")
    for one in found:
        table.add_row(*row(one))
    return table


def row(one: BackboneResult) -> tuple[str, ...]:
    """Return the cells of a network's row in the tables of terminal and page."""
    latency = [words.show(one.latency[p]).removesuffix(" ms") if p in one.latency else "" for p in ("fp32", "int8")]
    size = words.show(one.size["int8"]) if "int8" in one.size else ""
    probe, accuracy = ("" if m is None else words.show(m) for m in (one.probe, one.accuracy))
    return one.name, *latency, size, probe, accuracy, "" if one.accuracy is None else words.interval(one.accuracy), one.left_out


def recommendation(found: Backbones) -> str:
    """Return a sentence on which network to start from."""
    best = found.backbones[0]
    limits = limits_in_words(found.max_latency_ms, found.max_size_bytes)
    within = f" within {limits}" if limits else ""
    if best.left_out:
        nearest = min(found.backbones, key=lambda one: one.latency_ms)
        fastest = f"; the fastest is {_timed(nearest)}" if nearest.latency else ""
        return f"No network is{within}{fastest}. Fewer pixels (--image-size) or planish optimize make one faster."
    if best.accuracy is None and best.probe is None:
        return f"Without pretrained weights networks are ranked by latency alone: the fastest{within} is {_timed(best)}."
    measured = best.accuracy or best.probe
    assert measured is not None
    how = "fine-tuned" if best.accuracy is not None else "with a linear classifier on its features"
    text = f"Start from {_timed(best)}: {words.show(measured)} on validation, {how}."
    faster = [one for one in found.backbones if one.name in found.as_good and one.latency_ms < best.latency_ms]
    if faster:
        milliseconds = words.milliseconds(faster[0].latency_ms)
        text += f" {faster[0].name} is faster ({milliseconds} ms), and its accuracy is no difference on these images."
    short = [one.name for one in found.backbones if one.accuracy and one.probe and one.accuracy.value < one.probe.value]
    if short:
        text += f" Fine-tuning was too short for {' and '.join(short)}, below the linear classifier: a longer --budget ranks more reliably."
    return text


def _timed(one: BackboneResult) -> str:
    precision = {"fp32": "fp32", "int8": "INT8"}[one.fastest]
    return f"{one.name}, {words.milliseconds(one.latency_ms)} ms in {precision}"


def write_backbones(folder: Path) -> Path:
    """Write ``backbones.html`` next to ``backbones.json`` and return its path."""
    found = Backbones.load(folder / "backbones.json")
    page = filled(
        "backbones.html.jinja",
        found=found,
        recommendation=recommendation(found),
        row=row,
        plot=_plot(found),
    )
    return write_page(folder / "backbones.html", page)


def _plot(found: Backbones) -> Markup:
    """Plot accuracy over latency, fine-tuned networks filled and probed ones hollow."""
    points = []
    for one in found.backbones:
        accuracy = one.accuracy or one.probe
        if one.latency and accuracy is not None:
            how = "" if one.accuracy else ", linear probe"
            points.append(LatencyPoint(one.name.rpartition(":")[2], _timed(one), one.latency_ms, accuracy, one.accuracy is None, how))
    return accuracy_over_latency(points, found.max_latency_ms)
