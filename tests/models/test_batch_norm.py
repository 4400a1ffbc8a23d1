"""Re-estimated statistics of batch norm."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from planish.models.batch_norm import reestimate_batch_norm


@pytest.mark.parametrize("sizes", [(), (1,), (1, 1)])
def test_statistics_stay_where_no_batch_has_two_images(sizes: tuple[int, ...]) -> None:
    norm = nn.BatchNorm2d(2).eval()
    norm.running_mean.fill_(3)
    norm.running_var.fill_(4)
    reestimate_batch_norm(nn.Sequential(norm), [torch.zeros(size, 2, 4, 4) for size in sizes])
    assert norm.running_mean.tolist() == [3, 3]
    assert norm.running_var.tolist() == [4, 4]


def test_layers_that_do_not_run_keep_their_statistics() -> None:
    network = nn.Sequential(nn.BatchNorm2d(1), nn.BatchNorm2d(1)).eval()
    for norm in network:
        norm.running_mean.fill_(3)
    reestimate_batch_norm(network, [torch.ones(2, 1, 4, 4)], network[0])
    assert [norm.running_mean.item() for norm in network] == [1, 3]
