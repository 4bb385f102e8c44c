"""Settings of where and how a run works: device, precision, checkpoints, log.

They change results by rounding at most, but for precision, accumulation, sync_batchnorm and gradient_clipping
(docs/training.md).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from colocam_dist.config.section import NonNegative, Positive, Section

__all__ = ["CUDA_GRAPHS", "Checkpoint", "Engine", "Log"]

CUDA_GRAPHS = ("reduce-overhead", "max-autotune")
"""The values of engine.compile that use them on a GPU."""


class Engine(Section):
    """Device, precision and how the work is split."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    zero_stage: Literal[0, 1, 2, 3] = 0  # of DeepSpeed: what ranks share out (1 optimizer, 2 gradients, 3 weights, too)
    sync_batchnorm: bool = True  # BatchNorm over the frames of all ranks, so that their number does not change the loss
    accumulation: Positive = 1  # micro-batches per optimizer step on each rank
    window_ranks: Positive = 1  # ranks in a row that share the frames of each window of stage 2
    gradient_clipping: NonNegative = 0.0  # largest norm of all gradients; 0 = off
    threads: Annotated[int, Field(ge=0)] = 0  # CPU threads per rank; 0 = cores divided by local ranks
    timeout: Annotated[float, Field(ge=1.0)] = 600.0  # seconds without progress after which a rank counts as hung
    non_finite: Literal["stop", "skip", "roll_back"] = "stop"  # loss or gradients with NaN or infinity
    non_finite_limit: Positive = 3  # such steps in a row after which skip and roll_back give up
    on_out_of_memory: Literal["stop", "halve"] = "stop"  # halve: start again with half the micro-batch (--max-restarts)
    # Speed; docs/speed.md has what each gives and where.
    compile: Literal["none", "default", "reduce-overhead", "max-autotune"] = "none"  # torch.compile of the networks
    channels_last: bool = False  # pixels of all channels lie side by side in memory
    tf32: bool = True  # convolutions on GPUs in fp32, as torch does by default; matrix products never
    cudnn_benchmark: bool = False  # GPUs: try the algorithms of each convolution; digits may then differ between runs
    fused_optimizer: bool = False  # the optimizer step in one kernel
    keep_memory: bool = True  # CPUs: freed memory is kept for the next step, on huge pages where the system has them

    @model_validator(mode="after")
    def _fp16_fits(self) -> Engine:
        if self.precision == "fp16" and self.zero_stage > 0:
            raise ValueError(
                "engine.precision=fp16 needs engine.zero_stage=0: with the other stages DeepSpeed leaves out steps "
                "whose scaled gradients overflow, but does not lower the scale, so that no step is taken any more; "
                "bf16 has no scale"
            )
        if self.precision == "fp16" and self.fused_optimizer:
            raise ValueError(
                "engine.precision=fp16 needs engine.fused_optimizer=false: the fused step makes its momentum even in a "
                "step that is left out because of an overflow, from memory that holds anything"
            )
        return self

    @model_validator(mode="after")
    def _compile_fits(self) -> Engine:
        if self.compile != "none" and self.zero_stage == 3:
            raise ValueError("engine.compile needs engine.zero_stage 0 to 2: stage 3 moves weights while layers run")
        if self.compile in CUDA_GRAPHS and (self.accumulation > 1 or self.on_out_of_memory == "halve"):
            raise ValueError(
                f"engine.compile={self.compile} replays CUDA graphs, which overwrite gradients that are added up: it "
                "needs engine.accumulation=1 and engine.on_out_of_memory=stop; engine.compile=default does not"
            )
        return self


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
    profile_steps: Annotated[int, Field(ge=0)] = 0  # steps of each stage that torch's profiler records; 0 = none
