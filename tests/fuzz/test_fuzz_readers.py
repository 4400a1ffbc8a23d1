"""The first inputs of the fuzzers, and that the runner sees what it is there for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
QUICK = ("coco", "yolo", "manifest", "plans", "checkpoints", "log")
SLOW = ("voc", "masks", "recipes", "run", "folders", "images", "artifact", "onnx", "ours", "explained", "pages", "bundle", "keys")
BROKEN = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
import run
from readers import Reader

run.MOST_BYTES = 64 << 20

def example(folder):
    folder.mkdir(parents=True)
    (folder / "a.json").write_text('{"a": 1}')

def reader(body):
    def read(folder, out, rng):
        '''Right on what the example holds alone.'''
        if (folder / "a.json").read_text() != '{"a": 1}':
            exec(body, {"folder": folder, "out": out, "os": os})
    return Reader((example,), read)

for i, body in enumerate(json.loads(sys.argv[3])):
    run.READERS[f"broken{i}"] = reader(body)
    run.fuzz(f"broken{i}", 1, range(3), run.Path(sys.argv[2]))
"""
BROKEN_READERS = {
    "raise KeyError('x')": "KeyError in the fuzzer",
    "os.abort()": "SIGABRT in native code",
    "bytearray(5 << 30)": "MemoryError in the fuzzer",
    "bytearray(b'1') * (200 << 20)": " MB",
    "open('/tmp/planish-fuzz-other', 'w')": "written elsewhere: /tmp/planish-fuzz-other",
    "os.system('true')": "written elsewhere: /os.system",
    "(folder / 'a.json').unlink()": "an input was changed or deleted: a.json",
    "(out / 'x').touch(); from planish.errors import DataError; raise DataError('no')": "half-written: x",
    "from planish.export.runtimes import first_load as f; f.call_isolated('os:abort', {}, 'x in y', None)": "contained: SIGABRT in y",
}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd=HERE.parents[1])


def test_first_inputs_of_quick_readers(tmp_path: Path) -> None:
    done = run("tests/fuzz/run.py", *QUICK, "--inputs", "10", "--seed", "1", "--keep", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": 10 inputs") == len(QUICK)


@pytest.mark.slow
def test_more_inputs_of_all_readers(tmp_path: Path) -> None:
    done = run("tests/fuzz/run.py", *QUICK, *SLOW, "--inputs", "150", "--seed", "2", "--keep", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_runner_sees(tmp_path: Path) -> None:
    done = run("-c", BROKEN, str(HERE), str(tmp_path), json.dumps(list(BROKEN_READERS)))
    Path("/tmp/planish-fuzz-other").unlink(missing_ok=True)
    for i, seen in enumerate(BROKEN_READERS.values()):
        found = [line for line in done.stdout.splitlines() if line.startswith(f"broken{i} ")]
        assert found, done.stdout + done.stderr
        assert seen in found[0]
        assert (next((tmp_path / f"broken{i}").iterdir()) / "fault.txt").is_file()


@pytest.mark.slow
def test_the_runner_ends_what_hangs(tmp_path: Path) -> None:
    done = run("-c", BROKEN, str(HERE), str(tmp_path), json.dumps(["while True: pass"]))
    assert "10 s of processor time" in done.stdout, done.stdout + done.stderr
