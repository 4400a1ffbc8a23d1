"""Terminal tables for the commands ``bench``, ``data``, ``doctor`` and ``monitor``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from planish.data.sources.inventory import LeftOut
from planish.evaluation.latency import LatencyReport
from planish.report import formatting as words
from planish.serving.monitoring.monitor import Monitored


def latency_table(report: LatencyReport) -> Table:
    """Build a table of benchmark results, one row per model."""
    noise = words.show(report.noise_floor)
    table = _table(
        caption=f"{report.rounds} rounds in {report.launches} launches, {report.threads} threads, batch {report.batch}; noise floor {noise}"
    )
    for heading in ("", "median ms", "95 % of calls", "speed-up", "interval", "verdict"):
        table.add_column(heading, justify="left" if heading in ("", "verdict") else "right", overflow="fold")
    for name, m in report.measurements.items():
        baseline = name == report.baseline
        table.add_row(
            name,
            words.show(m["latency_ms"]),
            words.show(m["latency_p95_ms"]),
            "" if baseline else words.show(m["latency_ratio"]),
            "" if baseline else words.interval(m["latency_ratio"]),
            "baseline" if baseline else report.verdicts[name],
        )
    return table


def data_table(found: Mapping[str, Any]) -> Table:
    """Build a table of the numbers of images and objects by class and split."""
    objects = found["objects"]
    title = f"{found['name']}: {found['task']}, {found['images']:,} images"
    if objects is not None:
        total = sum(sum(objects[split].values()) for split in objects if split != "calibration")
        title += f", {total:,} objects"
    table = _table(title=Text(title))
    splits = list(found["counts"])
    table.add_column("images" if objects is None else "objects (in images)")
    for split in splits:
        table.add_column(split, justify="right")
    table.add_row("all", *(_cell(found, split, None) for split in splits))
    for name in found["counts"][splits[0]]:
        table.add_row(Text(name), *(_cell(found, split, name) for split in splits))
    return table


def data_lines(found: Mapping[str, Any]) -> list[str]:
    """Return lines on what is used and skipped, assumptions, the split, duplicates, leaks and label conflicts."""
    inventory = found["inventory"]
    lines = [f"task: {found['task']}; layout: {inventory['layout']}"]
    count = f"{inventory['images_found']:,} images found, {found['images']:,} used"
    if inventory["annotations_found"] is not None:
        count += f"; {inventory['annotations_found']:,} annotations found, {inventory['annotations_used']:,} used"
    lines.append(count)
    lines += [str(LeftOut.model_validate(one)) for one in inventory["left_out"]]
    lines += [f"assumed: {text}" for text in inventory["assumptions"]]
    lines.append(f"split: {found['how']}")
    lines.append(f"{found['exact_duplicates']} exact and {found['near_duplicates']} near duplicates")
    lines += [f"leak: {leak['images']} images of {leak['second']} are also in {leak['first']}" for leak in found["leaks"]]
    lines += [f"one image, several labels: {', '.join(keys)}" for keys in found["label_conflicts"][:5]]
    return lines


def _cell(found: Mapping[str, Any], split: str, name: str | None) -> str:
    """Format the number of images of a class (all if ``name`` is None), preceded by the number of objects if the dataset has objects."""
    images = found["split_sizes"][split] if name is None else found["counts"][split].get(name, 0)
    if found["objects"] is None:
        return f"{images:,}"
    objects = found["objects"][split]
    return f"{sum(objects.values()) if name is None else objects.get(name, 0):,} ({images:,})"


def doctor_table(found: Mapping[str, Any]) -> Table:
    """Build a table of this machine's hardware, versions and runtimes."""
    table = _table(show_header=False)
    table.add_column("")
    table.add_column("", overflow="fold")
    for section, values in found.items():
        table.add_row(Text(section, "bold"), "")
        for name, value in values.items():
            words = f"{value / 1e9:.1f} GB" if name.endswith("_bytes") else str(value)
            table.add_row(
                f"  {name.removesuffix('_bytes').replace('_', ' ')}", Text(words, "yellow" if words.startswith("missing") else "")
            )
    return table


def monitor_table(found: Monitored) -> Table:
    """Build a table of a model's drift findings."""
    lines = [f"since {found.since}"] * bool(found.since)
    if found.latency_ms:
        lines.append("a request takes {:.1f} ms, 95 % of them less than {:.1f} ms".format(*found.latency_ms))
    if found.compared != found.images:
        lines.append("only images that are independent are compared; --correlation says after what time they are")
    if found.others:
        lines.append(f"{found.others:,} predictions of other bundles of that name were passed over")
    table = _table(title=found.verdict, caption="\n".join(lines))
    for heading in ("", "", "reference → last images", "without drift"):
        table.add_column(heading, overflow="fold")
    for one in found.findings:
        table.add_row(one.of, "drifted" if one.drifted else "", one.words, _chance(one.log10_evidence))
    return table


def _chance(log10_evidence: float | None) -> str:
    if log10_evidence is None:
        return ""
    if log10_evidence > 6:
        return "less than 1 in a million"
    return f"at most 1 in {10**log10_evidence:,.0f}" if log10_evidence >= 1 else "nothing unusual"


def _table(**options: Any) -> Table:
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, title_justify="left", caption_justify="left", **options)
