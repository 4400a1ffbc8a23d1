"""The model card is valid by the Hub's own library, and its numbers are those of ``result.json`` and ``bundle.json``."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard

from planish.artifact import Lineage, Source, Step
from planish.export.bundle.folder import Bundle, read_bundle
from planish.hub.address import HubAddress
from planish.hub.card import CardSettings, model_card
from planish.measurement import Measurement
from planish.search.result import Result

ADDRESS = HubAddress("ada/shapes")
NOTHING = CardSettings()


@pytest.fixture
def bundle(finished: Path) -> Bundle:
    return read_bundle(finished / "bundle")


@pytest.fixture
def result(finished: Path) -> Result:
    return Result.load(finished / "result.json")


def test_the_librarys_validators_accept_its_metadata(bundle: Bundle, result: Result, finished: Path) -> None:
    card = ModelCard(model_card(bundle, result, ADDRESS, CardSettings("apache-2.0")))
    assert card.data.license == "apache-2.0"
    assert card.data.pipeline_tag == "image-classification"
    assert {"planish", "onnx", "onnxruntime"} <= set(card.data.tags)
    assert card.data.model_name == "shapes"
    stored = json.loads((finished / "result.json").read_text())["chosen"]["measurements"]["accuracy"]
    (found,) = (each for each in card.data.eval_results if each.metric_type == "accuracy")
    assert isinstance(found, EvalResult)
    assert found.metric_value == pytest.approx(stored["value"], abs=1e-3)
    low, high = re.findall(r"\d+\.\d+", found.metric_name.partition("interval")[2])
    assert float(low) == pytest.approx(stored["low"], abs=0.006)
    assert float(high) == pytest.approx(stored["high"], abs=0.006)
    assert (found.dataset_split, found.task_type) == ("test", "image-classification")


def test_only_metrics_on_test_are_results(bundle: Bundle, result: Result) -> None:
    card = ModelCard(model_card(bundle, result, ADDRESS, NOTHING))
    assert {each.metric_type for each in card.data.eval_results} == {"accuracy"}


def test_text_has_latency_with_device_lineage_and_limits(bundle: Bundle, result: Result) -> None:
    text = ModelCard(model_card(bundle, result, ADDRESS, NOTHING)).text
    latency = bundle.measurements["latency_ms"]
    shown = re.search(r"\| latency \| ([\d.]+) ms \| ([\d.]+) to ([\d.]+) ms \|", text)
    assert shown
    assert [float(each) for each in shown.groups()] == pytest.approx([latency.value, latency.low, latency.high], abs=6e-4)
    assert "Measured on Fake CPU with ONNX Runtime, 1 thread, batch size 1" in text
    assert "2. `to_onnx`" in text
    weakest = min(result.per_class, key=lambda c: c.chosen.value).name if len(result.per_class) > 3 else ""
    assert weakest in text
    for section in ("Metrics", "Speed and size", "How it was made", "Intended use", "Limits", "Use it", "Licence"):
        assert f"\n## {section}\n" in text
    assert "planish verify hf://ada/shapes" in text
    assert "The owner states no licence" in text


def test_what_the_owner_states_stands_in_the_card(bundle: Bundle, result: Result) -> None:
    text = model_card(bundle, result, ADDRESS, CardSettings("mit", "Sorting buttons on a **conveyor belt**."))
    assert "\n## Intended use\n\nSorting buttons on a **conveyor belt**.\n" in text
    assert "The weights: `mit`." in text


def test_a_goal_that_was_missed_is_a_limit(bundle: Bundle, result: Result) -> None:
    missed = replace(result, goal_met=False, shortfall="It is 0.2 ms too slow.")
    assert "The goal of the run was not met: It is 0.2 ms too slow." in model_card(bundle, missed, ADDRESS, NOTHING)


def test_a_bundle_without_result_and_measurements_has_a_valid_card(bundle: Bundle) -> None:
    card = ModelCard(model_card(replace(bundle, measurements={}), None, ADDRESS, NOTHING))
    assert "model-index" not in card.data.to_dict()
    assert card.data.eval_results is None
    assert "was not evaluated on test images" in card.text
    assert "was not measured" in card.text


def test_a_metric_that_is_not_a_number_is_left_out(bundle: Bundle) -> None:
    odd = Measurement("f1:dot", math.nan, "%", 0, True)
    card = ModelCard(model_card(replace(bundle, measurements=bundle.measurements | {"f1:dot": odd}), None, ADDRESS, NOTHING))
    assert {each.metric_type for each in card.data.eval_results} == {"accuracy"}


def test_names_cannot_change_the_card(bundle: Bundle) -> None:
    """Class names and notes come from files of others; paths of the owner's machine are not published."""
    steps = (Step("int8", {}, notes="a\n---\nlicense: mit\n<script>"),)
    odd = replace(
        bundle, class_names=("a|b", "<img src=x>", "c\n## Licence"), lineage=Lineage(Source("/home/ada/net.py:make", 3, 3), steps)
    )  # fmt: skip
    text = model_card(odd, None, ADDRESS, NOTHING)
    assert len(re.findall("^## Licence", text, re.MULTILINE)) == 1
    assert "<" not in text
    assert r"a\|b" in text
    assert "license" not in yaml.safe_load(text.split("---")[1])
    assert "/home/ada" not in text
    assert "`net.py:make`" in text


def test_the_licence_of_pretrained_weights_is_the_one_that_timm_states(bundle: Bundle) -> None:
    import timm

    stated = timm.get_pretrained_cfg("resnet18").license
    odd = replace(bundle, lineage=Lineage(Source("timm:resnet18", 3, 3)))
    assert f"timm states the licence `{stated}` for pretrained weights of `timm:resnet18`" in model_card(odd, None, ADDRESS, NOTHING)


@pytest.mark.parametrize(
    ("task", "pipeline"), [("detection", "object-detection"), ("instance", "image-segmentation"), ("semantic", "image-segmentation")]
)
def test_pipelines_of_the_other_tasks(bundle: Bundle, task: str, pipeline: str) -> None:
    card = ModelCard(model_card(replace(bundle, task=task), None, ADDRESS, NOTHING))
    assert card.data.pipeline_tag == pipeline
    assert card.data.eval_results[0].task_type == pipeline
