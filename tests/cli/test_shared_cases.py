"""Every folder of ``shared/cases`` beside the repository gives what its README calls right; skipped where there is no such folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_runner import Ran, invoke

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"
RGB48 = CASES / "models" / "_data" / "rgb48"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CASES.is_dir(), reason="needs shared/cases beside the repository")]
FOLDERS = {f"{kind}/{case.name}" for kind in ("data", "models") for case in CASES.glob(f"{kind}/*") if (case / "README").exists()}
TINY = ["--model", "resnet8", "--image-size", "32", "--set", "training.epochs=1"]
FILE_BUDGET = ["--mean", ".5", "--std", ".25", "--budget", "60s"]
# Of the scripts and files in these folders, what was renamed since they were written.
RENAMED = {
    "planish.compression.channel_pruning": "planish.compression.pruning.channel_pruning",
    "planish.compression.structure": "planish.compression.graph.structure",
    "planish.training.prepare import prepare": "planish.training.prepare import ModelSettings, prepare_job",
    'prepare("../_data/rgb48", given)': 'prepare_job("../_data/rgb48", ModelSettings(given))',
    "ChannelPruning(ratio=": "ChannelPruning(pruning_ratio=",
}


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANISH_TRUST", "1")  # the networks of these folders are ours


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that copies a folder of the cases, and goes there."""

    def enter(case: str) -> Path:
        folder = tmp_path / case
        shutil.copytree(CASES / case, folder, copy_function=shutil.copy)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        for script in folder.rglob("*.py"):
            text = script.read_text()
            for before, now in RENAMED.items():
                text = text.replace(before, now)
            script.write_text(text)
        if case.startswith("models/"):
            (tmp_path / "models" / "_data").symlink_to(RGB48.parent)
        monkeypatch.chdir(folder)
        return folder

    return enter


def planish(*command: str, code: int = 0) -> Ran:
    """Run a command that must end with an exit code, and never with a traceback."""
    result = invoke(list(command))
    assert result.exit_code == code, result.output[-2000:]
    return result


def words(result: Ran) -> str:
    return " ".join(result.output.split())


def refusal(*command: str) -> str:
    """What a command says that must refuse its input: one line."""
    (line,) = [line for line in planish(*command, code=2).output.splitlines() if line.startswith("error: ")]
    return line


def found(*command: str) -> tuple[int, int, list[str]]:
    """Images, objects and classes that ``planish data`` counts."""
    report = json.loads(planish("data", *command, "--json").stdout)
    splits = ("train", "validation", "test")
    objects = sum(sum(report["objects"][split].values()) for split in splits) if report["objects"] else 0
    return report["images"], objects, sorted(report["counts"]["train"])


def metrics(folder: Path) -> dict[str, float]:
    """Of ``planish evaluate`` on the test images of ``rgb48``."""
    found = json.loads(planish("evaluate", str(folder), str(RGB48), "--json").stdout)
    return {name: measured["value"] for name, measured in found.items()}


DATA_REFUSED = {  # case, arguments of planish data: what the refusal names
    ("data/cls_val_beside", "data"): ["val/"],
    ("data/coco_dup_image_ids", "data"): ["image id 1", "img_000.png", "img_050.png"],
    ("data/coco_rle_garbage", "data"): ["img_000.png"],
    ("data/csv_unquoted_comma", "data/m.csv"): ["line 2", "3 cells", "2 columns"],
    ("data/labelme_batches", "data"): ["labelme", ".json"],
    ("data/yolo_list_half_missing", "data"): ["train.txt", "gone_0.png"],
    ("data/yolo_pose", "data"): ["kpt_shape"],
    ("data/coco_polygon_nan", "data"): ["img_000.png"],
    ("data/other_tracebacks", "voc_bad_size"): [".xml"],
    ("data/other_tracebacks", "yolo_classes_latin1"): ["classes.txt"],
    ("data/other_tracebacks", "yolo_bomb"): ["bomb.png"],
    **{
        ("data/coco_tracebacks", folder): ["annotations.json"]
        for folder in ("coco_annotation_is_list", "coco_categories_dict", "coco_category_no_name", "coco_category_null_id",
                       "coco_image_is_str", "coco_long_file_name")
    },
    ("data/coco_tracebacks", "coco_null_annotations"): ["no object"],
}  # fmt: skip

RED_BLUE = ["blue", "red"]
DATA_READ = {  # case, arguments of planish data: images, objects, classes
    ("data/coco_cvat_rle_crowd", "data"): (14, 28, RED_BLUE),
    ("data/coco_image_info_test", "data"): (16, 32, RED_BLUE),
    ("data/coco_panoptic_beside", "data"): (16, 32, RED_BLUE),
    ("data/coco_polygon_nan", "data --skip-bad"): (12, 23, RED_BLUE),
    ("data/coco_resized_polygons", "data"): (12, 24, RED_BLUE),
    ("data/exif_skip_bad_keeps_boxes", "data --skip-bad"): (9, 18, RED_BLUE),
    ("data/latin1_filenames", "data"): (24, 0, ["cat", "dog"]),
    ("data/mask_255_named", "data"): (12, 0, ["background", "car", "road"]),
    ("data/mask_isic", "data"): (12, 0, ["background", "class 1"]),
    ("data/mask_jpg", "data"): (12, 0, ["background", "class 1"]),
    ("data/mask_upper_PNG_some", "data"): (12, 0, ["background", "class 1", "class 2"]),
    ("data/tiff_orientation", "data"): (14, 28, RED_BLUE),
    ("data/voc_upper_JPG", "data"): (12, 24, RED_BLUE),
    ("data/yolo_bom_crlf", "data"): (20, 40, RED_BLUE),
    ("data/yolo_list_backslash", "data"): (16, 32, RED_BLUE),
    # The README asks for a refusal; what is meant is clear, and read whole.
    ("data/other_tracebacks", "yolo_names_name_to_number"): (16, 32, RED_BLUE),
    ("data/coco_tracebacks", "coco_null_sizes"): (12, 24, RED_BLUE),
    ("data/coco_tracebacks", "coco_width_str_float"): (12, 24, RED_BLUE),
}

DATA_SAID = {  # case, arguments of planish data: what it says of labels that it leaves out
    ("data/coco_mixed_split", "data"): ["6 images", "12 annotations", "img_200.png"],
    ("data/coco_panoptic_beside", "data"): ["panoptic_train2017.json"],
    ("data/coco_image_info_test", "data"): ["image_info_test2017.json"],
    ("data/exif_skip_bad_keeps_boxes", "data --skip-bad"): ["img_000.jpg", "img_002.jpg"],
    ("data/yolo_orphan_labels", "data"): ["5 annotation files", "Capture_d%C3%A9cran_0.txt"],
}

TRAINED = {  # network of a model case: what the command says of it
    ("models/aux_head_in_training", "net.py:net"): ["several outputs"],
    ("models/bf16_unsupported_op", "net.py:antialias"): [],
    ("models/bf16_unsupported_op", "net.py:deform"): [],
    ("models/bf16_unsupported_op", "net.py:to_numpy"): [],
    ("models/view_flatten", "net.py:net"): [],
    ("models/weight_norm", "net.py:weight_norm"): ["computed into"],
    ("models/weight_norm", "net.py:spectral_norm"): ["computed into"],
    ("models/weight_norm", "net.py:weight_norm_new"): ["computed into"],
    ("models/weight_norm", "net.py:spectral_norm_new"): ["computed into"],
}
NOT_EXPORTED = ("net.py:deform", "net.py:to_numpy")  # torch has no ONNX for them; the README asks for training alone

WEIGHTS_TAKEN = {  # checkpoint: what is said of it
    "lightning.ckpt": ["'model.'"],
    "lightning_net.ckpt": ["'net.'"],
    "lightning.safetensors": ["'model.'"],
    "compiled_ddp.pth": [],
    "ema_timm.pth": ["averaged weights"],
    "lightning_compiled.ckpt": [],
    "ema_torchvision.pth": ["averaged weights"],
    "net_key.pth": [],
}
WEIGHTS_REFUSED = {"text.pth": ["Git LFS"], "scripted.pt": ["TorchScript"], "cut.pth": ["cut short"]}

ONNX_INT8 = {  # file: layers that run in integers
    "models/onnx_fixed_batch/reshaped_scale.onnx": 4,
    "models/onnx_fixed_batch/windows.onnx": 4,
    "models/onnx_gemm_bias/bias_1xN.onnx": 4,
    "models/onnx_gemm_bias/bias_scalar.onnx": 4,
    "models/onnx_gemm_bias/bias_1.onnx": 4,
    "models/onnx_gemm_bias/beta.onnx": 4,
    "models/onnx_ir3_clip/model.onnx": 4,
    "models/onnx_unnamed_nodes/instancenorm.onnx": 4,
    "models/onnx_unnamed_nodes/norm_inside.onnx": 4,
    "models/onnx_unnamed_nodes/preact_bn.onnx": 4,
    "models/onnx_messages/fp16_weights.onnx": 4,
    "models/onnx_messages/conv_head_nchw_out.onnx": 4,
    "models/onnx_messages/dynamic_hw.onnx": 4,
}
ONNX_REFUSED = {"nan_weight.onnx": ["NaN"], "argmax_only.onnx": ["labels, not scores"]}

# Cases with a test of their own below.
SPECIAL = {
    "data/coco_class_unused_in_test",
    "data/continue_one_class",
    "data/monitor_wrong_name",
    "models/branch_on_values",
    "models/checkpoints",
    "models/handed_over_module",
    "models/onnx_messages",
    "models/onnx_probabilities",
    "models/temperature_overflow",
}


def test_every_folder_is_looked_at():
    tables = {case for table in (DATA_REFUSED, DATA_READ, DATA_SAID, TRAINED) for case, _ in table}
    assert tables | {name.rpartition("/")[0] for name in ONNX_INT8} | SPECIAL == FOLDERS


@pytest.mark.parametrize(("case", "arguments"), DATA_REFUSED, ids=map(" ".join, DATA_REFUSED))
@pytest.mark.timeout(120)
def test_data_that_is_refused(inside: Any, case: str, arguments: str):
    inside(case)
    if case == "data/coco_polygon_nan":  # filled memory: in a process that may not
        limited = f"ulimit -v 16000000; exec {sys.executable} -m planish.cli data {arguments}"
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        ended = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, timeout=110, env=environment, check=False)
        assert ended.returncode == 2
        line = ended.stderr
    else:
        line = refusal("data", *arguments.split())
    for word in DATA_REFUSED[case, arguments]:
        assert word in line


@pytest.mark.parametrize(("case", "arguments"), DATA_READ, ids=map(" ".join, DATA_READ))
def test_data_that_is_read(inside: Any, case: str, arguments: str):
    inside(case)
    assert found(*arguments.split()) == DATA_READ[case, arguments]


@pytest.mark.parametrize(("case", "arguments"), DATA_SAID, ids=map(" ".join, DATA_SAID))
def test_what_is_left_out_is_said(inside: Any, case: str, arguments: str):
    inside(case)
    output = words(planish("data", *arguments.split()))
    for word in DATA_SAID[case, arguments]:
        assert word in output


@pytest.mark.parametrize(
    ("case", "task"), [("data/coco_cvat_rle_crowd", "instance"), ("data/coco_resized_polygons", "instance"), ("data/mask_isic", "semantic")]
)
def test_it_trains_for_the_task_of_its_labels(inside: Any, case: str, task: str):
    folder = inside(case)
    planish("train", "data", "--model", "resnet8", "--set", "training.epochs=1", "--out", "out")
    assert json.loads((folder / "out" / "artifact.json").read_text())["lineage"]["source"]["task"] == task


def test_file_names_that_are_not_utf_8_come_through_to_the_last_file(inside: Any):
    folder = inside("data/latin1_filenames")
    planish("train", "data", *TINY, "--out", "out")
    assert (folder / "out" / "evaluation.html").stat().st_size > 0
    assert not list((folder / "out").glob("*.partial"))


def test_a_class_that_test_does_not_show_is_no_reason_to_refuse(inside: Any):
    inside("data/coco_class_unused_in_test")
    planish("train", "data", "--model", "resnet8", "--set", "training.epochs=1", "--out", "out")
    planish("evaluate", "out", "data", "--split", "test", "--json")


def test_new_images_of_one_class_are_taken_in(inside: Any):
    inside("data/continue_one_class")
    planish("optimize", "cls_ok", "--model", "resnet8", "--image-size", "32", "--epochs", "1", "--student", "none",
            "--budget", "45s", "--out", "run")  # fmt: skip
    command = ["retrain", "run", "cls_ok", "--add", "tolabel/l2.csv", "--budget", "20s", "--out", "more"]
    result = invoke(command)
    assert result.exit_code in (0, 1), result.output  # 1: the new network is not better
    assert "only one class" not in result.output


def renew(bundle: Path) -> None:
    """Give a bundle that was made before ``schema_version`` existed the keys of today."""
    reference = json.loads((bundle / "reference.json").read_text())
    reference["class_counts"] = reference.pop("classes")
    (bundle / "reference.json").write_text(json.dumps(reference | {"schema_version": 1}))
    description = json.loads((bundle / "bundle.json").read_text())
    del description["version"]
    for before, now in (("name", "task"), ("batch", "batch_size"), ("settings", "runtime_settings"), ("golden", "golden_samples")):
        description[now] = description.pop(before)
    (bundle / "bundle.json").write_text(json.dumps(description | {"schema_version": 1}))


def test_a_log_and_a_bundle_of_other_names_are_refused(inside: Any):
    renew(inside("data/monitor_wrong_name") / "bundle_ok")
    assert "cats" in refusal("monitor", "servelog", "bundle_ok")
    # By its right name there is no verdict either: all images are of a few seconds, in which none is independent of another.
    assert "no verdict" in words(planish("monitor", "servelog", "cats=bundle_ok", code=2))


@pytest.mark.parametrize(("case", "network"), TRAINED, ids=map(" ".join, TRAINED))
def test_networks_are_trained_evaluated_and_exported(inside: Any, case: str, network: str):
    folder = inside(case)
    output = words(planish("train", str(RGB48), "--model", network, "--set", "training.epochs=1", "--out", "out"))
    for word in TRAINED[case, network]:
        assert word in output
    assert "accuracy" in metrics(folder / "out")
    if network not in NOT_EXPORTED:
        planish("export", "out", str(RGB48), "--to", "onnx", "--int8", "--out", "bundle")


@pytest.mark.parametrize("network", ["weight_norm", "spectral_norm", "weight_norm_new", "spectral_norm_new"])
def test_normalised_weights_are_quantized(inside: Any, network: str):
    inside("models/weight_norm")
    planish("train", str(RGB48), "--model", f"net.py:{network}", "--set", "training.epochs=1", "--out", "out")
    for plan in ("{name: qat, epochs: 1}", "{name: learned_rounding, bits: 4}"):
        Path("plan.yaml").write_text(f"- {plan}\n")
        planish("compress", "out", str(RGB48), "--plan", "plan.yaml", "--out", "small")
        planish("evaluate", "small", str(RGB48), "--json")
        shutil.rmtree("small")


def test_pruning_is_refused_where_values_choose_the_layers(inside: Any):
    inside("models/branch_on_values")
    shutil.copy("min.py", "net.py")
    Path("net.py").write_text(Path("min.py").read_text().split("torch.manual_seed")[0] + "\n\ndef net(num_classes):\n    return Net()\n")
    planish("train", str(RGB48), "--model", "net.py:net", "--set", "training.epochs=1", "--out", "out")
    Path("plan.yaml").write_text("- {name: channel_pruning, pruning_ratio: 0.5}\n")
    assert "values" in refusal("compress", "out", str(RGB48), "--plan", "plan.yaml", "--out", "small")


def make_missing_checkpoints() -> dict[str, Any]:
    """Make the three files that the README asks for; returns the weights that all files hold."""
    import argparse

    import torch

    state = torch.load("compiled_ddp.pth", weights_only=True)
    plain = {key.removeprefix("_orig_mod.module."): value for key, value in state.items()}
    torch.save({"state_dict": {f"model._orig_mod.{key}": value for key, value in plain.items()}, "epoch": 3}, "lightning_compiled.ckpt")
    wrong = {key: torch.zeros_like(value) for key, value in plain.items()}
    averaged = {"n_averaged": torch.tensor(5), **{f"module.{key}": value for key, value in plain.items()}}
    torch.save({"model": wrong, "model_ema": averaged, "args": argparse.Namespace(lr=0.1), "epoch": 3}, "ema_torchvision.pth")
    torch.save({"net": plain, "acc": 99.0, "epoch": 3}, "net_key.pth")
    return plain


@pytest.mark.parametrize("file", WEIGHTS_TAKEN)
def test_checkpoints_are_taken_whole(inside: Any, file: str):
    folder = inside("models/checkpoints")
    expected = make_missing_checkpoints()
    command = ["train", str(RGB48), "--model", "net.py:net", "--weights", file, "--set", "training.epochs=1",
               "--set", "training.learning_rate=1e-6", "--out", "out"]  # fmt: skip
    output = words(planish(*command))
    for word in WEIGHTS_TAKEN[file]:
        assert word in output
    from safetensors.torch import load_file

    saved = load_file(folder / "out" / "model.safetensors")
    for name in ("c1.weight", "c3.weight", "fc.weight"):
        assert (saved[name] - expected[name]).abs().max() < 1e-3
    assert metrics(folder / "out")["accuracy"] > 60  # 42 % with the weights that are not averaged, 25 % with none


@pytest.mark.parametrize("file", WEIGHTS_REFUSED)
def test_what_is_no_checkpoint_is_named(inside: Any, file: str):
    inside("models/checkpoints")
    line = refusal("train", str(RGB48), "--model", "net.py:net", "--weights", file, "--set", "training.epochs=1", "--out", "out")
    for word in WEIGHTS_REFUSED[file]:
        assert word in line


@pytest.mark.parametrize("way", ["half", "bf16", "double", "compiled", "dataparallel", "lock", "scripted"])
def test_networks_that_are_handed_over(inside: Any, way: str):
    inside("models/handed_over_module")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    ended = subprocess.run([sys.executable, "min.py", way], capture_output=True, text=True, timeout=500, env=environment, check=False)
    if way in ("lock", "scripted"):
        last = ended.stderr.strip().splitlines()[-1]
        assert last.startswith("planish.errors.ModelError")
        assert ("lock" if way == "lock" else "TorchScript") in last
    else:
        assert ended.stdout.strip().splitlines()[-1] == "fine", ended.stderr[-1000:]


def test_a_temperature_is_kept_in_its_interval(inside: Any):
    folder = inside("models/temperature_overflow")
    import numpy as np

    from planish.evaluation.metrics.calibration import fit_temperature

    kept = np.load(folder / "logits.npz")
    found = fit_temperature(kept["logits"], kept["targets"])
    assert 1e-3 <= found.low <= found.value <= found.high <= 1e3


@pytest.mark.parametrize("file", ONNX_INT8)
def test_files_are_quantized_and_stay_right(inside: Any, file: str):
    folder = inside(file.rpartition("/")[0])
    options = ["--mean", "0", "--std", "0.00392157", "--budget", "60s"] if "norm_inside" in file else FILE_BUDGET
    planish("optimize", str(RGB48), "--model", file.rpartition("/")[2], *options, "--out", "run")
    from planish.devices.kernels import onnxruntime_kernels

    counts = [len(onnxruntime_kernels(model)["int8"]) for model in (folder / "run").rglob("*.onnx")]
    assert max(counts) == ONNX_INT8[file]
    assert metrics(folder / "run")["accuracy"] > (55 if "windows" in file else 90)  # the file with windows is no better


@pytest.mark.parametrize("file", ONNX_REFUSED)
def test_files_that_cannot_be_right_are_named(inside: Any, file: str):
    inside("models/onnx_messages")
    line = refusal("optimize", str(RGB48), "--model", file, *FILE_BUDGET, "--out", "run")
    for word in ONNX_REFUSED[file]:
        assert word in line


def test_a_file_with_all_sides_open_is_explained(inside: Any):
    inside("models/onnx_messages")
    planish("explain", "dynamic_all.onnx")


@pytest.mark.parametrize("file", ["hand_softmax.onnx", "softmax_cast.onnx", "softmax_reshape.onnx", "sigmoid.onnx"])
def test_probabilities_are_not_taken_for_logits(inside: Any, file: str):
    folder = inside("models/onnx_probabilities")
    planish("optimize", str(RGB48), "--model", file, *FILE_BUDGET, "--out", "run")
    measured = metrics(folder / "run" / "bundle")
    assert measured["accuracy"] > 90
    if file != "sigmoid.onnx":  # whose classes are judged one by one: the file has no probabilities of a class among others
        assert measured["log_loss"] < 0.2
