"""Tests keep their decoded images to themselves."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

if "PLANISH_CACHE" not in os.environ:
    os.environ["PLANISH_CACHE"] = tempfile.mkdtemp(prefix="planish-tests-")
    atexit.register(shutil.rmtree, os.environ["PLANISH_CACHE"], ignore_errors=True)
