"""The U-Net decoder: encoder features to two full-size maps.

Shape suffixes: B frames, C channels, H and W the image size, h and w the size of a feature map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from colocam_dist.errors import ConfigError

__all__ = ["UNetDecoder", "UpBlock", "two_map_head"]

N_MAPS = 2  # 0 = background, 1 = foreground


class ConvNormRelu(nn.Sequential):
    """3x3 convolution without bias, BatchNorm, ReLU; Kaiming-uniform weights (fan in)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        nn.init.kaiming_uniform_(convolution.weight, mode="fan_in", nonlinearity="relu")
        super().__init__(convolution, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True))


class UpBlock(nn.Module):
    """Twice the size, beside the skip's channels, two convolutions.

    Where strides were taken out of the encoder the skip is *not* twice as large: the doubled map is resized back to the
    skip's size, as in the public code.
    """

    def __init__(self, channels_in: int, skip_channels: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = ConvNormRelu(channels_in + skip_channels, channels_out)
        self.conv2 = ConvNormRelu(channels_out, channels_out)

    def forward(self, x_BChw: Tensor, skip_BChw: Tensor | None) -> Tensor:
        """``[B, C_in, h, w]`` to ``[B, C_out, h', w']``: the skip's size, or twice the input's without a skip."""
        x_BChw = functional.interpolate(x_BChw, scale_factor=2, mode="nearest")
        if skip_BChw is not None:
            size = (skip_BChw.shape[2], skip_BChw.shape[3])
            x_BChw = torch.cat([_resize(x_BChw, size), skip_BChw], 1)
        return self.conv2(self.conv1(x_BChw))


def two_map_head(channels: int) -> nn.Conv2d:
    """3x3 convolution to the logits of background and foreground; Xavier-uniform weights, zero bias."""
    head = nn.Conv2d(channels, N_MAPS, 3, padding=1)
    nn.init.xavier_uniform_(head.weight)
    nn.init.zeros_(head.bias)  # type: ignore[arg-type]  # a Conv2d has a bias unless told otherwise
    return head


class UNetDecoder(nn.Module):
    """U-Net decoder with a two-channel head (paper 3: the decoder f; layout of the public code).

    One block per feature map: each but the last takes the next shallower feature map as skip. BatchNorm uses the
    statistics of the process's own batch, unless it is told otherwise (:mod:`colocam_dist.models.batch_norm`).

    Args:
        feature_channels: channels of the encoder's maps, shallow to deep, at least one.
        decoder_channels: widths of the blocks, deep to shallow.
        center_block: two convolutions on the deepest map first (VGG-16).
        saved_blocks: blocks that are left out at the end: the map stays that much smaller than the image.

    Raises:
        ConfigError: not one width per feature map, those of the saved blocks aside.
    """

    def __init__(
        self,
        feature_channels: Sequence[int],
        decoder_channels: Sequence[int],
        center_block: bool = False,
        saved_blocks: int = 0,
    ) -> None:
        super().__init__()
        blocks = len(feature_channels) - saved_blocks
        if len(decoder_channels) != blocks or blocks < 1:
            saved = f" and model.map_stride {2**saved_blocks}" if saved_blocks else ""
            raise ConfigError(
                "the decoder needs one width per feature map of the encoder"
                + (", less the blocks saved" if saved else ""),
                where="model.decoder_channels",
                got=tuple(decoder_channels),
                wanted=f"{max(blocks, 1)} widths, for maps of {tuple(feature_channels)} channels{saved}",
            )
        deepest = feature_channels[-1]
        self.center = (
            nn.Sequential(ConvNormRelu(deepest, deepest), ConvNormRelu(deepest, deepest)) if center_block else None
        )
        skips = [*reversed(feature_channels[:-1]), 0][:blocks]
        inputs = [deepest, *decoder_channels[:-1]]
        self.blocks = nn.ModuleList(map(UpBlock, inputs, skips, decoder_channels))
        self.head = two_map_head(decoder_channels[-1])

    def forward(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Map logits.

        Args:
            features: float maps ``[B, C, h, w]``, shallow to deep, of the channels given at construction.
            size: height and width of the map: those of the images, divided by its stride.

        Returns:
            Logits ``[B, 2, h, w]`` of that size; channel 0 is background, 1 foreground. S = softmax over the channels.
        """
        x_BChw = features[-1] if self.center is None else self.center(features[-1])
        skips: list[Tensor | None] = [*reversed(features[:-1]), None]
        for block, skip_BChw in zip(self.blocks, skips, strict=False):  # saved blocks leave skips over
            x_BChw = block(x_BChw, skip_BChw)
        return _resize(self.head(x_BChw), size)


def _resize(x_BChw: Tensor, size: tuple[int, int]) -> Tensor:
    if x_BChw.shape[2:] == size:
        return x_BChw
    return functional.interpolate(x_BChw, size, mode="bilinear", align_corners=True)
