"""How much of a device's arithmetic a stage makes use of."""

from __future__ import annotations

import logging

import torch
from torch import nn

from colocam_dist.config.machine import Engine
from colocam_dist.flops import count_flops, peak_of

__all__ = ["Utilization"]

log = logging.getLogger(__name__)


class Utilization:
    """Rates of a training step's network, forward and backward; see :mod:`colocam_dist.flops` for what is counted.

    Make it before the engine: ZeRO 3 takes the weights out of the model.

    Args:
        stage: name, for the log.
        model: as it is trained.
        size: side of the images in pixels.
        device: what each rank computes on.
        engine: precision.
    """

    def __init__(self, stage: str, model: nn.Module, size: int, device: torch.device, engine: Engine) -> None:
        try:
            self._per_frame = count_flops(model, 1, size, backward=True)
        except NotImplementedError as error:  # an operator of somebody else's encoder that has no meta form
            log.warning("%s: operations of the network cannot be counted: %s", stage, str(error).splitlines()[0])
            self._per_frame = 0
            return
        gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"
        self._peak, why = peak_of(gpu, engine.precision, tf32=engine.tf32)
        log.info(
            "%s: %.2f GFLOP of the network for each frame, forward and backward; %s: %s",
            stage,
            self._per_frame / 1e9,
            "no mfu is reported" if self._peak is None else "mfu is the share of",
            why,
        )

    def rates(self, frames_per_s: float) -> dict[str, float]:
        """``tflops`` of a rank that trains so many frames a second, and ``mfu``, their share of the device's peak."""
        if not self._per_frame:
            return {}
        rate = self._per_frame * frames_per_s
        return {"tflops": rate / 1e12} | ({} if self._peak is None else {"mfu": rate / self._peak})
