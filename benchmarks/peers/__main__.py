"""Measures what a user would pick instead of Planish, beside a finished run of Planish; see ``benchmarks.peers``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from benchmarks.peers.comparing import compare
from benchmarks.peers.contestants import contestants
from benchmarks.peers.finished import open_finished
from benchmarks.peers.writing import write
from planish.errors import PlanishError
from planish.progress import listening
from planish.report.terminal import TerminalProgress

RESULTS = Path(__file__).parent.parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run of planish optimize")
    parser.add_argument("--data", help="its images, if they are no longer where they were")
    parser.add_argument("--seconds", type=float, help="of training for all peers together; by default what Planish spent on distillation")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.3, 0.5, 0.65], help="shares of channels that are pruned")
    parser.add_argument("--timing", type=float, default=4.0, help="seconds of timing for each model")
    arguments = parser.parse_args()
    try:
        run = open_finished(arguments.run, arguments.data)
        budget = arguments.seconds if arguments.seconds is not None else run.training_seconds
        with TerminalProgress() as shown, listening(shown):
            everyone = list(contestants(run, arguments.ratios, budget))
            compared = compare(run, everyone, arguments.timing)
    except PlanishError as error:
        sys.exit(f"error: {error}")
    Console().print(write(run, compared, budget, RESULTS), markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
