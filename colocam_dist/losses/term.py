"""What all loss terms share: a weight, the epochs in which they act, and the mean over valid frames.

The mask of frames is bool, or holds weights >= 0 (float), with 0 for frames that do not count; means are then weighted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["TermSettings", "counting", "mean_where"]


@dataclass(frozen=True)
class TermSettings:
    """A term's weight and its epochs.

    Attributes:
        weight: factor of the term in the total, >= 0; a term of weight 0 is not computed.
        start_epoch: first epoch in which the term acts; epochs are numbered from 1, 0 = from the beginning.
        end_epoch: last epoch in which the term acts, -1 = to the end.

    Raises:
        ValueError: a value outside its range.
    """

    weight: float
    start_epoch: int = 0
    end_epoch: int = -1

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not 0.0 <= self.weight < float("inf"):
            raise ValueError(f"{name}.weight: wanted a finite value >= 0, got {self.weight}")
        if self.start_epoch < 0 or self.end_epoch < -1:
            raise ValueError(
                f"{name}: wanted start_epoch >= 0 and end_epoch >= -1, got {self.start_epoch} and {self.end_epoch}"
            )

    def active(self, epoch: int) -> bool:
        """Whether the term is computed in ``epoch`` (numbered from 1)."""
        return self.weight > 0.0 and self.start_epoch <= epoch and (self.end_epoch == -1 or epoch <= self.end_epoch)


def counting(mask: Tensor) -> Tensor:
    """Which frames of a mask, bool or of weights, count: bool of the same shape."""
    return mask if mask.dtype == torch.bool else mask > 0.0


def mean_where(values: Tensor, valid: Tensor, count: Tensor | None = None) -> Tensor:
    """Mean of ``values`` (any shape) where ``valid`` (bool, same shape); 0 with a graph when nothing is valid.

    With weights in place of ``valid`` it is the weighted mean. ``count`` (> 0) is divided by instead of the number of
    valid ones or the sum of weights, see :class:`~colocam_dist.losses.counts.Counts`.
    """
    if valid.dtype != torch.bool:
        total = valid.sum()
        weighted = values.masked_fill(~counting(valid), 0.0) * valid
        return weighted.sum() / (total.masked_fill(total == 0.0, 1.0) if count is None else count)
    return values.masked_fill(~valid, 0.0).sum() / (valid.sum().clamp(min=1) if count is None else count)
