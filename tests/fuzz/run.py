"""Feeds a reader changed examples for some time: ``python tests/fuzz/run.py coco --minutes 30 --seed 0``.

What is right is a result or a ``PlanishError``, within ten seconds of processor time and 2 GB, with nothing half-written, nothing written
elsewhere and no code run. Inputs are read in a process of its own, which is replaced when it dies. A number stands for each input, and
gives the same one again: ``--only NUMBER`` runs one. Those that fail are made small and kept in ``--keep``.

What Planish does in an isolated process (``planish.devices.isolation``) is done in the process that reads the input, which is a hundred
times faster. Where it crashes or takes too long there, the isolated process would contain that: it is counted, but no fault. With
``--isolated`` it is done as in Planish.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import importlib
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import psutil

sys.path.insert(0, str(Path(__file__).parent))

from mutate import ESCAPE, mutate_folder
from readers import READERS, Reader

from planish.devices.isolation import ProcessLimits
from planish.errors import ExportError, PlanishError
from planish.export.onnx import external
from planish.export.runtimes import first_load

CPU_SECONDS = 10
MOST_BYTES = 2 << 30
_IDLE_SECONDS = 40  # that hardly any processor time is used up in: something waits for what never comes
_BATCH = 400  # inputs a process, so that what it remembers of them does not add up
_LONGEST_MESSAGE = 20_000
_USED = (
    "pycocotools.mask", "planish.compression", "planish.data.images", "planish.plan", "planish.runs.open_model",
    "planish.serving.model", "planish.serving.monitoring.labelling", "planish.training",
)  # fmt: skip
_CONTAINED = "contained"  # begins the kind of what an isolated process bears


class _Options(argparse.Namespace):
    isolated = False


options = _Options()


@dataclass(frozen=True)
class Fault:
    """An input that was not treated as it should be.

    Args:
        number: of the input.
        kind: equal ones are one fault.
        text: traceback, or what was seen.
    """

    number: int
    kind: str
    text: str


def write_examples(reader: Reader, folder: Path) -> list[Path]:
    """The examples of a reader."""
    found = []
    for i, write in enumerate(reader.examples):
        write(folder / str(i) / "input")
        found.append(folder / str(i) / "input")
    return found


def make_input(reader: Reader, examples: Sequence[Path], folder: Path, number: int, kept: Sequence[int] | None = None) -> list[str]:
    """Write the input of a number into ``folder``: a changed copy of an example.

    Args:
        reader: of it.
        examples: to choose from.
        folder: must not exist.
        number: of the input.
        kept: which of its changes are made; None for all.

    Returns:
        The changed files.
    """
    rng = Random(number)
    shutil.copytree(rng.choice(list(examples)), folder, symlinks=True)
    seeds = [rng.randrange(1 << 60) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    changed = [mutate_folder(folder, Random(seed), reader.fixed) for i, seed in enumerate(seeds) if kept is None or i in kept]
    if reader.seal is not None:
        reader.seal(folder, rng)
    return changed


def read_input(reader: Reader, place: Path, number: int) -> str | None:
    """Read ``place/input`` in this process; the kind and text of what is wrong, None where all is well."""
    out = place / "out"
    out.mkdir()
    before = _listing(place)
    refused, written = False, []
    _watched.append(written)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # whose signal ends the process, see ``_limit``
    try:
        reader.read(place / "input", out, Random(number))
    except PlanishError as error:
        refused = True
        if len(str(error)) > _LONGEST_MESSAGE:
            return f"a message of {len(str(error))} characters from {_place(error)}\n{str(error)[:500]}"
        if any(len(part) > 1 and part[:-1].isspace() for part in (error.received,)):
            return "an empty message"
    except BaseException as error:
        return f"{type(error).__name__} in {_place(error)}\n{''.join(traceback.format_exception(error))[-6000:]}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        _watched.clear()
    if os.path.lexists(f"/tmp/{ESCAPE}") or any(ESCAPE in path.name for path in place.parent.iterdir()):
        return "a file was written elsewhere, or code was run"
    if outside := [path for path in written if not _inside(path, place)]:
        return f"written elsewhere: {outside[0]}"
    if gone := before - _listing(place):
        return f"an input was changed or deleted: {Path(sorted(gone)[0][0]).name}"
    left = [path.name for path in out.iterdir() if path.name != "cache"]
    if refused and left:
        return f"half-written: {', '.join(left)}"
    return None


def _call_here(function: str, arguments: Mapping[str, Any], what: str, limits: ProcessLimits) -> Any:
    """In the place of ``call_isolated``: the same call in this process, whose death it notes beforehand."""
    module, _, name = function.partition(":")
    os.write(_ends[-1], f"isolated {what.rpartition(' ')[2]}\n".encode())
    try:
        return getattr(importlib.import_module(module), name)(**json.loads(json.dumps(arguments)))
    except MemoryError as error:
        raise ExportError(what) from error  # other exceptions are reported too, and should have been a PlanishError
    finally:
        os.write(_ends[-1], b"back\n")


_ends: list[int] = []  # where the child writes
_watched: list[list[str]] = []
_RUNS = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn", "socket.connect")


def _watch(event: str, arguments: Any) -> None:
    """What this process writes and starts, while it reads an input."""
    if not _watched:
        return
    if (
        event == "open"
        and isinstance(arguments[0], str)
        and isinstance(arguments[2], int)
        and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    ):
        _watched[-1].append(arguments[0])
    elif event in _RUNS and "planish.devices.isolation" not in str(arguments[1:2]):
        _watched[-1].append(f"/{event} {str(arguments)[:200]}")


def _inside(path: str, place: Path) -> bool:
    places = (place, Path(os.environ["PLANISH_CACHE"]))
    return any(map(Path(path).absolute().is_relative_to, places)) or path == "/dev/null" or Path(path).name.startswith("tmp")


def _listing(place: Path) -> set[tuple[str, int]]:
    """Files of an input and their sizes; pages and stores that belong to it may change."""
    files = [
        path for path in (place / "input").rglob("*") if path.suffix not in (".html", ".sqlite", ".sig") and "sqlite-" not in path.suffix
    ]
    return {(str(path), path.lstat().st_size) for path in files if not path.is_dir()}


def _place(error: BaseException) -> str:
    """The innermost line of the package that an error passed through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/planish/" in frame.filename]
    return f"{frames[-1].filename.rpartition('/planish/')[2]}:{frames[-1].name}:{frames[-1].line}" if frames else "the fuzzer"


def _limit() -> None:
    """Bound this process, and what it is killed by."""
    faulthandler.enable()
    faulthandler.register(signal.SIGPROF, chain=True)  # says where it was, then ends it
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MOST_BYTES + (1 << 30),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.addaudithook(_watch)


def _memory(field: str) -> int:
    return next(int(line.split()[1]) << 10 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))


def _work(reader: Reader, examples: Sequence[Path], numbers: Sequence[int], root: Path, tell: int) -> None:
    """In the child: read inputs, and write of each that it begins and how it ended."""
    os.chdir(root)
    _ends.append(tell)
    if not options.isolated:
        first_load.call_isolated = external.call_isolated = _call_here
    for i, example in enumerate(examples):  # so that libraries are loaded before they are bounded, and examples known to be right
        place = root / f"example-{i}"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(example, place / "input", symlinks=True)
        (place / "out").mkdir()
        with contextlib.suppress(PlanishError):  # options may not fit the example
            reader.read(place / "input", place / "out", Random(i))
    _limit()
    for number in numbers:
        place = root / f"{number}"
        shutil.rmtree(place, ignore_errors=True)
        os.write(tell, f"begin {number}\n".encode())
        make_input(reader, examples, place / "input", number)
        Path("/proc/self/clear_refs").write_text("5")  # the peak is of this input
        base = _memory("VmRSS")
        found = read_input(reader, place, number)
        if found is None and (peak := _memory("VmHWM") - base) > MOST_BYTES:
            found = f"{peak >> 20} MB"
        shutil.rmtree(place, ignore_errors=True)
        os.write(tell, f"end {number} {json.dumps(found)}\n".encode())


def _cpu_seconds(process: int) -> float:
    """Processor time that a process and its children have used up; that of one which has ended does not grow."""
    try:
        found = psutil.Process(process)
        times = [one.cpu_times() for one in (found, *found.children(recursive=True))]
    except psutil.Error:
        return 0.0
    return float(sum(time.user + time.system for time in times))


def run_inputs(reader: Reader, examples: Sequence[Path], numbers: Sequence[int], root: Path) -> Iterator[tuple[int, Fault | None]]:
    """Read inputs in processes of their own; gives each number, with its fault."""
    start = 0
    while start < len(numbers):
        batch, running = numbers[start : start + _BATCH], None
        ears, tell = os.pipe()
        errors = root / "stderr"
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            try:
                os.close(ears)
                null = os.open(errors, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
                os.dup2(null, 2)
                os.dup2(null, 1)
                _work(reader, examples, batch, root, tell)
            except BaseException:
                os.write(tell, f"broken {json.dumps(traceback.format_exc())}\n".encode())
            os._exit(0)
        os.close(tell)
        text, done, idle, isolated = b"", 0, False, ""  # what is loaded in the place of an isolated process
        try:
            while True:
                ready, used = [], _cpu_seconds(child)
                while not ready:
                    ready, _, _ = select.select([ears], [], [], _IDLE_SECONDS)
                    used, before = _cpu_seconds(child), used
                    if not ready and used - before < _IDLE_SECONDS / 100:
                        idle = True
                        os.kill(child, signal.SIGPROF)
                        break
                piece = os.read(ears, 1 << 16)
                if not piece:
                    break
                text += piece
                *lines, text = text.split(b"\n")
                for line in lines:
                    kind, _, rest = line.decode().partition(" ")
                    if kind in ("isolated", "back"):
                        isolated = rest
                        continue
                    if kind == "broken":
                        raise RuntimeError(json.loads(rest))
                    number, _, found = rest.partition(" ")
                    running = int(number) if kind == "begin" else None
                    if kind == "end":
                        done += 1
                        said = json.loads(found)
                        yield int(number), Fault(int(number), said.partition("\n")[0], said) if said else None
        except GeneratorExit:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise
        os.close(ears)
        _, status = os.waitpid(child, 0)
        if running is not None:
            done += 1
            name = signal.Signals(status).name if os.WIFSIGNALED(status) else f"exit {status}"
            seen = errors.read_text(errors="replace")[-4000:]
            lines = [line.strip() for line in seen.splitlines() if "/planish/" in line]
            where = lines[0].rpartition("/planish/")[2] if lines else "native code"
            what = f"more than {CPU_SECONDS} s of processor time" if name == "SIGPROF" else name
            what = "waits for ever" if idle else what
            kind = f"{_CONTAINED}: {what} in {isolated}" if isolated else f"{what} in {where}"
            yield running, Fault(running, kind, seen)
        start += max(done, 1)


def smallest(reader: Reader, examples: Sequence[Path], fault: Fault, root: Path, keep: Path) -> Path:
    """Keep the input of a fault with as few changes as show it."""
    place = root / "small"
    shutil.rmtree(place, ignore_errors=True)
    count = len(make_input(reader, examples, place / "input", fault.number))
    kept = list(range(count))
    for one in range(count):
        fewer = [i for i in kept if i != one]
        if fewer and (again := _again(reader, examples, fault.number, root, fewer)) and again.kind == fault.kind:
            kept = fewer
    shutil.rmtree(place, ignore_errors=True)
    changed = make_input(reader, examples, place / "input", fault.number, kept)
    target = keep / f"{fault.number}"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in dict.fromkeys(changed):
        if (place / "input" / name).is_file() and not (place / "input" / name).is_symlink():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(place / "input" / name, target / name)
    (target / "fault.txt").write_text(f"{fault.text}\n\nchanged: {', '.join(changed)}\nchanges: {kept}\n", errors="backslashreplace")
    return target


def _again(reader: Reader, examples: Sequence[Path], number: int, root: Path, kept: Sequence[int]) -> Fault | None:
    with mock.patch(f"{__name__}.make_input", partial(make_input, kept=kept)):
        return next(found for _, found in run_inputs(reader, examples, [number], root))


def fuzz(name: str, minutes: float, numbers: Sequence[int], keep: Path) -> int:
    """Feed a reader these inputs, for so many minutes at most; prints faults as they are found.

    Args:
        name: of the reader.
        minutes: wall-clock.
        numbers: of the inputs.
        keep: folder for inputs that fail.

    Returns:
        How many faults there are.
    """
    reader = READERS[name]
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        root = Path(folder)
        (root / "work").mkdir()
        os.environ["PLANISH_CACHE"] = str(root / "work" / "cache")
        if not (child := os.fork()):  # libraries that start threads must not be used before processes are forked
            write_examples(reader, root / "examples")
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0, "the examples could not be written"
        examples = sorted((root / "examples").glob("*/input"))
        begun, inputs, faults, contained = time.monotonic(), 0, Counter[str](), Counter[str]()
        cpu = os.times().children_user + os.times().children_system
        for number, fault in run_inputs(reader, examples, numbers, root / "work"):
            inputs += 1
            if fault is not None:
                counted = contained if fault.kind.startswith(_CONTAINED) else faults
                counted[fault.kind] += 1
                if counted[fault.kind] == 1:
                    kept = smallest(reader, examples, fault, root / "work", keep / name)
                    print(f"{name} {number}: {fault.kind}\n    kept in {kept}", flush=True)
                    if len(numbers) == 1:
                        print(fault.text)
            if time.monotonic() - begun > 60 * minutes:
                break
        spent = (time.monotonic() - begun) / 60
        used = (os.times().children_user + os.times().children_system - cpu) / 60
        print(
            f"{name}: {inputs} inputs, {spent:.1f} minutes ({used:.1f} of the processor), {len(faults)} faults in {faults.total()} inputs"
        )
        for kind, count in (*faults.most_common(), *contained.most_common()):
            print(f"    {count} x {kind}", flush=True)
    return len(faults)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readers", nargs="+", metavar="READER", help=f"{', '.join(READERS)}, or all")
    parser.add_argument("--minutes", type=float, default=30.0, help="for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inputs", type=int, default=1_000_000_000, help="for each reader, at most")
    parser.add_argument("--only", type=int, help="one input by its number")
    parser.add_argument("--isolated", action="store_true", help="call isolated processes")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-faults"), help="folder for inputs that fail")
    parser.parse_args(namespace=options)
    for module in _USED:  # once, and not by each process
        importlib.import_module(module)
    names = list(READERS) if options.readers == ["all"] else options.readers
    first = options.seed * 1_000_000_000
    numbers = range(first, first + options.inputs) if options.only is None else [options.only]
    return int(sum(fuzz(name, options.minutes, numbers, options.keep) for name in names) > 0)


if __name__ == "__main__":
    sys.exit(main())
