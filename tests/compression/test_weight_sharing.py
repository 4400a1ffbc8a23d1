"""k-means in one dimension against its definition, and shared weights through distillation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning_nets import DepthwiseMultiplier, Residual, randomised
from scipy.cluster.vq import kmeans2
from test_channel_pruning import TASK, artifact
from torch import nn

from planish.compression import UnstructuredPruning, WeightSharing
from planish.compression.storage.weight_sharing import cluster
from planish.errors import PlanError, TechniqueError
from planish.plan import Plan
from planish.settings import ModelSettings
from planish.training import Distill

rng = np.random.default_rng(0)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 4))
def test_a_fixed_point_of_k_means(seed: int, clusters: int, rows: int) -> None:
    """Every centroid is the mean of its members, and every value is with its nearest centroid."""
    random = np.random.default_rng(seed)
    values, owner = random.normal(size=200) * 10 ** random.uniform(-6, 3), random.integers(0, rows, 200)
    found = cluster(values, owner, rows, clusters)
    for row in range(rows):
        mine, shared = values[owner == row], found[owner == row]
        centroids = np.unique(shared)
        assert len(centroids) <= clusters
        for centroid in centroids:
            assert centroid == pytest.approx(mine[shared == centroid].mean(), rel=1e-6, abs=1e-12 * np.abs(mine).max())
        nearest = np.abs(mine[:, None] - centroids).min(1) if len(mine) else 0
        np.testing.assert_allclose(np.abs(mine - shared), nearest, rtol=1e-6, atol=1e-9 * np.abs(values).max())


def test_it_is_scipys_k_means() -> None:
    values = rng.normal(size=3000)
    start = np.linspace(values.min(), values.max(), 16)
    centroids, labels = kmeans2(values, start, iter=200, minit="matrix")
    np.testing.assert_allclose(cluster(values, np.zeros(3000, int), 1, 16), centroids[labels], atol=1e-6)


def test_few_values_stay_as_they_are() -> None:
    values = rng.choice([-0.5, 0.25, 3.0, 3.5], 100)
    np.testing.assert_array_equal(cluster(values, np.zeros(100, int), 1, 64), values)
    np.testing.assert_array_equal(cluster(np.full(5, 0.3), np.zeros(5, int), 1, 4), np.full(5, 0.3))
    assert len(cluster(np.zeros(0), np.zeros(0, int), 3, 4)) == 0


def different(module: nn.Module) -> dict[str, list[int]]:
    """For each layer how many values it has, and the most that one output channel has; zero apart."""
    layers = {n: m.weight.detach() for n, m in module.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    return {n: [len(w[w != 0].unique()), max(len(c[c != 0].unique()) for c in w)] for n, w in layers.items()}


def test_layers_and_channels_share() -> None:
    net = randomised(DepthwiseMultiplier())
    assert all(layer <= 8 for layer, _ in different(WeightSharing(bits=3).apply(artifact(net), TASK).module).values())
    found = different(WeightSharing(bits=2, per_channel=True).apply(artifact(net), TASK).module)
    assert all(channel <= 4 for _, channel in found.values())
    assert found["b.0"][0] > 4
    only = different(WeightSharing(bits=2, layers="linear").apply(artifact(net), TASK).module)
    assert only["head"][0] <= 4 < only["b.0"][0]


def test_zeros_of_a_pruned_network_stay_apart() -> None:
    pruned = UnstructuredPruning(sparsity=0.6).apply(artifact(randomised(Residual())), TASK)
    shared = WeightSharing(bits=4).apply(pruned, TASK)
    for a, b in zip(pruned.module.parameters(), shared.module.parameters(), strict=True):
        assert torch.equal(a == 0, b == 0)
    assert all(layer <= 16 for layer, _ in different(shared.module).values())
    assert "dB" in shared.lineage.steps[-1].notes


def test_what_cannot_be_shared() -> None:
    net = randomised(Residual())
    net.a[0].weight.data[0, 0, 0, 0] = torch.inf
    with pytest.raises(TechniqueError, match=r"a\.0.*not finite"):
        WeightSharing().apply(artifact(net), TASK)
    with pytest.raises(TechniqueError, match="no linear layer"):
        WeightSharing(layers="linear").apply(artifact(nn.Sequential(nn.Conv2d(3, 5, 3))), TASK)
    with pytest.raises(PlanError, match="bits"):
        Plan.from_dicts([{"name": "weight_sharing", "bits": 9}])
    with pytest.raises(PlanError, match="needs weights dense"):
        Plan(WeightSharing(), UnstructuredPruning(sparsity=0.5)).check(artifact(net).facts)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from planish.testing import write_shapes
    from planish.training.prepare import prepare_job

    return prepare_job(write_shapes(tmp_path_factory.mktemp("shapes")), ModelSettings("resnet8"))


@pytest.mark.parametrize("per_channel", [False, True])
def test_distillation_trains_the_codebook(job: Any, per_channel: bool) -> None:
    sharing = WeightSharing(bits=3, per_channel=per_channel)
    before = Plan(UnstructuredPruning(sparsity=0.5), sharing).apply(job.artifact, job.task)
    after = Distill(epochs=1).apply(before, job.task)
    assert after.facts["weights"] == ("shared per channel" if per_channel else "shared")
    assert all(found[per_channel] <= 8 for found in different(after.module).values())
    weights = [(a, b) for a, b in zip(before.module.parameters(), after.module.parameters(), strict=True) if a.ndim > 1]
    assert weights
    for a, b in weights:
        assert torch.equal(a == 0, b == 0)
        assert not torch.equal(a, b)
