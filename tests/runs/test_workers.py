"""Steps that other processes carry out give the run what it would have done itself."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from worker_pools import Processes, ThisProcess

import planish
from planish.datacentric import folds as folds_module
from planish.decisions import decide
from planish.devices.device import current_device
from planish.errors import DeviceError, GoalError, TechniqueError
from planish.files.atomic import read_arrays, write_arrays
from planish.progress import collecting_notes
from planish.runs import trainings
from planish.runs.networks.halving import successive_halving
from planish.runs.store import Store
from planish.runs.workers import share_steps, worker_count, working_with
from planish.runs.workers.parcel import Outcome, Parcel, pack, perform
from planish.runs.workers.share import using_workers
from planish.testing import write_shapes

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Here and in other processes, so that sums are added in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", per_class=30)


def not_here(*_: Any, **__: Any) -> None:
    raise AssertionError("the run itself trains")


def experiment(shapes: Path, out: Path, seeds: int = 3) -> Any:
    vary = {"modifications.activation": ["relu", "elu"]}
    return planish.experiment(shapes, vary=vary, model="resnet8", seeds=seeds, epochs=1, changes=["mixed_precision=off"], out=out)


def test_an_experiment_is_the_same(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = experiment(shapes, tmp_path / "alone")
    monkeypatch.setattr(trainings, "fit", not_here)
    workers = Processes()
    with using_workers(workers):
        shared = experiment(shapes, tmp_path / "shared")
    assert workers.parcels == [4, 2], "the first two seeds of both arms, then the third"
    for here, there in zip(alone.arms, shared.arms, strict=True):
        assert [(t.seed, t.epochs, [s for _, s in t.curve]) for t in here.trainings] == [
            (t.seed, t.epochs, [s for _, s in t.curve]) for t in there.trainings
        ]
        for name in ("accuracy", "difference", "parameters"):
            assert here.measurements.get(name) == there.measurements.get(name)
    assert sum(shared.seconds.values()) == pytest.approx(Store(tmp_path / "shared").rows()[-1][5], abs=0.5), "stages add up to the duration"


def crossval(shapes: Path, out: Path, **options: Any) -> Any:
    return planish.crossval(shapes, model="resnet8", folds=4, epochs=1, changes=["mixed_precision=off"], out=out, **options)


def logits(out: Path) -> Any:
    return read_arrays(out / "out_of_fold.npz")["logits"]


@pytest.fixture(scope="module")
def alone(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    crossval(shapes, out)
    return out


def test_folds_are_the_same(shapes: Path, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folds_module, "fit", not_here)
    with using_workers(Processes()):
        crossval(shapes, tmp_path / "shared")
    assert_array_equal(logits(alone), logits(tmp_path / "shared"))


def test_what_was_finished_is_not_shared_again(tmp_path: Path) -> None:
    store, folder = Store(tmp_path), tmp_path
    (tmp_path / "given.npz").write_bytes(b"")
    write_arrays(tmp_path / "given.npz", value=np.arange(3))

    def call(number: int) -> Callable[[], Any]:
        def work() -> int:
            factor = decide("factor", lambda: 10)
            write_arrays(folder / "work" / f"{number}.npz", value=factor * number + read_arrays(folder / "given.npz")["value"])
            return factor * number

        return lambda: store.load(f"step {number}", "working", work, lambda found: (found, read_arrays(folder / "work" / f"{number}.npz")))

    store.once("factor", "working", lambda: 100)
    workers = ThisProcess()
    with using_workers(workers):
        share_steps(store, tmp_path, [call(0), call(1), call(1)], [tmp_path / "given.npz"])
        share_steps(store, tmp_path, [call(i) for i in range(4)], [tmp_path / "given.npz"])
    assert workers.parcels == [2, 2]
    before = store.keys()
    for number in range(4):
        found, arrays = call(number)()
        assert found == 100 * number, "decisions of the run hold there"
        assert_array_equal(arrays["value"], 100 * number + np.arange(3))
    assert store.keys() == before


def test_other_images_there_are_refused(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where another folder has the same path."""

    class Elsewhere(ThisProcess):
        def results(self, parcels: Iterable[Parcel]) -> Iterator[tuple[int, Outcome]]:
            moved = [next(shapes.rglob("*.png"))]
            content = moved[0].read_bytes()
            moved[0].unlink()
            yield from super().results(parcels)
            moved[0].write_bytes(content)

    workers = Elsewhere()
    with using_workers(workers), collecting_notes() as notes:
        found = experiment(shapes, tmp_path / "run", seeds=2)
    assert workers.parcels == [4]
    assert sum("so it is done here" in each for each in notes) == 2, "the images of the first seed were sent"
    assert [len(arm.trainings) for arm in found.arms] == [2, 2]


def test_what_is_impossible_there_is_tried_here(tmp_path: Path) -> None:
    store, folder, text = Store(tmp_path), tmp_path, str(tmp_path)

    def work() -> None:
        if str(folder) != text:
            raise TechniqueError("needs a package")

    calls = [lambda i=i: store.attempt(f"step {i}", "working", work) for i in range(2)]
    with using_workers(ThisProcess()), collecting_notes() as notes:
        share_steps(store, tmp_path, calls)
    assert not store.keys()
    assert sum("needs a package" in each for each in notes) == 2
    assert [call() for call in calls] == ["", ""]


@pytest.mark.parametrize("what", ["fails", "times"])
def test_what_workers_cannot_do_is_done_here(tmp_path: Path, what: str) -> None:
    store, folder, text = Store(tmp_path), tmp_path, str(tmp_path)

    def work(number: int) -> int:
        if what == "times" and number:
            current_device().take_turns([], [], "onnxruntime", 1)
        elif number and str(folder) != text:  # the folder becomes the worker's, the text stays
            raise RuntimeError("only here")
        return number

    calls = [lambda i=i: store.once(f"step {i}", "working", lambda: work(i)) for i in range(2)]
    with using_workers(ThisProcess()), collecting_notes() as notes:
        share_steps(store, tmp_path, calls)
    assert store.keys() == ["step 0"]
    assert "step 1" in notes[0]
    assert ("only here" if what == "fails" else "models are not timed in this process") in notes[0]


def test_mapped_files_are_fetched_where_they_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(200_000, dtype=np.int32).reshape(100, 2000)
    values.tofile(tmp_path / "values.bin")
    mapped = np.memmap(tmp_path / "values.bin", np.int32, "r", shape=values.shape)
    (tmp_path / "run").mkdir()
    store = Store(tmp_path / "run")
    step = store.first_unfinished(lambda: store.once("sum", "working", lambda: int(mapped[10:].sum())))
    assert step is not None
    parcel = pack(store, tmp_path / "run", step)
    assert len(parcel.content) < 50_000
    assert list(parcel.files.values()) == [tmp_path / "values.bin"]
    content = (tmp_path / "values.bin").read_bytes()
    asked: list[str] = []

    def fetch(name: str) -> list[bytes]:
        asked.append(name)
        return [content[:1000], content[1000:]]

    def total(outcome: Outcome) -> str:
        assert not outcome.error
        return outcome.rows[0][2]

    assert total(perform(parcel.content, fetch)) == str(values[10:].sum())
    assert not asked, "the file is here"
    (tmp_path / "values.bin").rename(tmp_path / "elsewhere.bin")
    monkeypatch.setenv("PLANISH_CACHE", str(tmp_path / "cache"))
    for _ in range(2):
        assert total(perform(parcel.content, fetch)) == str(values[10:].sum())
    assert asked == list(parcel.files), "once"


@pytest.mark.parametrize(("workers", "seconds"), [(1, (12.5, 25.0)), (2, (25.0, 50.0)), (3, (25.0, 50.0)), (9, (50.0, 50.0))])
def test_networks_that_are_trained_at_the_same_time_get_longer(workers: int, seconds: tuple[float, float]) -> None:
    accuracy = {"a": 1.0, "b": 4.0, "c": 2.0, "d": 3.0}
    trained, shared = list[tuple[str, int, float]](), list[int]()

    def train(name: str, number: int, each: float) -> float:
        trained.append((name, number, each))
        return accuracy[name]

    order = successive_halving(list("abcd"), ((4, 0.5), (2, 0.5)), 100.0, 5.0, train, workers, lambda calls: shared.append(len(calls)))
    assert order == ["b", "d"]
    assert shared == [4, 2]
    assert trained == [*((name, 0, seconds[0]) for name in "abcd"), *((name, 1, seconds[1]) for name in "bd")]


@pytest.mark.parametrize("text", ["rays", "ray?cores=many", "ray?gpus=1", "mysql://a/b", ""])
def test_unknown_workers(text: str) -> None:
    with pytest.raises(GoalError, match="--workers"), working_with(text):
        pass


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """A PostgreSQL server of its own."""
    pytest.importorskip("psycopg", reason="needs planish[postgresql]")
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(found) for found in [shutil.which("initdb")] if found]
    if not installed:
        pytest.skip("needs PostgreSQL's server")
    folder = Path(tempfile.mkdtemp(prefix="planish-postgresql-"))
    rights: dict[str, Any] = {}
    if os.getuid() == 0:  # which PostgreSQL refuses
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
        rights = {"user": user.pw_uid, "group": user.pw_gid}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    binaries, data = installed[-1].parent, str(folder / "data")
    subprocess.run([binaries / "initdb", "-D", data, "-U", "planish", "-A", "trust", "-N"], check=True, capture_output=True, **rights)
    options = ["-c", f"port={port}", "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"]
    server = subprocess.Popen([binaries / "postgres", "-D", data, *options], stderr=subprocess.DEVNULL, **rights)
    url = f"postgresql://planish@127.0.0.1:{port}/postgres"
    try:
        import psycopg

        for _ in range(100):
            try:
                psycopg.connect(url).close()
                break
            except psycopg.OperationalError:
                time.sleep(0.2)
        yield url
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)
        shutil.rmtree(folder)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}


def worker(url: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "planish", "worker", url, "--idle", "60s"], env=environment())


def rows(url: str, query: str) -> list[Any]:
    import psycopg

    with psycopg.connect(url, autocommit=True) as database:
        try:
            return database.execute(query).fetchall()
        except psycopg.errors.UndefinedTable:
            return []


def until(url: str, query: str) -> None:
    for _ in range(600):
        if rows(url, query):
            return
        time.sleep(0.1)
    raise AssertionError(query)


CONNECTED = "select 1 from pg_stat_activity where application_name like 'planish worker%'"


def test_workers_on_postgresql_one_of_which_is_killed(database: str, shapes: Path, alone: Path, tmp_path: Path) -> None:
    first = worker(database)
    try:
        until(database, CONNECTED)
        run = [sys.executable, "-c", RUN, str(shapes), str(tmp_path / "shared"), database]
        leader = subprocess.Popen(run, env=environment())
        until(database, "select 1 from pg_locks where locktype = 'advisory' and classid = 2 having count(distinct pid) > 1")
        first.kill()  # in the middle of a step, as the run itself is in another
        second = worker(database)
        assert leader.wait(300) == 0
        second.kill()
    finally:
        first.kill()
    assert_array_equal(logits(alone), logits(tmp_path / "shared"))
    assert not rows(database, "select 1 from planish_steps")
    assert not rows(database, "select 1 from planish_runs")


def test_a_run_goes_on_without_its_database(database: str, tmp_path: Path) -> None:
    store = Store(tmp_path)

    def work(number: int) -> int:
        if number == 1:
            rows(database, "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'planish run'")
        return number

    calls = [lambda i=i: store.once(f"step {i}", "working", lambda: work(i)) for i in range(3)]
    with working_with(database), collecting_notes() as notes:
        share_steps(store, tmp_path, calls)
        assert worker_count() == 1
    assert "the workers are lost" in notes[-1]
    assert store.keys() in ([], ["step 0"])
    assert [call() for call in calls] == [0, 1, 2]
    with working_with(database), working_with(database):
        assert len(rows(database, "select 1 from planish_runs")) == 2, "runs that go on, while the lost one is forgotten"
    assert not rows(database, "select 1 from planish_runs")


RUN = """
import sys
from pathlib import Path
from tests.runs.test_workers import crossval
if __name__ == "__main__":
    crossval(Path(sys.argv[1]), Path(sys.argv[2]), workers=sys.argv[3])
"""


def test_a_database_that_is_not_there() -> None:
    pytest.importorskip("psycopg", reason="needs planish[postgresql]")
    with pytest.raises(DeviceError, match="database"), working_with("postgresql://planish@127.0.0.1:9/none?connect_timeout=2"):
        pass


@pytest.mark.parametrize("address", ["ray://127.0.0.1:9", "RAY_ADDRESS"])
def test_a_cluster_that_is_not_there(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="needs planish[ray]")
    if address == "RAY_ADDRESS":
        monkeypatch.setenv(address, "127.0.0.1:9")
    with pytest.raises(TechniqueError, match="no Ray cluster answers"), working_with(address if "//" in address else "ray"):
        pass


@pytest.mark.slow
def test_two_nodes_of_ray_one_of_which_is_lost(shapes: Path, alone: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs planish[ray]")
    run = [sys.executable, "-c", ON_RAY, str(shapes), str(tmp_path / "shared")]
    there = {"TMPDIR": str(tmp_path), "RAY_TMPDIR": "/tmp"}  # Ray's sockets have short names
    subprocess.run(run, check=True, timeout=600, env=environment() | there, capture_output=True)
    assert_array_equal(logits(alone), logits(tmp_path / "shared"))


ON_RAY = """
import os, sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from tests.runs.test_workers import crossval
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
other = cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()

def lose():
    while len(list(Path(os.environ["TMPDIR"]).glob("planish-worker-*"))) < 2:  # both nodes are busy with a step
        time.sleep(0.2)
    cluster.remove_node(other, allow_graceful=False)

threading.Thread(target=lose, daemon=True).start()
os.environ["RAY_ADDRESS"] = cluster.address
crossval(Path(sys.argv[1]), Path(sys.argv[2]), workers="ray?cores=1")
assert len(cluster.list_all_nodes()) == 1
cluster.shutdown()
"""
