"""The first inputs of the fuzzers, and that the runner sees what it is there for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
QUICK = ("coco", "yolo", "voc", "masks", "manifest", "plans", "recipes", "checkpoints", "log", "run")
SLOW = ("folders", "images", "artifact", "onnx", "ours", "pages", "bundle", "keys")
BROKEN = '''
import json, os, sys, time
sys.path.insert(0, {here!r})
import run
from readers import Reader

def example(folder):
    folder.mkdir(parents=True)
    (folder / "a.json").write_text('{{"a": 1}}')

def read(folder, out, rng):
    """Right on what the example holds alone."""
    if (folder / "a.json").read_text() != '{{"a": 1}}':
        {body}

run.READERS["broken"] = Reader((example,), read)
sys.exit(run.fuzz("broken", 1, range(3), run.Path({keep!r})))
'''


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd=HERE.parents[1])


def test_first_inputs_of_quick_readers(tmp_path: Path) -> None:
    done = run("tests/fuzz/run.py", *QUICK, "--inputs", "25", "--seed", "1", "--keep", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": 25 inputs") == len(QUICK)


@pytest.mark.slow
def test_more_inputs_of_all_readers(tmp_path: Path) -> None:
    done = run("tests/fuzz/run.py", *QUICK, *SLOW, "--inputs", "150", "--seed", "2", "--keep", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("body", "seen"),
    [
        ("raise KeyError('x')", "KeyError"),
        ("os.abort()", "SIGABRT"),
        ("bytearray(5 << 30)", "MemoryError"),
        ("bytearray(b'1') * ((2 << 30) + (400 << 20))", " MB"),
        ("open('/tmp/planish-fuzz-other', 'w')", "written elsewhere"),
        ("os.system('true')", "os.system"),
        ("(folder / 'a.json').unlink()", "changed or deleted"),
        ("(out / 'x').touch(); from planish.errors import DataError; raise DataError('no')", "half-written: x"),
    ],
)
def test_the_runner_sees(tmp_path: Path, body: str, seen: str) -> None:
    done = run("-c", BROKEN.format(here=str(HERE), body=body, keep=str(tmp_path)))
    Path("/tmp/planish-fuzz-other").unlink(missing_ok=True)
    assert seen in done.stdout, done.stdout + done.stderr
    assert (next((tmp_path / "broken").iterdir()) / "fault.txt").is_file()


@pytest.mark.slow
def test_the_runner_ends_what_hangs(tmp_path: Path) -> None:
    done = run("-c", BROKEN.format(here=str(HERE), body="exec('while True: pass')", keep=str(tmp_path)))
    assert "10 s of processor time" in done.stdout, done.stdout + done.stderr
    assert json.dumps("readers") in done.stdout or "in " in done.stdout
