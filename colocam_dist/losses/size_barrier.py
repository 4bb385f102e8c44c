"""Absolute size constraint (ASC) of Eq. 3 as an extended log barrier on the two areas of a map.

Shape suffixes: W windows, N frames per window, 2 = background and foreground, H and last W the frame's pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from colocam_dist.losses.term import TermSettings, mean_where

__all__ = ["SizeBarrier", "SizeBarrierSettings", "extended_log_barrier"]


@dataclass(frozen=True)
class SizeBarrierSettings(TermSettings):
    """Weight, epochs and the schedule of the barrier's t.

    Attributes:
        weight: as in the public code; the term carries a further factor 1/2.
        t_initial: t of epoch 1, > 0 (the paper's z).
        t_factor: growth per epoch, >= 1.
        t_max: upper end of t.
    """

    weight: float = 0.01
    t_initial: float = 1.0
    t_factor: float = 1.01
    t_max: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.t_initial > 0.0 and self.t_factor >= 1.0 and self.t_max > 0.0):
            raise ValueError(
                f"SizeBarrierSettings: wanted t_initial > 0, t_factor >= 1 and t_max > 0, "
                f"got {self.t_initial}, {self.t_factor} and {self.t_max}"
            )


def extended_log_barrier(f: Tensor, t: float) -> Tensor:
    """Penalty for the constraint f <= 0: a log barrier inside, its tangent from f = -1/t² on.

    ``-log(-f) / t`` where f <= -1/t², else ``t f - log(1/t²) / t + 1/t`` (Kervadec et al. 2019; Eq. 3 of CoLo-CAM is
    the first branch). Finite everywhere, with a gradient of at most t.

    Args:
        f: float tensor of any shape.
        t: strength, > 0.

    Returns:
        Tensor like ``f``.
    """
    edge = -1.0 / t**2
    # Both branches of `where` are differentiated: the clamp keeps the unused log away from 0.
    inside = -torch.log(-f.clamp(max=edge)) / t
    outside = t * f - math.log(1.0 / t**2) / t + 1.0 / t
    return torch.where(f <= edge, inside, outside)


class SizeBarrier(nn.Module):
    """``weight * 1/2 * [ELB(-A_0) + ELB(-A_1)]``, averaged over the valid frames.

    A_0 and A_1 are the areas of background and foreground: sums of the probabilities over all pixels, not divided by
    their number (public code). t grows once per epoch. It is a function of the epoch alone, so a resumed run needs no
    state of this term.
    """

    def __init__(self, settings: SizeBarrierSettings) -> None:
        super().__init__()
        self.settings = settings

    def t(self, epoch: int) -> float:
        """Barrier strength in ``epoch`` (numbered from 1): min(t_initial * t_factor^(epoch - 1), t_max)."""
        return min(self.settings.t_initial * self.settings.t_factor ** (epoch - 1), self.settings.t_max)

    def forward(self, maps_WN2HW: Tensor, mask_WN: Tensor, epoch: int, count: Tensor | None = None) -> Tensor:
        """Weighted value of the term.

        Args:
            maps_WN2HW: float ``[W, N, 2, H, W]`` in [0, 1], softmax over the third axis.
            mask_WN: bool ``[W, N]``; frames with False do not count. Or float weights >= 0.
            epoch: numbered from 1, decides t.
            count: valid frames (or the sum of weights) to divide by, None = those given here.

        Returns:
            float32 scalar; 0 with a graph when no frame is valid.
        """
        areas_WN2 = maps_WN2HW.float().sum((3, 4))
        barrier_WN = 0.5 * extended_log_barrier(-areas_WN2, self.t(epoch)).sum(2)
        return self.settings.weight * mean_where(barrier_WN, mask_WN, count)
