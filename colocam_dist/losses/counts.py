"""How many pixels, frames and windows the means of the loss terms are taken over.

Shape suffixes: W windows (first) or width (last), N frames per window, H height.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from colocam_dist.losses.term import counting
from colocam_dist.losses.window_group import WindowGroup
from colocam_dist.seeds import IGNORE

__all__ = ["MIN_FRAMES", "Counts"]

MIN_FRAMES = 2  # valid frames that a window needs for co-localization


@dataclass(frozen=True)
class Counts:
    """What sums over a batch are divided by: float32 scalars > 0; and how long the batch's windows are.

    Data-parallel training averages gradients over ranks. With each rank's own counts the average would give a pixel,
    frame or window more weight where there are few of them; with the mean count of a rank it is the mean over all.

    Where frames have weights, a frame and its pixels count as much as it weighs.

    Attributes:
        pixels: labeled pixels of valid frames.
        frames: valid frames.
        windows: windows with at least two valid frames, whatever these weigh.
        frames_W: valid frames of each window of this batch, int64 ``[W]``, those on other ranks included.
    """

    pixels: Tensor
    frames: Tensor
    windows: Tensor
    frames_W: Tensor

    @classmethod
    def of(
        cls,
        seeds_WNHW: Tensor,
        mask_WN: Tensor,
        sum_over_ranks: Callable[[Tensor], Tensor] | None = None,
        ranks: int = 1,
        group: WindowGroup | None = None,
    ) -> Counts:
        """Count in a batch, or the mean over the batches of all ranks.

        Args:
            seeds_WNHW: int64 ``[W, N, H, W]`` of 1 foreground, 0 background, -255 ignored.
            mask_WN: bool ``[W, N]``, False for frames that do not count; or float weights >= 0.
            sum_over_ranks: element-wise sum of a tensor over ranks (int64, with weights float64), called once; None =
                this batch is all.
            ranks: how many there are.
            group: of ranks that share the frames of each window, if they do.

        Returns:
            Counts of which none is 0: where there is nothing on any rank, its sum is 0 too.
        """
        frames_W = counting(mask_WN).sum(1) if group is None else group.frames(mask_WN)
        windows = (frames_W >= MIN_FRAMES).sum()
        if mask_WN.dtype == torch.bool:
            pixels = ((seeds_WNHW != IGNORE) & mask_WN[:, :, None, None]).sum()
            frames = mask_WN.sum()
        else:
            weights_WN = mask_WN.double()
            pixels = ((seeds_WNHW != IGNORE).sum((2, 3)) * weights_WN).sum()
            frames = weights_WN.sum()
        counts_3 = torch.stack([pixels, frames, windows.to(frames.dtype)])
        if sum_over_ranks is not None:
            counts_3 = sum_over_ranks(counts_3)
        if group is not None:
            counts_3[2] //= group.size  # each of its ranks has counted the window
        each = (counts_3.masked_fill(counts_3 == 0, 1) / ranks).float()
        return cls(each[0], each[1], each[2], frames_W)
