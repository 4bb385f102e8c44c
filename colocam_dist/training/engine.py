"""From settings to a DeepSpeed engine."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from colocam_dist.config.machine import Engine
from colocam_dist.distributed import Workers

__all__ = ["build_engine"]


def build_engine(
    module: nn.Module, optimizer: torch.optim.Optimizer, settings: Engine, workers: Workers, windows: int
) -> Any:
    """Wrap `module`, whose forward returns the loss, and `optimizer` in a DeepSpeed engine.

    Weights stay fp32; bf16 and fp16 are autocast in the forward pass (fp16 with dynamic loss scaling), because
    BatchNorm statistics and the affinity terms need fp32.

    Args:
        windows: windows per micro-batch on this rank.
    """
    learning = [p for p in module.parameters() if p.requires_grad]
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": windows,
        "gradient_accumulation_steps": settings.accumulation,
        "gradient_clipping": settings.gradient_clipping,
        # One bucket for all that learns: DeepSpeed sets memory aside for it, by default for 5e8 numbers on each rank.
        "zero_optimization": {"stage": settings.zero_stage, "reduce_bucket_size": sum(p.numel() for p in learning)},
        "timers": {"throughput": {"enabled": False, "synchronized": False}},  # they wait for the GPU twice a step
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
            model_parameters=learning,
            config=config,
            dist_init_required=False,
        )
    return engine
