"""Whether the chosen file returns on the device what it returned on this machine, where its accuracy was evaluated."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from planish.devices.device import current_device
from planish.export.bundle.folder import GOLDEN, spread, tolerance_of
from planish.export.checks.agreement import disagreement
from planish.export.runtimes.registry import run_checked
from planish.progress import note
from planish.search.state import DeployedCandidate, Search
from planish.task import metric_of

_IMAGES = 200  # of validation, besides the golden samples


def check_on_device(search: Search, chosen: DeployedCandidate) -> None:
    """Run the chosen file on the device, and note how far its outputs differ from those on this machine; once per run.

    The images are those of the bundle's golden samples and up to 200 of validation. Nothing is done if this machine is the device.

    Raises:
        DeviceError: the connection was lost.
        PlanishError: the file does not run on the device.
    """
    if current_device().address:
        search.runner.store.once("outputs on the device", "checking outputs on the device", partial(_check, search, chosen))


def _check(search: Search, chosen: DeployedCandidate) -> float:
    """Return the largest difference, relative to the largest output."""
    runner, device = search.runner, current_device()
    artifact, split = runner.artifact(chosen.plan), runner.task.split("validation")
    rows = sorted({*spread(len(split), GOLDEN), *spread(len(split), _IMAGES)})
    images = np.ascontiguousarray(split.images(artifact.input_spec, artifact.preprocessing)[rows])
    with device.predictor(artifact.files, chosen.runtime, search.threads) as predictor:
        there = run_checked(predictor, images, artifact.files[0].name)
    here = {name: np.asarray(values)[rows] for name, values in runner.outputs(chosen.plan, chosen.runtime, "validation").items()}
    worst, allowed = disagreement(here, there), tolerance_of(artifact.facts["precision"], chosen.runtime)
    found = f"of {len(rows)} validation images differ by up to {worst:.1e} of the largest output, allowed {allowed:g}"
    if worst <= allowed:
        note(f"the chosen file's outputs on the device and here agree: those {found}")
    else:
        note(f"the chosen file's outputs on the device are others than here: those {found}; {_scores(search, rows, there, here)}")
    return worst


def _scores(search: Search, rows: list[int], there: Any, here: Any) -> str:
    """Describe the metric on these images, which the run's numbers have only from this machine."""
    task, metric = search.runner.task, metric_of(search.runner.task)
    known = task.split("validation").targets
    targets = known[rows] if isinstance(known, np.ndarray) else [known[row] for row in rows]
    values = [metric.text(float(np.mean(task.scores(outputs, targets)))) for outputs in (there, here)]
    return f"their {metric.name} is {values[0]} there and {values[1]} here, where all accuracy in this report was evaluated"
