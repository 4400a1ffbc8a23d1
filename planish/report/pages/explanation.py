"""Terminal report of an explanation: the slowest layers, then the findings."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from planish.explanation.result import Explanation, LayerRow
from planish.report import formatting as words

_WIDE = 100  # terminal columns from which names are given more room
_SPACE = "\N{NO-BREAK SPACE}"


def explanation(found: Explanation, top: int = 12, width: int = 80) -> RenderableType:
    """Build the report: summary, layers, findings.

    Args:
        found: the explanation.
        top: number of slowest layers to list; 0 for all layers, in order of execution.
        width: of the terminal, in columns.
    """
    head = Text(found.model, style="bold")
    head.append(f" in {words.runtime_name(found.runtime)}: {found.summary}", style="not bold")
    rows = sorted(found.layers, key=lambda x: -x.ms)[:top] if top else list(found.layers)
    table = _layers(rows, wide=width >= _WIDE)
    parts: list[RenderableType] = [
        head,
        Text(_reach(found), style="dim"),
        table,
        Text(_legend(found, rows), style="dim"),
        Text(""),
        _facts(found),
        Text(""),
    ]
    return Group(*parts, *_findings(found))


def _facts(found: Explanation) -> Table:
    facts = Table.grid(padding=(0, 1, 0, 0))
    facts.add_column(width=7)
    facts.add_column(ratio=1, overflow="fold")
    facts.add_row("time", Text(_kinds(found)))
    if (errors := found.errors) is not None:
        noise = f"{_db(errors.final_db)} dB signal to noise in the output, on {errors.images} images"
        facts.add_row("error", Text(f"{noise}, against {errors.reference}"))
    if found.preprocessing_ms is not None:
        facts.add_row("image", f"{words.milliseconds(found.preprocessing_ms)} ms to decode and resize one")
    for note in found.notes:
        facts.add_row("note", Text(note))
    return facts


def _reach(found: Explanation) -> str:
    r = found.reach
    return f"{found.cpu}, {_threads(r.threads)}: {r.fp32_gops:.0f} GOP/s in fp32 and {r.int8_gops:.0f} in int8 on a large matrix product"


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _legend(found: Explanation, rows: list[LayerRow]) -> str:
    rest = len(found.layers) - len(rows)
    rest_ms = sum(x.ms for x in found.layers) - sum(x.ms for x in rows)
    lines = [f"and {rest} more layers in {words.milliseconds(rest_ms)} ms; --top 0 shows all"] if rest else []
    lines.append("reach: share of a large product's GOP/s; around: conversions before and after")
    if _with_errors(rows):
        lines.append("adds: signal to noise (dB) of rounding this output alone; dB: of it as it is")
    return "\n".join(lines)


def _with_errors(rows: list[LayerRow]) -> bool:
    return any(row.snr_db is not None for row in rows)


def _layers(rows: list[LayerRow], *, wide: bool) -> Table:
    table, with_errors = Table(box=box.SIMPLE_HEAD, padding=(0, int(wide), 0, 0), pad_edge=False), _with_errors(rows)
    name_width, op_width = (34, 20) if wide else (19 if with_errors else 28, 12)
    table.add_column("layer", no_wrap=True)
    table.add_column("executed as", no_wrap=True)
    headings = {"ms": 5, "share": 5, "type": 4, "GOP/s": 5, "reach": 5, "around": 6} | ({"adds": 4, "dB": 3} if with_errors else {})
    for heading, width in headings.items():
        table.add_column(heading, justify="left" if heading == "type" else "right", no_wrap=True, min_width=width)
    for row in rows:
        cells = [
            _short(row.source or row.name, name_width),
            row.op if len(row.op) <= op_width else row.op[: op_width - 1] + "…",
            words.milliseconds(row.ms),
            _percent(row.share),
            row.precision,
            "" if row.gops is None else f"{row.gops:.0f}",
            "" if row.peak_share is None else _percent(row.peak_share),
            str(len(row.conversions) or ""),
        ]
        if with_errors:
            cells += ["" if value is None else _db(value) for value in (row.added_db, row.snr_db)]
        table.add_row(*map(Text, cells))
    return table


def _short(name: str, width: int) -> str:
    """Truncate a name at its start, since layer names usually differ at the end."""
    return name if len(name) <= width else "…" + name[1 - width :]


def _percent(share: float) -> str:
    return f"{100 * share:.0f}{_SPACE}%"


def _db(value: float) -> str:
    return f"{value:.0f}"


def _kinds(found: Explanation) -> str:
    shares = [f"{kind} {_percent(ms / found.latency_ms)}" for kind, ms in found.kinds_ms.items() if ms >= 0.005 * found.latency_ms]
    return ", ".join(shares)


def _findings(found: Explanation) -> list[RenderableType]:
    if not found.findings:
        return [Text("✓ nothing found that would pay to change", style="green")]
    parts: list[RenderableType] = []
    for number, finding in enumerate(found.findings, 1):
        cost = f"costs about {words.milliseconds(finding.cost_ms)} ms ({_percent(finding.cost_ms / found.latency_ms)})"
        head = Text("makes results wrong: " if finding.wrong_results else f"{cost}: ", style="red" if finding.wrong_results else "yellow")
        head.append(finding.what, style="bold default")
        table = Table.grid(padding=(0, 1, 0, 0))
        table.add_column(width=3)
        table.add_column(ratio=1, overflow="fold")
        table.add_row(Text(f"{number}."), head)
        table.add_row(Text("why", style="dim"), Text(finding.why))
        table.add_row(Text("fix", style="green"), Text(finding.fix))
        if finding.layers:
            named = ", ".join(_short(name, 34) for name in finding.layers[:3])
            more = f" and {len(finding.layers) - 3} more" if len(finding.layers) > 3 else ""
            table.add_row(Text("at", style="dim"), Text(named + more, style="dim"))
        parts += [table, Text("")]
    return parts[:-1]
