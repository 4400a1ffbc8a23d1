"""What the terminal shows: within 80 columns, and as plain lines where there is no terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from fake_run import write_run
from rich.console import Console, RenderableType

from planish.progress import Progress, Stage, listening, note
from planish.report import formatting as words
from planish.report.terminal import TerminalProgress, candidate_table, measurements_table, verdict_panel
from planish.search.result import Result


def printed(renderable: RenderableType, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.fixture(scope="session")
def result(finished: Path) -> Result:
    return Result.load(finished / "result.json")


def test_tables_fit_80_columns_and_lose_no_number(result: Result) -> None:
    text = printed(candidate_table(words.everyone(result), chosen=result.chosen.key, most=12))
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("✓ chosen") == 1
    assert "and 6 more" in text
    assert "…" not in text
    for candidate in words.everyone(result)[:11]:
        assert words.milliseconds(candidate.measurements["latency_ms"].value) in text
    text = printed(measurements_table(result.chosen.measurements, "chosen"))
    assert "121 kB" in text
    assert words.interval(result.chosen.measurements["drop_validation"]) in text


def test_verdict_says_whether_the_goal_is_met(result: Result) -> None:
    from dataclasses import replace

    assert "goal met" in printed(verdict_panel(result))
    assert "at most 20 % is accepted." in " ".join(printed(verdict_panel(result)).replace("│", "").split())
    text = " ".join(printed(verdict_panel(replace(result, goal_met=False, shortfall="The nearest is 0.31 ms over."))).split())
    assert "goal not met. The nearest is 0.31 ms over." in text


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_without_a_terminal() -> None:
    clock, console = Clock(), Console(file=io.StringIO(), width=60, force_terminal=False)
    with TerminalProgress(console, clock=clock) as listener:
        for second in range(26):
            clock.now = float(second)
            listener(Progress("training [1]", second, 100, 100.0 - second, "loss 0.4"))
        listener(Progress("training [1]", 100, 100, 0.0, "accuracy 90.00 %"))
        listener(Progress("training [1]", 100, 100, 0.0, ""))  # the stage is left
        listener(Progress("", 0, 0, None, "kept [bold]as it is[/bold]"))
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "training [1], 10/100 1 min 30 s left, loss 0.4",
        "training [1], 20/100 1 min 20 s left, loss 0.4",
        "✓ training [1], 25.0 s, accuracy 90.00 %",
        "kept [bold]as it is[/bold]",
    ]


def test_bars_on_a_terminal() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with TerminalProgress(console) as listener, listening(listener):
        with Stage("looking"):
            pass
        with Stage("search", 2) as outer:
            for _ in range(2):
                with Stage("training", 3) as stage:
                    for step in range(3):
                        stage.advance(text=f"loss {step}")
                note("a note that stays")
                outer.advance()
        listener.show("a table")
        assert listener._tasks == {}
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("a note that stays") == 2
    assert "a table" in text


def test_a_stage_that_failed_can_begin_again() -> None:
    clock, console = Clock(), Console(file=io.StringIO(), force_terminal=False)
    with TerminalProgress(console, clock=clock) as listener:
        listener(Progress("export", 0, 5))
        listener(Progress("export", 3, 5, 1.0))
        clock.now = 100.0
        listener(Progress("export", 0, 5))
        clock.now = 102.0
        listener(Progress("export", 5, 5))
    assert "✓ export, 2.0 s" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_third_baseline_is_named_with_its_accuracy(tmp_path: Path) -> None:
    result = write_run(tmp_path / "run", default_precision=True, images=False)
    text = " ".join(printed(verdict_panel(result), 120).split())
    own = result.baselines["openvino-default"].measurements["accuracy"]
    ratio = words.show(result.latency_ratios["openvino-default"])
    assert f"{ratio} against the original in OpenVINO, default precision, which reaches {words.show(own)} accuracy" in text
    assert "openvino-" in printed(candidate_table(words.everyone(result)))
