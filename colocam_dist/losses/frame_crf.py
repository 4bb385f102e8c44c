"""CRF term of single frames on color and position, Eq. 2.

Shape suffixes: W windows, N frames per window, C = 3 color channels, H and last W the frame's pixels, B = W * N.
"""

from __future__ import annotations

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
        sigma_xy: width of the spatial kernel in pixels of the unscaled frame.
        scale: both sides of image and map are multiplied by it first; in (0, 1].
        backend: passed to :func:`colocam_dist.kernels.frame_affinity`.
    """

    weight: float = 2.0e-9
    sigma_rgb: float = 15.0
    sigma_xy: float = 100.0
    scale: float = 1.0
    backend: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.sigma_rgb > 0.0 and self.sigma_xy > 0.0 and 0.0 < self.scale <= 1.0):
            raise ValueError(
                f"FrameCrfSettings: wanted sigma_rgb > 0, sigma_xy > 0 and scale in (0, 1], "
                f"got {self.sigma_rgb}, {self.sigma_xy} and {self.scale}"
            )


class FrameCrf(nn.Module):
    """``weight`` times the mean over the valid frames of R(S, X) - 1'W1.

    R is Eq. 2, ``sum_r S_r' W (1 - S_r)``. The public code drops the constant 1'W1, so its value is
    ``-sum_r S_r' W S_r``, negative; this term returns that number. The gradient is the same in both forms.
    """

    def __init__(self, settings: FrameCrfSettings) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, fg_WNHW: Tensor, images_WNCHW: Tensor, mask_WN: Tensor, count: Tensor | None = None) -> Tensor:
        """Weighted value of the term.

        Args:
            fg_WNHW: float ``[W, N, H, W]`` in [0, 1], the foreground map.
            images_WNCHW: uint8 ``[W, N, 3, H, W]``, RGB pixels after crop and flip, never normalized.
            mask_WN: bool ``[W, N]``; frames with False do not count. Or float weights >= 0.
            count: valid frames (or the sum of weights) to divide by, None = those given here.

        Returns:
            float32 scalar <= 0; 0 with a graph when no frame is valid.
        """
        settings = self.settings
        fg_BHW, images_BCHW = fg_WNHW.float().flatten(0, 1), images_WNCHW.flatten(0, 1)
        if settings.scale != 1.0:
            # The public code's choice: pixels stay true colors (nearest), the map stays smooth (bilinear).
            size = [max(1, int(side * settings.scale)) for side in fg_BHW.shape[1:]]
            images_BCHW = F.interpolate(images_BCHW, size=size, mode="nearest")
            fg_BHW = F.interpolate(fg_BHW[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
        mask_B = mask_WN.flatten()
        value_B, total_B = frame_affinity(
            fg_BHW,
            images_BCHW,
            sigma_rgb=settings.sigma_rgb,
            sigma_xy=settings.sigma_xy * settings.scale,
            backend=settings.backend,
            mask=counting(mask_B),
            validate=False,  # the training loop decides what to do with a loss that is not finite
        )
        return settings.weight * mean_where(value_B - total_B, mask_B, count)
