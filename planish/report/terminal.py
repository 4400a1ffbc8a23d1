"""Terminal output: tables, the verdict, and progress, as bars on a terminal and as plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from planish.measurement import Measurement
from planish.progress import Progress
from planish.report import formatting as words
from planish.search.result import CandidateResult, Result

_STAGE = {"baseline": "original", "screened": "screened", "trained": "trained", "measured": "measured"}


def candidate_table(candidates: Sequence[CandidateResult], *, chosen: str = "", title: str = "", most: int = 0) -> Table:
    """Build a table with one row per candidate, in the order given; it fits 80 columns.

    Args:
        candidates: the rows.
        chosen: key of the chosen candidate, which is highlighted.
        title: of the table.
        most: maximum number of rows, 0 for all; the caption counts the omitted ones.
    """
    shown = candidates[:most] if most else candidates
    left_out = len(candidates) - len(shown)
    table = Table(
        title=title or None,
        caption=f"and {left_out} more" if left_out else None,
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("what was done", ratio=1, min_width=16, overflow="fold")
    table.add_column("runtime", overflow="fold", max_width=11)
    drops = [c.measurements["drop_validation"] for c in candidates if "drop_validation" in c.measurements]
    for heading in (drops[0].unit or "change" if drops else "points", "ms", "speed-up", "size"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for c in shown:
        m = c.measurements
        drop = None if c.stage == "baseline" else m.get("drop_validation")
        table.add_row(
            Text(c.summary),
            Text(c.runtime),
            words.change(drop) if drop else "",
            words.milliseconds(m["latency_ms"].value) if "latency_ms" in m else "",
            words.show(m["latency_ratio"]) if "latency_ratio" in m else "",
            words.show(m["size_bytes"]) if "size_bytes" in m else "",
            "✓ chosen" if c.key == chosen else _STAGE[c.stage],
            style="bold" if c.key == chosen else "dim" if c.stage in ("screened", "trained") else "",
        )
    return table


def measurements_table(measurements: Mapping[str, Measurement], title: str = "") -> Table:
    """Build a table of measurements: name, value, 95% interval, sample count and runtime."""
    table = Table(title=title or None, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, title_justify="left")
    table.add_column("", overflow="fold")
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("95% interval", justify="right")
    table.add_column("n", justify="right", no_wrap=True)
    table.add_column("runtime", overflow="fold")
    for name, m in measurements.items():
        label = words.metric(name.removesuffix("_ms").removesuffix("_bytes"))
        table.add_row(Text(label), words.show(m), words.interval(m), f"{m.n:,}", Text(m.runtime))
    return table


def verdict_panel(result: Result) -> Panel:
    """Build a panel with the verdict, and whether the goal is met or what it is missed by."""
    lines = [Text(result.verdict, style="bold"), Text(f"{result.chosen.summary}; {words.runtime_name(result.chosen.runtime)}")]
    for runtime, baseline in result.baselines.items():
        if runtime.endswith("-default") and runtime in result.latency_ratios:
            ratio, own = result.latency_ratios[runtime], baseline.measurements.get(result.metric)
            reached = f", which reaches {words.show(own)} {words.metric(result.metric)}" if own else ""
            lines.append(Text(f"{words.show(ratio)} against the original in {words.runtime_name(runtime)}{reached}"))
    if result.choice:
        lines.append(Text(result.choice))
    if result.goal_met:
        lines.append(Text("✓ goal met", style="green"))
    else:
        lines.append(Text(f"✕ goal not met. {result.shortfall}", style="yellow"))
    if over := str(result.budget):
        lines.append(Text(over, style="yellow"))
    return Panel(
        Group(*lines),
        box=box.ROUNDED,
        padding=(0, 1),
        title=Text(result.name),
        title_align="left",
        border_style="green" if result.goal_met else "yellow",
    )


class TerminalProgress:
    """A listener for ``planish.progress`` that shows bars on a terminal; elsewhere, a line when a stage ends and every ten seconds.

    Use as ``with TerminalProgress(console) as listener, listening(listener): ...``.

    Args:
        console: where to print; standard error if None, so that standard output only contains the result, such as ``--json``.
        every_s: seconds between plain lines of the same stage.
        clock: returns the time in seconds; replaced in tests.
    """

    def __init__(self, console: Console | None = None, every_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console or Console(stderr=True, markup=False, emoji=False)
        self._every_s, self._clock = every_s, clock
        self._started: dict[str, float] = {}
        self._printed: dict[str, float] = {}
        self._tasks: dict[str, TaskID] = {}
        self._above: RenderableType = ""
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[left]}", markup=False),
            TextColumn("{task.fields[words]}", markup=False, style="dim"),
            console=self.console,
        )
        self._live: Live | None = None

    def __enter__(self) -> TerminalProgress:
        if self.console.is_terminal:
            self._live = Live(self._bars, console=self.console, refresh_per_second=8, transient=True)
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, renderable: RenderableType) -> None:
        """Show something above the bars, such as a growing table, until the next call; without a terminal nothing is shown."""
        self._above = renderable
        if self._live is not None:
            self._live.update(Group(renderable, self._bars))

    def __call__(self, progress: Progress) -> None:
        """Handle a progress event."""
        name, now = progress.stage, self._clock()
        if not name:
            self._print(progress.text)
            return
        finished = progress.total > 0 and progress.done >= progress.total
        if name not in self._started:
            if finished and progress.done:
                return  # a stage reports its end twice: at its last step and on exit
            self._begin(name, progress, now)
        elif progress.done == 0 and not progress.text:
            self._started[name] = self._printed[name] = now
        if self._live is not None:
            self._bars.update(
                self._tasks[name],
                total=progress.total or None,
                completed=progress.done,
                left=_left(progress),
                words=_short(progress.text, self._room()),
            )
        if finished:
            self._finish(progress, now)
        elif self._live is None and now - self._printed[name] >= self._every_s:
            self._printed[name] = now
            self._print(_line(progress))

    def _begin(self, name: str, progress: Progress, now: float) -> None:
        # A stage of unknown length does not report its end: it ends when the next stage begins.
        for other in [n for n, task in self._tasks.items() if self._bars.tasks and not self._total(task)]:
            self._forget(other)
        self._started[name] = self._printed[name] = now
        if self._live is not None:
            self._tasks[name] = self._bars.add_task(name, total=progress.total or None, left="", words="")

    def _total(self, task: TaskID) -> float | None:
        return next((t.total for t in self._bars.tasks if t.id == task), None)

    def _finish(self, progress: Progress, now: float) -> None:
        spent = now - self._started[progress.stage]
        self._forget(progress.stage)
        # On a terminal, where the bar was visible, stages of less than a second leave no line.
        if self._live is None or spent >= 1:
            text = f", {progress.text}" if progress.text else ""
            self._print(f"✓ {progress.stage}, {words.seconds(spent)}{text}")

    def _forget(self, name: str) -> None:
        self._started.pop(name, None)
        self._printed.pop(name, None)
        task = self._tasks.pop(name, None)
        if task is not None:
            self._bars.remove_task(task)

    def _room(self) -> int:
        return max(10, self.console.width - 62)

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)


def _left(progress: Progress) -> str:
    count = f"{progress.done}/{progress.total}" if progress.total else ""
    if not progress.seconds_left:
        return count
    left = math.ceil(progress.seconds_left)
    return f"{count} {f'{left} s' if left < 60 else words.seconds(left)} left"


def _short(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 1] + "…"


def _line(progress: Progress) -> str:
    parts = [_left(progress), progress.text]
    return ", ".join([progress.stage, *(p for p in parts if p)])
