"""The localization head of encoders whose maps all have one size: tokens of several depths to two full-size maps.

Shape suffixes: B frames, C channels, H and W the image size, h and w the size of a feature map.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from colocam_dist.errors import ConfigError
from colocam_dist.models.decoder import UpBlock, two_map_head

__all__ = ["TokenHead"]


class TokenHead(nn.Module):
    """Fuse the maps, then double their size until it is that of the wanted map.

    Every map goes through a 1x1 convolution and a BatchNorm of its own, which bring depths of different scale to one;
    the sum is rectified. Then come the U-Net decoder's blocks without skips, and its two-channel head. The public code
    of DiPS (Murtaza et al. 2023), to which the paper points for a transformer, has four such blocks (192, 96, 48 and 2
    channels) over the patch tokens of the last block alone; taking several depths follows DPT (Ranftl et al. 2021).

    Args:
        feature_channels: channels of the encoder's maps, at least one.
        widths: channels of the fused map, then of each block.
        stride: pixels of the map that is made per pixel of the encoder's maps, along a side; a power of two.

    Raises:
        ConfigError: not one width for the fused map and one for each doubling.
    """

    def __init__(self, feature_channels: Sequence[int], widths: Sequence[int], stride: int) -> None:
        super().__init__()
        doublings = stride.bit_length() - 1
        if len(widths) != 1 + doublings:
            raise ConfigError(
                "the localization head needs one width for the fused map and one for each doubling of its size",
                where="model.decoder_channels",
                got=tuple(widths),
                wanted=f"{1 + doublings} widths, to make maps {stride} times as large",
            )
        self.fuse = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, widths[0], 1, bias=False), nn.BatchNorm2d(widths[0]))
            for channels in feature_channels
        )
        self.blocks = nn.ModuleList(UpBlock(before, 0, after) for before, after in itertools.pairwise(widths))
        self.head = two_map_head(widths[-1])

    def forward(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Map logits.

        Args:
            features: float maps ``[B, C, h, w]`` of one size, of the channels given at construction.
            size: height and width of the wanted map: those of the images, divided by its stride.

        Returns:
            Logits ``[B, 2, h, w]`` of that size; channel 0 is background, 1 foreground. S = softmax over the channels.
        """
        fused = [layer(map_BChw) for layer, map_BChw in zip(self.fuse, features, strict=True)]
        x_BChw = functional.relu(torch.stack(fused).sum(0))
        for block in self.blocks:
            x_BChw = block(x_BChw, None)
        logits_B2hw = self.head(x_BChw)
        if logits_B2hw.shape[2:] == size:
            return logits_B2hw
        return functional.interpolate(logits_B2hw, size, mode="bilinear", align_corners=False)
