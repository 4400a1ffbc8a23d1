import json
import shutil
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_fakes import FakeTask
from macs_clock import macs, time_by_macs
from scipy import special, stats

from planish.artifact import Artifact
from planish.devices.machine import cpu_model
from planish.errors import BundleError, GoalError
from planish.export.bundle.folder import read_bundle, write_bundle
from planish.export.bundle.reference import image_values
from planish.export.bundle.verify import verify
from planish.measurement import Measurement
from planish.serving.serve import open_models
from planish.settings import DeploymentTarget


@pytest.fixture(scope="module")
def bundle(int8_artifact: Artifact, task: FakeTask, tmp_path_factory: pytest.TempPathFactory) -> Path:
    measured = {"latency_ms": Measurement("latency_ms", 0.5, "ms", 100, False, 0.4, 0.6)}
    return write_bundle(
        int8_artifact,
        task,
        tmp_path_factory.mktemp("b") / "bundle",
        target=DeploymentTarget("onnxruntime"),
        measurements=measured,
        golden=6,
    )


@pytest.fixture
def mine(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def test_a_bundle_verifies_wherever_it_is_copied(mine: Path) -> None:
    report = verify(mine)
    assert report.ok, report
    assert report.samples == 6
    assert read_bundle(mine).measurements["latency_ms"].high == 0.6
    assert not list(mine.parent.glob("*.partial"))


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("name", ["model.onnx", "golden/000.png", "golden/expected.npz", "reference.json", "README.md"])
def test_one_flipped_bit_or_a_lost_file_is_found(mine: Path, name: str) -> None:
    _flip(mine / name)
    assert verify(mine).failures == [f"{name} was changed"]
    (mine / name).unlink()
    assert verify(mine).failures == [f"{name} is missing"]


def test_a_file_that_was_added_and_a_changed_description_are_found(mine: Path) -> None:
    (mine / "golden" / "more.png").write_bytes(b"x")
    assert verify(mine).failures == ["golden/more.png does not belong here"]
    (mine / "golden" / "more.png").unlink()
    (mine / "bundle.json").write_text((mine / "bundle.json").read_text().replace('"bar"', '"foo"'))
    assert verify(mine).failures == ["bundle.json was changed"]


def _reseal(folder: Path, change: Any) -> None:
    import hashlib

    described = json.loads((folder / "bundle.json").read_text())
    change(described)
    for name in described["sha256"]:
        if (folder / name).is_file():
            described["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "bundle.json").write_text(json.dumps(described))
    (folder / "bundle.json.sha256").write_text(hashlib.sha256((folder / "bundle.json").read_bytes()).hexdigest())


def test_a_model_that_answers_otherwise_is_found_though_all_hashes_fit(mine: Path) -> None:
    with np.load(mine / "golden" / "expected.npz") as saved:
        logits = saved["logits"].copy()
    logits[2] = np.roll(logits[2], 1)
    np.savez(mine / "golden" / "expected.npz", logits=logits)
    _reseal(mine, lambda d: None)
    report = verify(mine)
    assert not report.ok
    assert [line.split(":")[0] for line in report.failures] == ["golden/002.png"]


@pytest.mark.parametrize(
    "names", [lambda names: names[:-1], lambda names: [*names, "more"], lambda names: []], ids=["fewer", "more", "none"]
)
def test_each_class_of_the_model_has_a_name(mine: Path, names: Any) -> None:
    _reseal(mine, lambda d: d.update(class_names=names(d["class_names"])))
    count = len(json.loads((mine / "bundle.json").read_text())["class_names"])
    with np.load(mine / "golden" / "expected.npz") as expected:
        outputs = expected["logits"].shape[1]
    assert f"golden/000.png: the bundle names {count} classes, and the model has {outputs}" in verify(mine).failures
    with pytest.raises(BundleError, match=f"the bundle names {count} classes"):
        open_models([f"shapes={mine}"])


def test_other_settings_of_the_runtime_are_noted(mine: Path) -> None:
    assert verify(mine).notes == []
    _reseal(mine, lambda d: d["runtime_settings"].update(execution_mode="parallel", arena="off"))
    report = verify(mine)
    assert report.ok
    assert report.notes == [
        "note: onnxruntime runs with arena=default here, recorded is off",
        "note: onnxruntime runs with execution_mode=sequential here, recorded is parallel",
    ]
    assert all(note in str(report) for note in report.notes)


def _claim(file: Path, shape: str) -> None:
    """Known outputs whose header tells of more than there is."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("logits.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)


def _bomb(file: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("logits.npy", "w") as entry:
        for _ in range(40):
            entry.write(bytes(1_000_000))


@pytest.mark.parametrize(
    "write",
    [
        lambda file: np.savez(file, logits=np.array([{"a": 1}], dtype=object)),
        lambda file: file.write_bytes(b"PK"),
        lambda file: _claim(file, "(1000000000000000,)"),
        _bomb,
    ],
    ids=["pickle", "damaged", "claims", "bomb"],
)
def test_known_outputs_from_a_forger_are_refused(mine: Path, write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planish.export.bundle.verify._MOST_EXPECTED", 30_000_000)
    write(mine / "golden" / "expected.npz")
    _reseal(mine, lambda d: None)
    tracemalloc.start()
    with pytest.raises(BundleError, match=r"expected\.npz (cannot be read|has \d+ bytes)"):
        verify(mine)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


def test_other_preprocessing_is_found(mine: Path) -> None:
    _reseal(mine, lambda d: d["preprocessing"].update(resize="crop"))
    assert not verify(mine).ok


@pytest.mark.parametrize("name", ["../outside.onnx", "/etc/passwd", "a/../../b", "..\\outside", "C:/x"])
def test_names_outside_the_folder_are_refused(mine: Path, name: str) -> None:
    _reseal(mine, lambda d: d.update(files=[name]))
    with pytest.raises(BundleError, match="lie in its folder"):
        verify(mine)


def test_a_link_out_of_the_folder_is_refused(mine: Path, tmp_path: Path) -> None:
    shutil.move(mine / "model.onnx", tmp_path / "model.onnx")
    (mine / "model.onnx").symlink_to(tmp_path / "model.onnx")
    with pytest.raises(BundleError, match="lie in its folder"):
        verify(mine)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema_version": 99}', "[" * 100_000])
def test_a_damaged_description_is_a_bundle_error(mine: Path, text: str) -> None:
    (mine / "bundle.json").write_text(text)
    with pytest.raises(BundleError):
        verify(mine)


def test_only_a_bundle_is_replaced(int8_artifact: Artifact, network: Artifact, task: FakeTask, tmp_path: Path, mine: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").write_text("mine")
    settings: Any = {"target": DeploymentTarget("onnxruntime"), "measurements": {}, "golden": 2}
    with pytest.raises(BundleError, match="is not a bundle"):
        write_bundle(int8_artifact, task, tmp_path / "photos", **settings)
    with pytest.raises(BundleError, match="exported"):
        write_bundle(network, task, tmp_path / "new", **settings)
    assert verify(write_bundle(int8_artifact, task, mine, **settings)).samples == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "photos"]


def test_latency_here_beside_what_was_promised(mine: Path) -> None:
    report = verify(mine, latency=True, max_latency_ms=1e-6)
    found = report.latency
    assert found is not None
    assert found.value > 0
    assert found.device == cpu_model()
    assert f"promised 0.500 [0.400, 0.600] ms on a machine it does not name, here {found} on {found.device}" in str(report)
    assert str(report).endswith(f"{found.value / 0.5:.2g}x as long")
    assert [line.endswith("at most 1e-06 ms") for line in report.failures] == [True]


def test_latency_is_that_of_the_bundles_own_calls(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    time_by_macs(monkeypatch)
    _reseal(mine, lambda d: d.update(batch_size=3))
    found = verify(mine, latency=True).latency
    assert found is not None
    assert found.value == pytest.approx(3e-6 * macs(mine / "model.onnx") + 1e-3, rel=0.01)


def test_without_a_promise_latency_is_only_told(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    time_by_macs(monkeypatch)
    _reseal(mine, lambda d: d.update(measurements={}))
    report = verify(mine, latency=True, max_latency_ms=1e6)
    assert report.ok
    assert str(report).endswith("the bundle promises none")
    with pytest.raises(GoalError, match="not measured"):
        verify(mine, max_latency_ms=1)


def test_the_reference_holds_a_value_for_each_image(bundle: Path) -> None:
    found = json.loads((bundle / "reference.json").read_text())
    assert {name: len(values) for name, values in found["values"].items()} == dict.fromkeys(
        ["brightness", "contrast", "sharpness", "width", "height", "confidence", "entropy", "energy"], 36
    )
    assert set(found["values"]["height"]) == {24, 32, 40, 48}
    assert sum(found["class_counts"].values()) == 36


def test_values_of_known_images() -> None:
    stripes = np.zeros((1, 4, 4, 1), np.uint8)
    stripes[:, :, ::2] = 255
    logits = np.array([[2.0, 0, 0, 0], [0, 0, 0, 0]], np.float32)
    images = np.concatenate([stripes, np.full_like(stripes, 51)])
    found = image_values("classification", "abcd", images, {"logits": logits})
    values = {name: [one[name] for one in found] for name in found[0]}
    assert values["class"] == ["a", "a"]
    np.testing.assert_allclose(values["brightness"], [0.5, 0.2], atol=1e-6)
    np.testing.assert_allclose(values["contrast"], [0.5, 0], atol=1e-6)
    np.testing.assert_allclose(values["sharpness"], [0.5, 0], atol=1e-6)
    np.testing.assert_allclose(values["entropy"], stats.entropy(special.softmax(logits, axis=1), axis=1), atol=1e-6)
    np.testing.assert_allclose(values["energy"], special.logsumexp(logits, axis=1), atol=1e-6)
