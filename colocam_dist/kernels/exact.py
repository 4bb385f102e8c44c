"""The affinity by its definition, in tiles: O(P²) time, O(P) memory. The oracle for everything faster.

N frames that are coupled, C = 3 color channels, H and W the frame's pixels, P = N * H * W, T pixels of a tile,
D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ExactAffinity"]

TILE_ENTRIES = 1 << 16  # of the affinity matrix held at once: 512 KiB of float64, which stay in the cache


@dataclass(frozen=True)
class ExactAffinity:
    """W_pq = exp(-|c_p - c_q|² / (2 sigma_rgb²) - |x_p - x_q|² / (2 sigma_xy²)); without `sigma_xy` color alone.

    Computed in float64; distances are sums of squared differences, so nothing cancels.
    """

    sigma_rgb: float
    sigma_xy: float | None = None

    def forms(
        self, frames_NCHW: Tensor, t_NHW: Tensor, ones_NHW: Tensor, need: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """t'Wt, 1'W1 and W t, which t'Wt needs whether it is asked for or not."""
        features_DP = self._features(frames_NCHW)
        pair_P2 = torch.stack([t_NHW.flatten(), ones_NHW.flatten()], 1).double()
        filtered_P2 = torch.empty_like(pair_P2)
        rows = max(1, TILE_ENTRIES // max(1, len(pair_P2)))
        for start in range(0, len(pair_P2), rows):
            tile = slice(start, start + rows)
            distance_TP = torch.zeros((), dtype=torch.float64, device=t_NHW.device)
            for feature_P in features_DP:
                distance_TP = distance_TP + (feature_P[tile, None] - feature_P).square_()
            filtered_P2[tile] = distance_TP.mul_(-0.5).exp_() @ pair_P2
        form, total = (filtered_P2 * pair_P2).sum(0)
        return form, total, filtered_P2[:, 0].view(t_NHW.shape).to(t_NHW.dtype)

    def _features(self, frames_NCHW: Tensor) -> list[Tensor]:
        features = [channel_NHW.flatten().double() / self.sigma_rgb for channel_NHW in frames_NCHW.unbind(1)]
        if self.sigma_xy is not None:
            sides = frames_NCHW.shape[-2:]
            axes = [torch.arange(side, device=frames_NCHW.device).double() / self.sigma_xy for side in sides]
            places_HW = torch.meshgrid(*axes, indexing="ij")
            features += [place_HW.flatten().repeat(len(frames_NCHW)) for place_HW in places_HW]
        return features
