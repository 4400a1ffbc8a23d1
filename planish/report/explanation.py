"""An explanation on the terminal: the slowest layers, then what was found."""

from __future__ import annotations

import math

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from planish.explain.explain import Explanation, LayerRow
from planish.report import words

_NAME = 26  # characters of a layer's name


def explanation(found: Explanation, top: int = 12) -> RenderableType:
    """Head, layers, findings.

    Args:
        found: what to show.
        top: the slowest layers to list; 0 for all, in the order of execution.
    """
    head = Text(f"{found.file}", style="bold")
    head.append(f" in {words.runtime_name(found.runtime)}: {found.summary}", style="not bold")
    parts: list[RenderableType] = [head, Text(_reach(found), style="dim"), _layers(found, top), _kinds(found)]
    if found.errors is not None:
        parts.append(
            Text(
                f"error    the output has {_db(found.errors.final_db)} dB signal to noise on {found.errors.images} images, "
                f"against {found.errors.reference}"
            )
        )
    if found.preprocessing_ms is not None:
        parts.append(Text(f"image    {words.milliseconds(found.preprocessing_ms)} ms to decode and resize one"))
    parts += [Text(f"note     {note}", style="dim") for note in found.notes]
    parts.append(Text(""))
    parts += _findings(found)
    return Group(*parts)


def _reach(found: Explanation) -> str:
    r = found.reach
    return (
        f"{found.cpu} reaches {r.fp32_gops:.0f} GOP/s in fp32 and {r.int8_gops:.0f} in int8 on a large matrix product "
        f"({r.threads} {'thread' if r.threads == 1 else 'threads'})"
    )


def _layers(found: Explanation, top: int) -> Table:
    rows = list(found.layers) if top == 0 else sorted(found.layers, key=lambda x: -x.ms)[:top]
    rest = len(found.layers) - len(rows)
    rest_ms = sum(x.ms for x in found.layers) - sum(x.ms for x in rows)
    caption = f"and {rest} more layers in {words.milliseconds(rest_ms)} ms; --top 0 shows all" if rest else None
    table = Table(caption=caption, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, caption_justify="left", title_justify="left")
    with_errors = any(x.snr_db is not None for x in rows)
    table.add_column("layer", no_wrap=True, overflow="ellipsis", min_width=8)
    table.add_column("executed as", no_wrap=True, overflow="ellipsis", min_width=11)
    for heading in ("ms", "share", "type", "GOP/s", "reach"):
        table.add_column(heading, justify="right" if heading != "type" else "left", no_wrap=True)
    table.add_column("conv.", justify="right", no_wrap=True)
    if with_errors:
        table.add_column("dB", justify="right", no_wrap=True)
    for row in rows:
        cells = [
            _short(row.name),
            row.op,
            words.milliseconds(row.ms),
            f"{100 * row.share:.0f} %",
            row.precision,
            "" if row.gops is None else f"{row.gops:.0f}",
            "" if row.reach_share is None else f"{100 * row.reach_share:.0f} %",
            _conversions(row),
        ]
        table.add_row(*map(Text, cells), *([Text("" if row.snr_db is None else _db(row.snr_db))] if with_errors else []))
    return table


def _short(name: str) -> str:
    """Layers differ at the end of their names more often than at the beginning."""
    return name if len(name) <= _NAME else "…" + name[1 - _NAME :]


def _conversions(row: LayerRow) -> str:
    return f"{len(row.conversions)}" if row.conversions else ""


def _db(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.0f}"


def _kinds(found: Explanation) -> Text:
    shares = [f"{kind} {100 * ms / found.latency_ms:.0f} %" for kind, ms in found.kinds_ms.items() if ms >= 0.005 * found.latency_ms]
    return Text("time     " + ", ".join(shares))


def _findings(found: Explanation) -> list[RenderableType]:
    if not found.findings:
        return [Text("✓ nothing found that would pay to change", style="green")]
    parts: list[RenderableType] = []
    for number, finding in enumerate(found.findings, 1):
        cost = "wrong results" if finding.wrong_results else f"costs about {words.milliseconds(finding.cost_ms)} ms"
        table = Table.grid(padding=(0, 1, 0, 0))
        table.add_column(width=4, justify="right")
        table.add_column(ratio=1, overflow="fold")
        head = Text(finding.what, style="bold")
        head.append(f"  {cost}", style="red" if finding.wrong_results else "yellow")
        table.add_row(Text(f"{number}."), head)
        table.add_row(Text("why", style="dim"), Text(finding.why))
        table.add_row(Text("fix", style="green"), Text(finding.fix))
        if finding.layers:
            named = ", ".join(_short(name) for name in finding.layers[:3])
            more = f" and {len(finding.layers) - 3} more" if len(finding.layers) > 3 else ""
            table.add_row(Text("at", style="dim"), Text(named + more, style="dim"))
        parts += [table, Text("")]
    return parts[:-1]
