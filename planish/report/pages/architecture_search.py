"""Report of an architecture search: the terminal table and conclusion, and ``search.html``, one file that works offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup
from rich import box
from rich.table import Table

from planish.measurement import Measurement
from planish.models.space.architecture import Architecture, is_searched
from planish.report import formatting as words
from planish.report.pages.html import filled, write_page
from planish.report.plots.accuracy_latency import LatencyPoint, accuracy_over_latency
from planish.search.architecture.result import ArchitectureSearch, SearchCandidate

_PRECISIONS = {"fp32": "fp32", "int8": "INT8"}


def search_table(candidates: Sequence[SearchCandidate]) -> Table:
    """Build a table with one row per candidate, the best one first."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("network", "pixels", "chosen by", "predicted ms", "ms", "size", "accuracy"):
        left = heading in ("network", "chosen by")
        table.add_column(heading, justify="left" if left else "right", overflow="fold", min_width=30 if heading == "network" else None)
    for one in candidates:
        cells = row(one)
        table.add_row(*cells[:6], cells[9] or cells[7])
    return table


def row(one: SearchCandidate) -> tuple[str, ...]:
    """Return the cells of a candidate's row in the tables of terminal and page."""
    predicted = "" if one.predicted_ms is None else words.milliseconds(one.predicted_ms)
    latency = "" if one.latency is None else words.milliseconds(one.latency.value)
    size = "" if one.size is None else words.show(one.size)
    last = one.accuracies[-1] if one.accuracies else None
    accuracy, interval = ("", "") if last is None else (words.show(last), words.interval(last))
    origin = one.chosen_by if one.searched else "known network"
    return one.name, str(one.image_size), origin, predicted, latency, size, f"{one.macs / 1e6:.1f} M", accuracy, interval, one.left_out


def outcome(found: ArchitectureSearch) -> list[str]:
    """Return sentences on the network that was found, and on how it compares with others."""
    file = found.files[found.precision]
    text = (
        f"{found.model} at {found.image_size} pixels reaches {words.show(file['accuracy'])} on test {_interval(file['accuracy'])} "
        f"as an exported file in {_PRECISIONS[found.precision]}: {words.milliseconds(file['latency_ms'].value)} ms in "
        f"{words.runtime_name(found.runtime)}, {words.show(file['size_bytes'])}."
    )
    sentences = [text]
    if sum(1 for one in found.candidates if one.accuracies) < 2:
        sentences.append("The budget left no time to compare networks by training; a longer --budget chooses better.")
    elif not is_searched(found.model):
        sentences.append("It is a known network: nothing that was trained in the search space was better.")
    latency = file["latency_ms"]
    if (latency.high or latency.value) > found.max_latency_ms:
        sentences.append(f"In the last timing session it is not clearly within {found.max_latency_ms:g} ms.")
    if found.as_good:
        sentences.append(f"After the short trainings there was no difference to {' and '.join(found.as_good[:3])} on these images.")
    sentences.append(ranking_in_words(found))
    error = found.prediction_error
    sentences.append(
        f"The latency predicted from {found.layers_timed} timed layers was wrong by {error.value:.0f} % (median of {error.n})."
    )
    return sentences


def ranking_in_words(found: ArchitectureSearch) -> str:
    """Return a sentence on which proxy ranked the trained networks best."""
    if not found.rankings:
        return "Too few networks were trained to tell which proxy ranks best."
    best = found.rankings[0]
    value = f"rank correlation {words.number(best.correlation.value, 2)} {_interval(best.correlation)} with {best.correlation.n} networks"
    certain = "" if (best.correlation.low or 0.0) > 0 else ", too few to be certain"
    return f"Of the proxies {best.proxy} ranked best here: {value}{certain}."


def write_search(folder: Path) -> Path:
    """Write ``search.html`` next to ``search.json`` and return its path."""
    found = ArchitectureSearch.load(folder / "search.json")
    page = filled(
        "architecture_search.html.jinja",
        found=found,
        outcome=outcome(found),
        row=row,
        interval=_interval,
        precisions=_PRECISIONS,
        stages=Architecture.named(found.model).stages if is_searched(found.model) else (),
        plot=_plot(found),
    )
    return write_page(folder / "search.html", page)


def _plot(found: ArchitectureSearch) -> Markup:
    points = []
    for one in found.candidates:
        if one.latency is not None and one.accuracies:
            label = "" if one.searched else one.name.rpartition(":")[2]
            title = f"{one.name} at {one.image_size} pixels, {words.milliseconds(one.latency.value)} ms"
            points.append(LatencyPoint(label, title, one.latency.value, one.accuracies[-1], not one.searched))
    return accuracy_over_latency(points, found.max_latency_ms)


def _interval(m: Measurement) -> str:
    return "" if m.low is None or m.high is None else f"[{words.number(m.low, 2)}, {words.number(m.high, 2)}]"
