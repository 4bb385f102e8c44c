"""The training loss of the localizer, Eq. 5: a plain sum of four terms.

Shape suffixes: W windows (first) or width (last), N frames per window, 2 = background and foreground, C = 3 color
channels, H height.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from colocam_dist.losses.colocalization import Colocalization, ColocalizationSettings
from colocam_dist.losses.counts import Counts
from colocam_dist.losses.frame_crf import FrameCrf, FrameCrfSettings
from colocam_dist.losses.partial_cross_entropy import PartialCrossEntropy, PartialCrossEntropySettings
from colocam_dist.losses.size_barrier import SizeBarrier, SizeBarrierSettings
from colocam_dist.losses.term import mean_where
from colocam_dist.losses.window_group import WindowGroup

__all__ = ["LocalizationLoss", "LossSettings"]


@dataclass(frozen=True)
class LossSettings:
    """Settings of the four terms; the defaults are those of the public code's CoLo-CAM command."""

    partial_cross_entropy: PartialCrossEntropySettings = field(default_factory=PartialCrossEntropySettings)
    size_barrier: SizeBarrierSettings = field(default_factory=SizeBarrierSettings)
    frame_crf: FrameCrfSettings = field(default_factory=FrameCrfSettings)
    colocalization: ColocalizationSettings = field(default_factory=ColocalizationSettings)


class LocalizationLoss(nn.Module):
    """Sum of the terms that are active in the epoch.

    Holds neither parameters nor state: schedules are functions of epoch and step.

    Args:
        settings: of the four terms.
        group: of ranks that share the frames of each window; this rank's part of them is what it is then given.
    """

    def __init__(self, settings: LossSettings, group: WindowGroup | None = None) -> None:
        super().__init__()
        self.group = group
        self.partial_cross_entropy = PartialCrossEntropy(settings.partial_cross_entropy)
        self.size_barrier = SizeBarrier(settings.size_barrier)
        self.frame_crf = FrameCrf(settings.frame_crf)
        self.colocalization = Colocalization(settings.colocalization, group)

    def forward(
        self,
        map_logits_WN2HW: Tensor,
        images_WNCHW: Tensor,
        seeds_WNHW: Tensor,
        mask_WN: Tensor,
        epoch: int,
        step: int | None = None,
        counts: Counts | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss and its parts, computed in float32 also under autocast.

        With ``counts`` over all ranks, the mean over ranks of the total, of its gradients and of everything reported is
        the value for all ranks' windows in one batch.

        Args:
            map_logits_WN2HW: float ``[W, N, 2, H, W]`` from the decoder, channel 0 background, 1 foreground.
            images_WNCHW: uint8 ``[W, N, 3, H, W]``, RGB pixels of the same frames.
            seeds_WNHW: int64 ``[W, N, H, W]`` from :func:`colocam_dist.seeds.sample_seeds`.
            mask_WN: bool ``[W, N]``; a frame with False (a repeat that fills a short shot) changes nothing. Or float32
                weights >= 0 of the frames (:func:`colocam_dist.losses.presence.frame_weights`): means over frames and
                their pixels are then weighted, and frames with 0 change nothing.
            epoch: numbered from 1.
            step: optimizer steps made so far in this stage, needed only for ``colocalization.ramp_steps``.
            counts: what the means divide by, None = what is in this batch (not with a group).

        Returns:
            The scalar total (possibly not finite: the caller decides) and detached scalars: each active term by its
            name, weighted as it enters the total; ``color_disagreement`` in [0, 1/2] with the co-localization term;
            ``fg_mean``, the mean foreground over the pixels of the valid frames. Terms that are off are absent.

        Raises:
            ValueError: shapes or dtypes that do not fit each other, an epoch below 1, or no counts with a group.
        """
        if epoch < 1:
            raise ValueError(f"LocalizationLoss: epochs are numbered from 1, got {epoch}")
        _check(map_logits_WN2HW, images_WNCHW, seeds_WNHW, mask_WN)
        logits_WN2HW = map_logits_WN2HW.float()
        maps_WN2HW = logits_WN2HW.softmax(2)
        fg_WNHW = maps_WN2HW[:, :, 1]
        if counts is None:
            if self.group is not None:
                raise ValueError("LocalizationLoss: with a group wanted counts over all ranks, got None")
            counts = Counts.of(seeds_WNHW, mask_WN)
        terms: dict[str, Tensor] = {}
        if self.partial_cross_entropy.settings.active(epoch):
            terms["partial_cross_entropy"] = self.partial_cross_entropy(
                logits_WN2HW, seeds_WNHW, mask_WN, counts.pixels
            )
        if self.size_barrier.settings.active(epoch):
            terms["size_barrier"] = self.size_barrier(maps_WN2HW, mask_WN, epoch, counts.frames)
        if self.frame_crf.settings.active(epoch):
            terms["frame_crf"] = self.frame_crf(fg_WNHW, images_WNCHW, mask_WN, counts.frames, epoch)
        report: dict[str, Tensor] = {"fg_mean": mean_where(fg_WNHW.detach().mean((2, 3)), mask_WN, counts.frames)}
        if self.colocalization.settings.active(epoch):
            terms["colocalization"], report["color_disagreement"] = self.colocalization(
                fg_WNHW, images_WNCHW, mask_WN, step, counts.windows, counts.frames_W
            )
        # Starts from a zero with a graph, so that backward works also when no term is active.
        total = sum(terms.values(), start=logits_WN2HW.flatten()[:0].sum())
        return total, {name: value.detach() for name, value in terms.items()} | report


def _check(map_logits_WN2HW: Tensor, images_WNCHW: Tensor, seeds_WNHW: Tensor, mask_WN: Tensor) -> None:
    if map_logits_WN2HW.dim() != 5 or map_logits_WN2HW.shape[2] != 2:
        raise ValueError(f"LocalizationLoss: wanted logits [W, N, 2, H, W], got {tuple(map_logits_WN2HW.shape)}")
    windows, frames, _, height, width = map_logits_WN2HW.shape
    wanted = {
        "images": (images_WNCHW, (windows, frames, 3, height, width), torch.uint8),
        "seeds": (seeds_WNHW, (windows, frames, height, width), torch.int64),
        "mask": (mask_WN, (windows, frames), torch.float32 if mask_WN.is_floating_point() else torch.bool),
    }
    for name, (tensor, shape, dtype) in wanted.items():
        if tensor.shape != shape or tensor.dtype != dtype:
            raise ValueError(
                f"LocalizationLoss: wanted {name} {dtype} {shape}, got {tensor.dtype} {tuple(tensor.shape)}"
            )
