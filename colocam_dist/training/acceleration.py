"""Ways to compute the same faster: memory layout and compiled networks.

Neither changes the names of weights, so that checkpoints fit with and without; validation computes without compiling.
"""

from __future__ import annotations

import warnings

import torch

from colocam_dist.config.machine import Engine
from colocam_dist.models.batch_norm import SynchronizedBatchNorm2d
from colocam_dist.training.optimizer_step import LossModule

__all__ = ["accelerate"]


def accelerate(module: LossModule, settings: Engine) -> None:
    """Set up a module as the settings say, after the engine has wrapped it: DeepSpeed takes weights as it knows them.

    Args:
        module: on the device; changed in place.
        settings: ``channels_last`` and ``compile``.
    """
    if settings.channels_last:
        module.memory_format = torch.channels_last
        for weight in module.parameters():
            # ZeRO has what learns, and stage 3 everything, in flat buffers of its own.
            own = settings.zero_stage == 0 or (settings.zero_stage < 3 and not weight.requires_grad)
            if own and weight.dim() == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    if settings.compile == "none":
        return
    for layer in module.modules():
        if isinstance(layer, SynchronizedBatchNorm2d):
            # Collectives stay as they are, between compiled parts.
            layer._over_ranks = torch.compiler.disable(layer._over_ranks)  # type: ignore[method-assign]
    mode = None if settings.compile == "default" else settings.compile
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, when it imports its compiler
        # `predict` and not the model is compiled: names and evaluation stay as they are. Batches of a stage have one
        # size, so one graph will do.
        module.compiled = torch.compile(module.predict, dynamic=False, mode=mode)
