"""From settings to a DeepSpeed engine; the only place that derives a micro-batch."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from colocam_dist.config.schema import Engine
from colocam_dist.distributed import Workers
from colocam_dist.errors import ConfigError

__all__ = ["build_engine", "micro_batch"]


def micro_batch(global_batch: int, n_frames: int, world: int, accumulation: int, setting: str) -> tuple[int, int]:
    """Windows per optimizer step over all ranks, and per micro-batch on one rank.

    Args:
        global_batch: frames per optimizer step (the public code's 32). Windows = global_batch // n_frames; the rest
            is not filled with copies, as the public code does.
        n_frames: frames per window.
        world: number of ranks.
        accumulation: micro-batches per optimizer step on each rank.
        setting: name of the setting, for the error.

    Raises:
        ConfigError: the windows do not divide by world x accumulation.
    """
    windows = global_batch // n_frames
    share = world * accumulation
    if windows < 1 or windows % share:
        good = max(share, round(windows / share) * share) * n_frames
        raise ConfigError(
            "the global batch cannot be divided over the ranks",
            where=setting,
            got=f"{global_batch} frames = {windows} windows of {n_frames}, over {world} ranks x {accumulation} "
            "accumulation steps",
            wanted=f"a multiple of {share * n_frames} frames",
            fix=f"use {setting}={good}, or change engine.accumulation or the number of ranks",
        )
    return windows, windows // share


def build_engine(
    module: nn.Module, optimizer: torch.optim.Optimizer, settings: Engine, workers: Workers, windows: int
) -> Any:
    """Wrap `module`, whose forward returns the loss, and `optimizer` in a DeepSpeed engine.

    Weights stay fp32; bf16 and fp16 are autocast in the forward pass (fp16 with dynamic loss scaling), because
    BatchNorm statistics and the affinity terms need fp32.

    Args:
        windows: windows per micro-batch on this rank.
    """
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": windows,
        "gradient_accumulation_steps": settings.accumulation,
        "gradient_clipping": settings.gradient_clipping,
        "zero_optimization": {"stage": settings.zero_stage},
        "zero_allow_untested_optimizer": True,  # torch SGD is exact under ZeRO; DeepSpeed only whitelists Adam
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
    if settings.precision != "fp32":
        dtype = {"bf16": "bfloat16", "fp16": "float16"}[settings.precision]
        config["torch_autocast"] = {"enabled": True, "dtype": dtype}
    import deepspeed

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine, _, _, _ = deepspeed.initialize(
            model=module.to(workers.device),
            optimizer=optimizer,
            model_parameters=[p for p in module.parameters() if p.requires_grad],
            config=config,
            dist_init_required=False,
        )
    return engine
