"""Learning rates and optimizer groups against the published numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from colocam_dist.config.stages import Optimizer
from colocam_dist.training.schedule import build_sgd, learning_rate, set_learning_rate


@pytest.mark.parametrize(("epoch", "rate"), [(0, 0.01), (4, 0.01), (5, 0.009), (9, 0.009), (10, 0.0081)])
def test_the_published_step_schedule(epoch: int, rate: float) -> None:
    assert learning_rate(Optimizer(lr=0.01, lr_step=5), epoch, step=10**6) == pytest.approx(rate, rel=1e-12)


def test_the_floor_holds() -> None:
    assert learning_rate(Optimizer(lr=0.01, lr_step=1, lr_gamma=0.1), 50, 0) == 1e-7


def test_warm_up_grows_linearly_and_ends() -> None:
    settings = Optimizer(lr=1.0, warmup_steps=4)
    assert [learning_rate(settings, 0, step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_new_layers_learn_faster_and_no_parameter_is_in_two_groups() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    optimizer = build_sgd(Optimizer(lr=0.1, fast_lr_factor=10.0), model.parameters(), model[1].parameters())
    set_learning_rate(optimizer, 0.05)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.5])
    listed = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters())
    assert all(group["nesterov"] and group["weight_decay"] == 1e-4 for group in optimizer.param_groups)


def test_one_step_is_nesterov_sgd_with_decay() -> None:
    weight = nn.Parameter(torch.tensor([2.0]))
    optimizer = build_sgd(Optimizer(lr=0.1, weight_decay=0.5), [weight])
    set_learning_rate(optimizer, 0.1)
    weight.grad = torch.tensor([1.0])
    optimizer.step()
    gradient = 1.0 + 0.5 * 2.0
    assert weight.item() == pytest.approx(2.0 - 0.1 * (gradient + 0.9 * gradient))
