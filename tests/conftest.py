"""Tests keep their decoded images to themselves, and train on the CPU, where equal seeds give equal bits."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

if "PLANISH_CACHE" not in os.environ:
    os.environ["PLANISH_CACHE"] = tempfile.mkdtemp(prefix="planish-tests-")
    atexit.register(shutil.rmtree, os.environ["PLANISH_CACHE"], ignore_errors=True)

os.environ.setdefault("ACCELERATE_USE_CPU", "true")
if "PYTEST_XDIST_WORKER" in os.environ:  # each of several processes has one thread
    os.environ.setdefault("OMP_NUM_THREADS", "1")

_LONGEST = (
    "search/test_main_job.py", "examples/test_regression_task.py", "explanation/test_faults.py", "compression/test_named_outputs.py",
    "search/test_resume.py", "explanation/test_profile.py", "models/test_detector.py", "datacentric/test_retrain.py",
    "cli/test_commands.py", "compression/test_detector_students.py", "examples/test_scripts.py", "experiments/test_ensemble_study.py",
)  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest files begin first (``--no-loadscope-reorder``), so that in the end no process waits for another one."""
    if not config.pluginmanager.hasplugin("randomly"):
        places = {name: place for place, name in enumerate(_LONGEST)}
        items.sort(key=lambda item: places.get("/".join(item.path.parts[-2:]), len(places)))
