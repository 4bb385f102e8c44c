"""Learning-rate schedule and optimizer groups of both stages."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from colocam_dist.config.stages import Optimizer

__all__ = ["build_sgd", "learning_rate", "set_learning_rate"]


def learning_rate(settings: Optimizer, epoch: int, step: int) -> float:
    """Base rate in epoch `epoch` (from 0) at global optimizer step `step` (from 0).

    Public code: max(base * gamma ** (epoch // step_epochs), floor). `warmup_steps` (0 there) multiplies by
    (step + 1) / warmup_steps until it reaches 1.
    """
    rate = max(settings.lr * settings.lr_gamma ** (epoch // settings.lr_step), settings.lr_floor)
    if step < settings.warmup_steps:
        rate *= (step + 1) / settings.warmup_steps
    return rate


def build_sgd(
    settings: Optimizer, slow: Iterable[nn.Parameter], fast: Iterable[nn.Parameter] = (), *, fused: bool = False
) -> torch.optim.Optimizer:
    """SGD with one group, or two when `fast` parameters get `fast_lr_factor` times the rate (public code, stage 1).

    With `fused` a step is one kernel for many parameters; otherwise torch chooses.
    """
    fast = list(fast)
    fast_ids = {id(parameter) for parameter in fast}
    groups = [
        {"params": [p for p in slow if id(p) not in fast_ids], "lr_factor": 1.0},
        {"params": fast, "lr_factor": settings.fast_lr_factor},
    ]
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov and settings.momentum > 0,
        weight_decay=settings.weight_decay,
        fused=fused or None,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give each parameter group `rate` times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_factor"]
