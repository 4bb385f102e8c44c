"""Partial cross-entropy on the seeds, the pseudo-label term of Eq. 1.

Shape suffixes: W windows, N frames per window, 2 = background and foreground, H and last W the frame's pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from colocam_dist.losses.term import TermSettings, counting
from colocam_dist.seeds import IGNORE

__all__ = ["PartialCrossEntropy", "PartialCrossEntropySettings"]


@dataclass(frozen=True)
class PartialCrossEntropySettings(TermSettings):
    """Weight and epochs of the term; see :class:`~colocam_dist.losses.term.TermSettings`."""

    weight: float = 1.0


class PartialCrossEntropy(nn.Module):
    """``weight`` times the mean over all labeled pixels of the batch of -log S_label.

    Eq. 1 writes a sum over one foreground and one background pixel per frame; the public code takes the mean over
    every labeled pixel of the minibatch, and so does this.
    """

    def __init__(self, settings: PartialCrossEntropySettings) -> None:
        super().__init__()
        self.settings = settings

    def forward(
        self, map_logits_WN2HW: Tensor, seeds_WNHW: Tensor, mask_WN: Tensor, count: Tensor | None = None
    ) -> Tensor:
        """Weighted value of the term.

        Args:
            map_logits_WN2HW: float ``[W, N, 2, H, W]``, channel 0 background, 1 foreground.
            seeds_WNHW: int64 ``[W, N, H, W]`` of 1 foreground, 0 background, -255 ignored.
            mask_WN: bool ``[W, N]``; seeds of frames with False do not count. Or float weights >= 0 of the frames.
            count: labeled pixels (times the weights of their frames) to divide by, None = those given here.

        Returns:
            float32 scalar >= 0; exactly 0, with a graph and a zero gradient, when no pixel is labeled.
        """
        labels_BHW = seeds_WNHW.masked_fill(~counting(mask_WN)[:, :, None, None], IGNORE).flatten(0, 1)
        logits_B2HW = map_logits_WN2HW.float().flatten(0, 1)
        if mask_WN.dtype != torch.bool:
            return self._weighted(logits_B2HW, labels_BHW, mask_WN.flatten(), count)
        total = F.cross_entropy(logits_B2HW, labels_BHW, ignore_index=IGNORE, reduction="sum")
        # The mean of no pixels would be NaN.
        return self.settings.weight * total / ((labels_BHW != IGNORE).sum().clamp(min=1) if count is None else count)

    def _weighted(self, logits_B2HW: Tensor, labels_BHW: Tensor, weights_B: Tensor, count: Tensor | None) -> Tensor:
        each_BHW = F.cross_entropy(logits_B2HW, labels_BHW, ignore_index=IGNORE, reduction="none")
        total = (each_BHW.sum((1, 2)) * weights_B).sum()
        own = ((labels_BHW != IGNORE).sum((1, 2)) * weights_B).sum()
        return self.settings.weight * total / (own.masked_fill(own == 0.0, 1.0) if count is None else count)
