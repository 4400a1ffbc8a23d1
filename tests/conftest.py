"""Tests keep their decoded images to themselves, and train on the CPU, where equal seeds give equal bits."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

from hypothesis import HealthCheck, settings

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

if "PLANISH_CACHE" not in os.environ:
    os.environ["PLANISH_CACHE"] = tempfile.mkdtemp(prefix="planish-tests-")
    atexit.register(shutil.rmtree, os.environ["PLANISH_CACHE"], ignore_errors=True)

os.environ.setdefault("ACCELERATE_USE_CPU", "true")
if "PYTEST_XDIST_WORKER" in os.environ:  # each of several processes has one thread
    os.environ.setdefault("OMP_NUM_THREADS", "1")
