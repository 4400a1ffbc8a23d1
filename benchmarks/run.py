"""Benchmarks on real images; each writes ``benchmarks/results/NAME.md`` and ``NAME.json``.

    .venv/bin/python benchmarks/run.py [NAME ...]      # no NAME: all whose images are there

| NAME                 | needs                                                        | takes  |
|----------------------|--------------------------------------------------------------|--------|
| demo                 | nothing                                                      | 8 min  |
| cifar10_mobilenet_v2 | $PLANISH_DATA/cifar10 and $PLANISH_DATA/weights/mobilenet_v2.pth | 31 min |
| cifar10_resnet20     | $PLANISH_DATA/cifar10                                        | 30 min |
| cifar10_resnet18     | $PLANISH_DATA/cifar10                                        | 45 min |

What a user would pick instead of Planish is measured beside a finished run by ``benchmarks.peers``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

import planish
from planish.progress import listening
from planish.report.terminal import TerminalProgress
from planish.search.result import CandidateResult, Result

HERE = Path(__file__).parent
DATA = Path(os.environ.get("PLANISH_DATA", Path.home() / ".cache/planish/data"))


def demo(out: Path) -> Result:
    return planish.demo(out=out)


def cifar10_mobilenet_v2(out: Path) -> Result:
    """MobileNetV2 at 96 pixels from ImageNet weights, fine-tuned, then optimized."""
    weights = DATA / "weights/mobilenet_v2.pth"
    return _cifar10("cifar10_mobilenet_v2", out, model="torchvision:mobilenet_v2", weights=weights, image_size=96, budget="30m")


def cifar10_resnet20(out: Path) -> Result:
    """ResNet-20 at CIFAR-10's own 32 pixels, trained from scratch, then optimized."""
    return _cifar10("cifar10_resnet20", out, model="resnet20", image_size=32, budget="30m")


def cifar10_resnet18(out: Path) -> Result:
    """torchvision's ResNet-18 at 64 pixels, trained from scratch, then optimized."""
    return _cifar10("cifar10_resnet18", out, model="torchvision:resnet18", image_size=64, budget="45m")


def _cifar10(name: str, out: Path, **options: Any) -> Result:
    """CIFAR-10 from folders, at most one point lost."""
    return planish.optimize(DATA / "cifar10", max_drop=1.0, out=out, command=f"python benchmarks/run.py {name}", **options)


BENCHMARKS = {
    "demo": demo,
    "cifar10_mobilenet_v2": cifar10_mobilenet_v2,
    "cifar10_resnet20": cifar10_resnet20,
    "cifar10_resnet18": cifar10_resnet18,
}
NEEDS = {
    "demo": (),
    "cifar10_mobilenet_v2": (DATA / "cifar10", DATA / "weights/mobilenet_v2.pth"),
    "cifar10_resnet20": (DATA / "cifar10",),
    "cifar10_resnet18": (DATA / "cifar10",),
}


def table(name: str, result: Result, commit: str) -> str:
    """The run as Markdown: every measured candidate, the verdict, the machine and the seconds."""
    lines = [f"# {name}", "", result.verdict, ""]
    ratios = ", ".join(f"{m.value:.2f}x [{m.low:.2f}, {m.high:.2f}] against {runtime}" for runtime, m in result.latency_ratios.items())
    lines += [f"Latency ratio of the chosen model to the fp32 original: {ratios}. Noise floor {result.noise_floor.value:.1f} %.", ""]
    lines += ["| what was done | runtime | validation drop, points | latency, ms | ratio | size, bytes |", "|---|---|---|---|---|---|"]
    lines += [row(c, result) for c in [*result.baselines.values(), *result.candidates] if c.stage in ("baseline", "measured")]
    tested = ", ".join(f"{which} {c.measurements['accuracy']}" for which, c in (("original", result.baseline), ("chosen", result.chosen)))
    machine = ", ".join(f"{key} {result.machine[key]}" for key in ("cpu", "cores", "instruction_sets", "threads", "batch"))
    counts = {split: sum(classes.values()) for split, classes in result.data["counts"].items()}
    versions = ", ".join(f"{library} {result.machine[library]}" for library in ("torch", "onnxruntime", "openvino"))
    spent = f"Seconds by stage: {result.seconds}, in all {sum(result.seconds.values()):.0f}."
    for text in (f"Test accuracy: {tested}. Images: {counts}.", f"Machine: {machine}. Versions: {versions}.", spent):
        lines += ["", text]
    lines += ["", f"{result.created}, commit {commit}."]
    return "\n".join(lines) + "\n"


def row(c: CandidateResult, result: Result) -> str:
    m = c.measurements
    name = f"**{c.summary}** (chosen)" if c.key == result.chosen.key else c.summary
    drop = m["drop_validation"] if c.stage != "baseline" or c.key != result.baseline.key else None
    shown = f"{drop.value:.2f} [{drop.low:.2f}, {drop.high:.2f}]" if drop else ""
    ratio = m["latency_ratio"]
    return (
        f"| {name} | {c.runtime} | {shown} | {m['latency_ms'].value:.3f} | {ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] "
        f"| {m['size_bytes'].value:,.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    names = parser.parse_args().names or list(BENCHMARKS)
    if unknown := [n for n in names if n not in BENCHMARKS]:
        parser.error(f"no benchmark {unknown[0]!r}; choose from {', '.join(BENCHMARKS)}")
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    commit = os.popen("git rev-parse --short HEAD").read().strip()
    for name in names:
        missing = [str(path) for path in NEEDS[name] if not path.exists()]
        if missing:
            print(f"{name} is left out: {', '.join(missing)} is not there", file=sys.stderr)
            continue
        out = Path("runs") / f"benchmark-{name}"
        shutil.rmtree(out, ignore_errors=True)
        with TerminalProgress() as shown, listening(shown):
            result = BENCHMARKS[name](out)
        (results / f"{name}.md").write_text(table(name, result, commit))
        (results / f"{name}.json").write_text(json.dumps(json.loads((out / "result.json").read_text()), indent=1))
        Console().print(table(name, result, commit), markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
