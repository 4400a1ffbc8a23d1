"""The comparison as Markdown and as JSON."""

from __future__ import annotations

import dataclasses
import json
import os
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.peers.comparing import Compared
from benchmarks.peers.contestants import PLANISH
from benchmarks.peers.finished import Finished
from planish.devices.machine import describe_machine
from planish.measurement import Measurement

_LIBRARIES = ("torch", "torch-pruning", "nncf", "onnxruntime", "openvino")
_HOW = """\
All rows were timed in one interleaved run, each file in a process of its own, next to a second copy of the baseline; ratios are to the
original in fp32, above 1 is faster. The drop is against the original on the same images. Torch-Pruning: `BasePruner`, group L2
importance, the classifier kept, every layer at the nearest multiple of 8 channels; then the recovery that Planish's own candidates had.
All files have Planish's export, take the same pixels, and are calibrated on the same images. Of two calibrations (ONNX Runtime) and two
presets (NNCF) each row shows the one that is more accurate on validation; the bold peer is the one that Planish's own rule of choice
takes, which asks for one standard error of room where it can."""


def write(run: Finished, compared: Compared, budget: float, results: Path) -> str:
    """Write ``peers_NAME.md`` and ``peers_NAME.json`` to ``results``; returns the Markdown."""
    name = run.folder.resolve().name
    text = _markdown(name, run, compared, budget)
    results.mkdir(exist_ok=True)
    (results / f"peers_{name}.md").write_text(text)
    (results / f"peers_{name}.json").write_text(json.dumps(_data(name, compared, budget), indent=1))
    return text


def _data(name: str, compared: Compared, budget: float) -> dict[str, object]:
    rows = [
        {
            "key": c.key,
            "done": c.done,
            "runtime": c.model.runtime,
            "is_peer": c.is_peer,
            "training_seconds": round(c.training_seconds, 1),
            "macs": c.macs,
            "measurements": {k: dataclasses.asdict(m) for k, m in compared.measurements[c.key].items()},
        }
        for c in compared.contestants
    ]
    return {
        "run": name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "sentence": compared.sentence,
        "best_peer": compared.best,
        "baseline": compared.latency.baseline,
        "training_seconds_of_all_peers": budget,
        "noise_floor": dataclasses.asdict(compared.latency.noise_floor),
        "rows": rows,
        "round_medians_ms": compared.latency.round_medians,
        "machine": describe_machine() | {"threads": compared.latency.threads, "batch": compared.latency.batch},
        "versions": {library: version(library) for library in _LIBRARIES},
    }


def _markdown(name: str, run: Finished, compared: Compared, budget: float) -> str:
    lines = [f"# Planish and its peers: {name}", "", compared.sentence, ""]
    lines += ["| what was done | runtime | test accuracy, % | drop on test, points | drop on validation, points | latency, ms "]
    lines[-1] += "| ratio to fp32 in ONNX Runtime | ratio to fp32 in OpenVINO | size, bytes | million MACs | training, s |"
    lines += ["|" + "---|" * 11]
    for c in compared.contestants:
        m = compared.measurements[c.key]
        done = f"**{c.done}**" if c.key in (PLANISH, compared.best) else c.done
        cells = [done, c.model.runtime, _shown(m["accuracy"]), _shown(m["drop"]), _shown(m["drop_validation"])]
        cells += [_shown(m["latency_ms"], 3), _shown(m["latency_ratio_onnxruntime"]), _shown(m["latency_ratio_openvino"])]
        cells += [f"{m['size_bytes'].value:,.0f}", f"{c.macs / 1e6:.2f}", f"{c.training_seconds:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    machine = describe_machine()
    about = ", ".join(f"{key} {machine[key]}" for key in ("cpu", "cores", "instruction_sets"))
    counts = {split: sum(classes.values()) for split, classes in run.result.data["counts"].items()}
    latency = compared.latency
    r = run.recovery
    recovered = (
        f"Recovery, the same for Planish's candidates and the peers: distilled from the original (weight {r.weight:g}, temperature "
        f"{r.temperature:g}), {r.optimizer}, learning rate {r.learning_rate:g}, batches of {r.batch_size}, augmentation {r.augmentation}, "
        "weights averaged. Both train in rounds, each for the more promising half and twice as long as the one before: "
        f"{run.training_seconds:.0f} s in all for Planish's candidates, {budget:.0f} s in all for the peers. The table has each network's."
    )
    for paragraph in (
        _HOW,
        recovered,
        f"Noise floor {latency.noise_floor.value:.1f} %. Images: {counts}.",
        f"Machine: {about}, threads {latency.threads}, batch {latency.batch}. "
        f"Versions: {', '.join(f'{library} {version(library)}' for library in _LIBRARIES)}.",
        f"{datetime.now(UTC).isoformat(timespec='seconds')}, commit {os.popen('git rev-parse --short HEAD').read().strip()}.",
    ):
        lines += ["", paragraph]
    return "\n".join(lines) + "\n"


def _shown(m: Measurement, digits: int = 2) -> str:
    return f"{m.value:.{digits}f} [{m.low:.{digits}f}, {m.high:.{digits}f}]"
