"""Windows whose frames lie on several ranks. Shape suffixes: W windows, N frames of them on this rank."""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor

from colocam_dist.losses.term import counting

__all__ = ["WindowGroup"]


@dataclass(frozen=True)
class WindowGroup:
    """Ranks that have the same windows, and of each window different frames; all methods are collective among them.

    Attributes:
        processes: their process group.
        size: how many they are, >= 2.
    """

    processes: dist.ProcessGroup
    size: int

    def frames(self, mask_WN: Tensor) -> Tensor:
        """Frames of each whole window that count: int64 ``[W]``, from the rank's own mask (bool or weights)."""
        frames_W = counting(mask_WN).sum(1)
        dist.all_reduce(frames_W, group=self.processes)
        return frames_W

    def largest(self, values_W: Tensor) -> Tensor:
        """Largest of the ranks' values for each window, ``[W]``."""
        values_W = values_W.clone()
        dist.all_reduce(values_W, dist.ReduceOp.MAX, group=self.processes)
        return values_W
