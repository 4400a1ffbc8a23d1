"""Conformance tests of techniques."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planish.artifact import Artifact
from planish.errors import PlanError
from planish.evaluation.torch_predictor import TorchPredictor
from planish.export.runtimes.registry import available, load
from planish.models.storage import load_artifact, save_artifact
from planish.plan import Plan
from planish.settings import ModelSettings
from planish.task import Task
from planish.technique import Technique, describe, resolve
from planish.testing.images import write_shapes
from planish.training.prepare import prepare_job


class TechniqueConformance:
    """Conformance tests of a technique. Inherit from it in a test class and set the attributes::

        class TestChannelPruning(TechniqueConformance):
            technique = ChannelPruning(pruning_ratio=0.5)

    Attributes:
        technique: with hyper-parameters that have an effect.
        before: steps that bring a torch artifact to what the technique requires.
        model: network to test it on.
    """

    technique: Technique
    before: tuple[Technique, ...] = ()
    model: str = "resnet8"

    @pytest.fixture(scope="class")
    def job(self, tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Task]:
        job = prepare_job(write_shapes(tmp_path_factory.mktemp("shapes")), ModelSettings(self.model))
        return Plan(*self.before).apply(job.artifact, job.task), job.task

    @pytest.fixture(scope="class")
    def applied(self, job: tuple[Artifact, Task]) -> Artifact:
        return self.technique.apply(*job)

    def test_it_is_registered_and_says_where_it_comes_from(self) -> None:
        assert resolve(self.technique.name) is type(self.technique)
        assert self.technique.reference
        assert type(self.technique).__doc__

    def test_a_plan_with_it_survives_being_written_down(self) -> None:
        plan = Plan(self.technique)
        assert Plan.from_dicts(json.loads(plan.to_json())) == plan

    def test_it_leaves_what_it_was_given_untouched(self, job: tuple[Artifact, Task]) -> None:
        artifact, task = job
        kept: Any = copy.deepcopy(artifact.module.state_dict()) if artifact.module is not None else [f.read_bytes() for f in artifact.files]
        lineage = artifact.lineage
        self.technique.apply(artifact, task)
        if artifact.module is not None:
            now: Any = artifact.module.state_dict()
            assert all((now[name] == value).all() for name, value in kept.items())
            assert now.keys() == kept.keys()
        else:
            assert [f.read_bytes() for f in artifact.files] == kept
        assert artifact.lineage == lineage

    def test_it_adds_itself_to_the_lineage_and_remembers_the_original(self, job: tuple[Artifact, Task], applied: Artifact) -> None:
        artifact, _ = job
        assert applied.lineage.steps[:-1] == artifact.lineage.steps
        step = applied.lineage.steps[-1]
        assert {"name": step.technique, **step.params} == describe(self.technique)
        assert applied.original is (artifact.original or artifact)

    def test_what_it_says_it_changes_is_what_changes(self, job: tuple[Artifact, Task], applied: Artifact) -> None:
        assert applied.facts == {**job[0].facts, **self.technique.changes}
        assert Plan(self.technique).check(job[0].facts) == applied.facts

    def test_a_plan_is_refused_where_its_requirements_do_not_hold(self) -> None:
        for fact in self.technique.requires:
            allowed = {name: values[0] for name, values in self.technique.requires.items()}
            with pytest.raises(PlanError, match=f"needs {fact}"):
                Plan(self.technique).check(allowed | {fact: "something else"})

    def test_it_runs_saved_and_loaded_as_it_ran_before(self, job: tuple[Artifact, Task], applied: Artifact, tmp_path: Path) -> None:
        save_artifact(applied, tmp_path / "saved")
        loaded = load_artifact(tmp_path / "saved", original=applied.original)
        assert loaded.lineage == applied.lineage
        expected, found = (_outputs(a, job[1]) for a in (applied, loaded))
        assert expected.keys() == found.keys()
        for name, values in expected.items():
            assert np.isfinite(values).all()
            np.testing.assert_array_equal(found[name], values)

    def test_the_same_seed_gives_the_same_result(self, job: tuple[Artifact, Task], applied: Artifact) -> None:
        again = self.technique.apply(*job)
        for name, values in _outputs(applied, job[1]).items():
            np.testing.assert_allclose(_outputs(again, job[1])[name], values, rtol=1e-4, atol=1e-4)


def _outputs(artifact: Artifact, task: Task) -> dict[str, Any]:
    images = np.ascontiguousarray(task.split("validation").images(artifact.input_spec, artifact.preprocessing)[:8])
    if artifact.format == "torch":
        return TorchPredictor(artifact.module, artifact.preprocessing)(images)
    runtime = available(artifact.format)[0]
    return load(artifact.files, runtime)(images)
