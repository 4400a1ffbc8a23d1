"""Plans: they survive being written down, and refuse what does not combine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planish.compression import ChannelPruning, Int8, Resolution
from planish.data.augmentation.operations import Operations
from planish.errors import PlanError
from planish.export import ToOnnx, ToOpenVino
from planish.plan import Plan
from planish.technique import parameter_names, registered, resolve
from planish.training import Distill

TORCH = {"format": "torch", "precision": "fp32", "weights": "dense"}
steps = st.one_of(
    st.builds(ChannelPruning, pruning_ratio=st.sampled_from([0.1, 0.5, 0.9])),
    st.builds(Resolution, scale=st.sampled_from([0.5, 0.75])),
    st.builds(
        Distill, epochs=st.integers(1, 9), augmentation=st.sampled_from(["light", Operations(rotate=15, scale=(0.8, 1.2), flip=True)])
    ),
    st.just(ToOnnx()),
    st.just(Int8()),
    st.just(ToOpenVino()),
)


@given(st.lists(steps, max_size=6))
def test_a_plan_survives_yaml_and_json(tmp_path_factory: pytest.TempPathFactory, techniques: list) -> None:
    plan = Plan(*techniques)
    for text in (plan.to_yaml(), plan.to_json()):
        path = tmp_path_factory.mktemp("plan") / "plan.yaml"
        path.write_text(text)
        assert Plan.load(path) == plan
        assert Plan.load(path).key == plan.key


def test_every_field_is_part_of_the_key() -> None:
    keys = {
        Plan(ChannelPruning(pruning_ratio=0.5)).key,
        Plan(ChannelPruning(pruning_ratio=0.25)).key,
        Plan().key,
        Plan(ToOnnx(), Int8()).key,
        Plan(Int8(), ToOnnx()).key,
    }
    assert len(keys) == 5


def test_the_rooms_techniques_are_registered_through_entry_points() -> None:
    assert {"channel_pruning", "int8", "resolution", "distill", "to_onnx", "to_openvino"} <= registered().keys()
    assert all(kind.reference for kind in registered().values())


def test_an_unknown_technique_names_the_nearest() -> None:
    with pytest.raises(PlanError, match="did you mean 'channel_pruning'"):
        resolve("chanel_pruning")


def test_augmentations_are_written_as_a_mapping_of_what_is_on(tmp_path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("- {name: distill, augmentation: {rotate: 15, scale: [0.8, 1.2], flip: true}}")
    plan = Plan.load(path)
    assert plan == Plan(Distill(augmentation=Operations(rotate=15, scale=(0.8, 1.2), flip=True)))
    assert plan.to_dicts()[0]["augmentation"] == {"scale": [0.8, 1.2], "rotate": 15.0, "flip": True}
    assert plan.key != Plan(Distill()).key


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pruning_ratio: 0.5", "not a list of steps"),
        ("- {name: channel_pruning, pruning_ratio: 1.5}", "step 1 .channel_pruning.: pruning_ratio"),
        ("- {name: channel_pruning, pruning_ration: 0.5}", "pruning_ration"),
        ("- {name: distill, augmentation: {rotate: 500}}", "rotate: Input should be less than or equal to 180"),
        ("- {name: distill, augmentation: {rotation: 5}}", "rotation: Unexpected"),
        ("- {name: distill, augmentation: heavy}", "'none', 'light' or 'standard'"),
        ("- {name: factorize, speedup: 1.5, runtime: null}", r"step 1 .factorize.: a speedup is measured"),
        ("- [", "cannot read the plan"),
    ],
)
def test_a_broken_plan_says_what_is_wrong(tmp_path, text: str, message: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(PlanError, match=message):
        Plan.load(path)


def test_steps_that_do_not_combine_are_refused_before_anything_runs() -> None:
    with pytest.raises(PlanError, match=r"step 2 \(channel_pruning\) needs format torch, and here it is onnx"):
        Plan(ToOnnx(), ChannelPruning(pruning_ratio=0.5)).check(TORCH)
    with pytest.raises(PlanError, match=r"step 3 \(int8\) needs precision fp32, and here it is int8"):
        Plan(ToOnnx(), Int8(), Int8()).check(TORCH)
    assert Plan(ChannelPruning(pruning_ratio=0.5), Distill(epochs=1), ToOnnx(), Int8(), ToOpenVino()).check(TORCH) == {
        "format": "openvino",
        "precision": "int8",
        "weights": "dense",
    }


def test_the_hyper_parameters_of_a_technique_are_those_that_can_be_given() -> None:
    assert {name: parameter_names(resolve(name)) for name in ("resolution", "to_onnx")} == {
        "resolution": ["scale", "recalibrate"],
        "to_onnx": [],
    }
    with pytest.raises(PlanError, match="its hyper-parameters are none"):
        Plan.from_dicts([{"name": "to_onnx", "opset": 17}])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {name: channel_pruning, prunning_ratio: 0.5}", "did you mean 'pruning_ratio'"),
        ("- {name: INT8}", "did you mean 'int8'"),
        ("- {name: int8}\n---\n- {name: to_onnx}", "line 2, column 1: expected a single document"),
        ("-\tname: int8", "line 1, column 2"),
    ],
)
def test_a_mistake_in_a_plan_is_one_line_with_its_place(tmp_path, text: str, message: str) -> None:
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(PlanError, match=message) as found:
        Plan.load(tmp_path / "plan.yaml")
    assert "\n" not in str(found.value)
