"""The store: a finished step is never repeated, and a kill loses at most the step under way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from planish.errors import BundleError
from planish.search.store import Store, claim


def test_a_step_runs_once(tmp_path: Path) -> None:
    store, calls = Store.at(tmp_path), []
    assert store.once("a", "training", lambda: calls.append(1) or {"x": [1, 2]}) == {"x": [1, 2]}
    assert Store.at(tmp_path).once("a", "training", lambda: calls.append(1)) == {"x": [1, 2]}
    assert calls == [1]
    assert store.keys() == ["a"]
    assert store.seconds_of("a") == store.seconds()["training"] >= 0


def test_a_step_that_fails_is_not_finished(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    with pytest.raises(ZeroDivisionError):
        store.once("a", "training", lambda: 1 / 0)
    assert store.get("a") is None


def test_what_was_put_survives_a_kill(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from planish.search.store import Store
store = Store.at(Path({str(tmp_path)!r}))
for i in range(1000):
    store.put(str(i), i, stage="s", seconds=0.0)
    if i == 25:
        os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert len(Store.at(tmp_path).keys()) == 26


def test_a_run_is_never_overwritten_and_resumes_only_the_same_job(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(BundleError, match="there is no run"):
        claim(folder, {"model": "a"}, resume=True)
    claim(folder, {"model": "a"}, resume=False).close()
    with pytest.raises(BundleError, match="holds a run already"):
        claim(folder, {"model": "a"}, resume=False)
    with pytest.raises(BundleError, match="model was 'a' and is now 'b'"):
        claim(folder, {"model": "b"}, resume=True)
    claim(folder, {"model": "a"}, resume=True).close()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(BundleError, match="not an empty folder"):
        claim(tmp_path / "other", {}, resume=False)
