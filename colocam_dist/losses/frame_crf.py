"""CRF term of single frames on color and position, Eq. 2.

Shape suffixes: W windows, N frames per window, C = 3 color channels, H and last W the frame's pixels, B = W * N.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from colocam_dist.kernels import frame_affinity
from colocam_dist.losses.term import TermSettings, counting, mean_where

__all__ = ["FrameCrf", "FrameCrfSettings"]


@dataclass(frozen=True)
class FrameCrfSettings(TermSettings):
    """Weight, epochs and the affinity's widths.

    Attributes:
        weight: the paper's lambda. 2e-9 was tuned with a filter that returns 0.55 to 0.63 of the exact affinity used
            here; about 1.2e-9 gives the published push.
        sigma_rgb: width of the color kernel, in steps of 0..255.
        sigma_xy: width of the spatial kernel in pixels of the unscaled map (the frame's, with model.map_stride 1).
        scale: both sides of image and map are multiplied by it first; in (0, 1].
        scale_initial: scale of epoch 1, at most ``scale``, from which it grows linearly; None = ``scale`` from the
            beginning. ``weight`` stays that for ``scale``: at other sizes the term is multiplied by the squared ratio
            of the numbers of pixels, because the affinity is a sum over pairs of pixels.
        scale_epochs: number of epochs until ``scale`` is reached, >= 1 with ``scale_initial``.
        backend: passed to :func:`colocam_dist.kernels.frame_affinity`.
    """

    weight: float = 2.0e-9
    sigma_rgb: float = 15.0
    sigma_xy: float = 100.0
    scale: float = 1.0
    scale_initial: float | None = None
    scale_epochs: int = 0
    backend: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.sigma_rgb > 0.0 and self.sigma_xy > 0.0 and 0.0 < self.scale <= 1.0):
            raise ValueError(
                f"FrameCrfSettings: wanted sigma_rgb > 0, sigma_xy > 0 and scale in (0, 1], "
                f"got {self.sigma_rgb}, {self.sigma_xy} and {self.scale}"
            )
        grows = self.scale_initial is not None
        if self.scale_epochs < 0 or grows != (self.scale_epochs > 0):
            raise ValueError(
                "FrameCrfSettings: wanted scale_epochs >= 1 with scale_initial and 0 without, "
                f"got {self.scale_epochs} and {self.scale_initial}"
            )
        if self.scale_initial is not None and not 0.0 < self.scale_initial <= self.scale:
            raise ValueError(
                f"FrameCrfSettings: wanted scale_initial in (0, scale={self.scale}], got {self.scale_initial}"
            )


class FrameCrf(nn.Module):
    """``weight`` times the mean over the valid frames of R(S, X) - 1'W1.

    R is Eq. 2, ``sum_r S_r' W (1 - S_r)``. The public code drops the constant 1'W1, so its value is
    ``-sum_r S_r' W S_r``, negative; this term returns that number. The gradient is the same in both forms.
    """

    def __init__(self, settings: FrameCrfSettings) -> None:
        super().__init__()
        self.settings = settings

    def scale(self, epoch: int | None) -> float:
        """Scale in ``epoch`` (numbered from 1).

        Raises:
            ValueError: it grows and no epoch is given.
        """
        settings = self.settings
        if settings.scale_initial is None:
            return settings.scale
        if epoch is None:
            raise ValueError(f"FrameCrf: scale_initial={settings.scale_initial} needs the epoch, got None")
        share = min(1.0, (epoch - 1) / settings.scale_epochs)
        return settings.scale if share == 1.0 else (1.0 - share) * settings.scale_initial + share * settings.scale

    def forward(
        self,
        fg_WNHW: Tensor,
        images_WNCHW: Tensor,
        mask_WN: Tensor,
        count: Tensor | None = None,
        epoch: int | None = None,
    ) -> Tensor:
        """Weighted value of the term.

        Args:
            fg_WNHW: float ``[W, N, H, W]`` in [0, 1], the foreground map.
            images_WNCHW: uint8 ``[W, N, 3, H, W]``, RGB pixels after crop and flip, never normalized.
            mask_WN: bool ``[W, N]``; frames with False do not count. Or float weights >= 0.
            count: valid frames (or the sum of weights) to divide by, None = those given here.
            epoch: numbered from 1, needed when ``scale_initial`` is set.

        Returns:
            float32 scalar <= 0; 0 with a graph when no frame is valid.
        """
        settings, scale = self.settings, self.scale(epoch)
        fg_BHW, images_BCHW = fg_WNHW.float().flatten(0, 1), images_WNCHW.flatten(0, 1)
        sides = fg_BHW.shape[1:]
        size = _scaled(sides, scale)
        if scale != 1.0:
            # The public code's choice: pixels stay true colors (nearest), the map stays smooth (bilinear).
            images_BCHW = F.interpolate(images_BCHW, size=size, mode="nearest")
            fg_BHW = F.interpolate(fg_BHW[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
        mask_B = mask_WN.flatten()
        value_B, total_B = frame_affinity(
            fg_BHW,
            images_BCHW,
            sigma_rgb=settings.sigma_rgb,
            sigma_xy=settings.sigma_xy * scale,
            backend=settings.backend,
            mask=counting(mask_B),
            validate=False,  # the training loop decides what to do with a loss that is not finite
        )
        same_magnitude = (math.prod(_scaled(sides, settings.scale)) / math.prod(size)) ** 2
        return settings.weight * same_magnitude * mean_where(value_B - total_B, mask_B, count)


def _scaled(sides: Sequence[int], scale: float) -> list[int]:
    return [max(1, int(side * scale)) for side in sides]
