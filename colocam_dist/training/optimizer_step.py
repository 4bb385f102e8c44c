"""One optimizer step over its micro-batches, with the same decisions on all ranks."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from colocam_dist.config.machine import CUDA_GRAPHS, Engine
from colocam_dist.data.stream import WindowBatch
from colocam_dist.distributed import Workers
from colocam_dist.errors import RunError
from colocam_dist.training.engine_state import EngineState
from colocam_dist.training.signals import StopRequests
from colocam_dist.training.weight_average import WeightAverage

__all__ = ["LossModule", "StepRunner"]

log = logging.getLogger(__name__)


class LossModule(nn.Module):
    """A model with its loss: what DeepSpeed wraps. `forward(batch)` returns the scalar loss and fills `terms`."""

    model: nn.Module
    epoch: int  # from 0; set by the trainer before each batch, like step
    step: int  # optimizer steps done in this stage
    terms: dict[str, Tensor]  # detached scalars of the last batch
    average: WeightAverage | None = None  # of the model's weights, if one is kept; set by the trainer

    memory_format = torch.contiguous_format  # of the images that the model is given
    compiled: Callable[..., Any] | None = None  # stands for `predict`; no submodule, so that names stay

    def predict(self, images_BCHW: Tensor, *more: Any) -> Any:
        """What the loss is computed from, by the model alone."""
        raise NotImplementedError

    def network(self, images_BCHW: Tensor, *more: Any) -> Any:
        """:meth:`predict` in the way that the settings ask for."""
        images_BCHW = images_BCHW.contiguous(memory_format=self.memory_format)
        return (self.compiled or self.predict)(images_BCHW, *more)


class StepRunner:
    """Runs micro-batches through a DeepSpeed engine.

    A loss or a gradient that is not finite never reaches the weights. Every rank learns of it before the optimizer
    step: of the loss by the reduction that also averages the reported terms, of gradients because they are reduced
    (ZeRO 0) or because DeepSpeed's own norm is (ZeRO 1 to 3, which then leave out the step themselves).

    Args:
        state: of the engine, which must be set.
        module: what the engine wraps.
        settings: of the engine.
        workers: the ranks.
        stop: requests to stop, whose agreement rides on the same reduction.

    Attributes:
        stopping: all ranks agree that somebody asked to stop.
        skipped: optimizer steps left out so far because something was not finite.
        in_a_row: how many of them just before now.
    """

    def __init__(
        self, state: EngineState, module: LossModule, settings: Engine, workers: Workers, stop: StopRequests
    ) -> None:
        self._engine = state.engine
        self._state = state
        self._module = module
        self._settings = settings
        self._workers = workers
        self._stop = stop
        self.stopping = False
        self.skipped = self.in_a_row = 0
        self._buffers: list[Tensor] | None = None
        self._bad: str | None = None  # why the optimizer step in progress must be left out

    def micro(self, batch: WindowBatch, *, boundary: bool) -> tuple[dict[str, Tensor], bool]:
        """Forward, backward and, at the accumulation boundary, the optimizer step.

        Returns:
            The loss and its terms, averaged over ranks; and whether an optimizer step was left out.

        Raises:
            RunError: something is not finite, and the settings say stop, or it was so too often in a row.
        """
        workers, engine, progress = self._workers, self._engine, self._workers.progress
        if self._settings.non_finite == "skip" and self._buffers is None:
            self._buffers = self._state.copy_buffers()
        injected = progress.enter("forward")
        if self._settings.compile in CUDA_GRAPHS:
            torch.compiler.cudagraph_mark_step_begin()
        with record_function("forward"):
            loss = engine(batch.to(workers.device))
        if injected == "nan":
            loss = loss * float("nan")
        progress.enter("exchange")
        named = {"loss": loss.detach(), **self._module.terms}
        asked = torch.full((), float(self._stop.reason is not None), device=loss.device)
        values = torch.stack([value.float().reshape(()) for value in (*named.values(), asked)])
        values = workers.sum(values) / workers.world
        terms = dict(zip(named, values[:-1], strict=True))
        # The one place before the optimizer where the host waits for the device's results.
        total, asking = torch.stack([values[0], values[-1]]).tolist()
        self.stopping |= asking > 0
        if not math.isfinite(total):
            self._meet("the loss is not finite", terms)
            # The same on all ranks: NaN in every gradient, so that this step cannot be taken.
            loss = loss * float("nan")
        if progress.enter("backward") == "nan":
            loss = loss * float("nan")
        with record_function("backward"):
            engine.backward(loss)
        progress.enter("optimizer")
        with record_function("optimizer"):
            if boundary:
                left_out = self._close(terms)
            else:
                engine.step()  # changes no weight; it is how DeepSpeed counts micro-batches toward its own boundary
                left_out = False
        return terms, left_out

    def _close(self, terms: dict[str, Tensor]) -> bool:
        """The optimizer step; whether it was left out."""
        engine, scaled, zero = self._engine, self._settings.precision == "fp16", self._settings.zero_stage
        if zero == 0 and not scaled and not self._state.gradients_are_finite():
            self._meet("the gradients are not finite", terms)
            engine.zero_grad()  # without gradients the optimizer changes nothing
        scale = self._state.loss_scale() if scaled else 1.0
        engine.step()
        if zero > 0 and not scaled and not engine.was_step_applied():
            self._meet("the gradients are not finite", terms)
        if self._bad is None:
            # An overflow lets the scaler leave out the step and lower its scale.
            if not scaled or (engine.was_step_applied() and self._state.loss_scale() >= scale):
                self._state.update_average()
            self.in_a_row, self._buffers = 0, None
            return False
        self.skipped += 1
        self.in_a_row += 1
        if self._workers.is_main:
            log.warning("%s: optimizer step %d is left out", self._bad, self._module.step + 1)
        if self._buffers is not None:
            self._state.restore_buffers(self._buffers)
        self._bad, self._buffers = None, None
        return True

    def _meet(self, what: str, terms: dict[str, Tensor]) -> None:
        """Remember that the step must be left out, or raise."""
        if self._bad is not None:
            return
        self._bad = what
        limit = self._settings.non_finite_limit
        often = self.in_a_row + 1 > limit
        if self._settings.non_finite != "stop" and not often:
            return
        position = self._workers.progress.position
        raise RunError(
            what + (f" in {limit + 1} steps in a row" if often else ""),
            where=f"stage {position.stage}, step {self._module.step + 1}",
            got=", ".join(f"{name} {float(value):.4g}" for name, value in terms.items()),
            fix="lower the learning rate or the weight of the term that grew; the weights and the last checkpoint are "
            "whole; engine.non_finite=skip or roll_back would go on",
        )
