"""Settings of where and how a run works: device, precision, checkpoints, log. They do not change what it computes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from colocam_dist.config.section import NonNegative, Positive, Section

__all__ = ["Checkpoint", "Engine", "Log"]


class Engine(Section):
    """Device, precision and how the work is split."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    zero_stage: Literal[0, 1, 2, 3] = 0
    sync_batchnorm: bool = True  # BatchNorm over the frames of all ranks, so that their number does not change the loss
    accumulation: Positive = 1  # micro-batches per optimizer step on each rank
    window_ranks: Positive = 1  # ranks in a row that share the frames of each window of stage 2
    gradient_clipping: NonNegative = 0.0  # 0 = off
    threads: Annotated[int, Field(ge=0)] = 0  # CPU threads per rank; 0 = cores divided by local ranks
    timeout: Annotated[float, Field(ge=1.0)] = 600.0  # seconds without progress after which a rank counts as hung
    non_finite: Literal["stop", "skip", "roll_back"] = "stop"  # loss or gradients with NaN or infinity
    non_finite_limit: Positive = 3  # such steps in a row after which skip and roll_back give up
    on_out_of_memory: Literal["stop", "halve"] = "stop"  # halve: start again with half the micro-batch (--max-restarts)


class Checkpoint(Section):
    """How often the whole training state is written, and how many of them stay."""

    every_steps: Annotated[int, Field(ge=0)] = 0  # 0 = at the end of each epoch only
    keep: Positive | Literal["all"] = 2  # the newest ones
    keep_best: Annotated[int, Field(ge=0)] = 0  # and as many more, the best by validation
    when_full: Literal["stop", "skip"] = "stop"  # no space: end the run, or go on without this checkpoint


class Log(Section):
    """What is reported while the run goes on."""

    every_steps: Positive = 10
    tensorboard: bool = True
