"""Inception-v3 up to Mixed_6e with the two SPG convolutions of the WSOL literature, torchvision's parameter names.

Shape suffixes: B frames, C channels, H and W the image size, h and w the size of a feature map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from colocam_dist.models.encoders.base import Encoder

__all__ = ["InceptionV3"]

SPG = 1024

# A branch is a chain of convolutions: (name, output channels, (kernel height, kernel width)).
Branch = tuple[tuple[str, int, tuple[int, int]], ...]


class ConvNorm(nn.Module):
    """Convolution without bias, BatchNorm (eps 1e-3), ReLU; padded so that stride 1 keeps the size."""

    def __init__(self, channels_in: int, channels_out: int, kernel: tuple[int, int], stride: int = 1) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(channels_out, eps=1e-3)

    def forward(self, x_BChw: Tensor) -> Tensor:
        """``[B, C_in, h, w]`` to ``[B, C_out, ceil(h / stride), ceil(w / stride)]``, never negative."""
        return functional.relu(self.bn(self.conv(x_BChw)), inplace=True)


class Mixed(nn.Module):
    """Parallel chains and a 3x3 pool, side by side in the channels."""

    def __init__(self, channels_in: int, branches: tuple[Branch, ...], pool_channels: int | None) -> None:
        super().__init__()
        self._chains: list[list[str]] = []
        for branch in branches:
            channels = channels_in
            for name, width, kernel in branch:
                self.add_module(name, ConvNorm(channels, width, kernel))
                channels = width
            self._chains.append([name for name, _, _ in branch])
        self.branch_pool = None if pool_channels is None else ConvNorm(channels_in, pool_channels, (1, 1))

    def forward(self, x_BChw: Tensor) -> Tensor:
        """``[B, C_in, h, w]`` to ``[B, sum of the branches' channels, h, w]``, never negative."""
        outputs = []
        for chain in self._chains:
            y_BChw = x_BChw
            for name in chain:
                y_BChw = self.get_submodule(name)(y_BChw)
            outputs.append(y_BChw)
        if self.branch_pool is None:
            # The WSOL variant of the reduction block: stride 1, so nothing is reduced.
            outputs.append(functional.max_pool2d(x_BChw, 3, stride=1, padding=1))
        else:
            outputs.append(self.branch_pool(functional.avg_pool2d(x_BChw, 3, stride=1, padding=1)))
        return torch.cat(outputs, 1)


def _mixed_5(channels_in: int, pool_channels: int) -> Mixed:
    return Mixed(
        channels_in,
        (
            (("branch1x1", 64, (1, 1)),),
            (("branch5x5_1", 48, (1, 1)), ("branch5x5_2", 64, (5, 5))),
            (("branch3x3dbl_1", 64, (1, 1)), ("branch3x3dbl_2", 96, (3, 3)), ("branch3x3dbl_3", 96, (3, 3))),
        ),
        pool_channels,
    )


def _mixed_6a() -> Mixed:
    return Mixed(
        288,
        (
            (("branch3x3", 384, (3, 3)),),
            (("branch3x3dbl_1", 64, (1, 1)), ("branch3x3dbl_2", 96, (3, 3)), ("branch3x3dbl_3", 96, (3, 3))),
        ),
        None,
    )


def _mixed_6(width: int) -> Mixed:
    row, column = (1, 7), (7, 1)
    return Mixed(
        768,
        (
            (("branch1x1", 192, (1, 1)),),
            (("branch7x7_1", width, (1, 1)), ("branch7x7_2", width, row), ("branch7x7_3", 192, column)),
            (
                ("branch7x7dbl_1", width, (1, 1)),
                ("branch7x7dbl_2", width, column),
                ("branch7x7dbl_3", width, row),
                ("branch7x7dbl_4", width, column),
                ("branch7x7dbl_5", 192, row),
            ),
        ),
        192,
    )


class InceptionV3(Encoder):
    """Inception-v3 of the WSOL literature with SPG-A3 convolutions.

    Against torchvision: all 3x3 convolutions and pools are padded by 1, pools round up, Mixed_6a has stride 1, and
    Mixed_7 gives way to two (dropout 0.5, 3x3 convolution to 1024, ReLU), which public weight files do not have.

    Five maps (at 224 pixels: 64 x 112², 80 x 57², 288 x 29², 768 x 29², 1024 x 29²). The CAM layer is the ReLU of the
    second SPG convolution. Input is normalized by ImageNet mean and deviation as in the public code, although the
    public weights were trained with 0.5 and 0.5.

    Args:
        output_stride: 8, or None for 8.

    Raises:
        ConfigError: another output stride.
    """

    name = "inceptionv3"
    strides = (8,)
    feature_channels = (64, 80, 288, 768, SPG)
    decoder_channels = (256, 128, 64, 32, 16)
    public_ignored = ("Mixed_7", "AuxLogits.", "fc.")
    public_missing = ("SPG_A3_1b.", "SPG_A3_2b.")

    def __init__(self, output_stride: int | None = None) -> None:
        super().__init__(output_stride)
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, (3, 3), stride=2)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, (3, 3))
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, (3, 3))
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, (1, 1))
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, (3, 3))
        self.Mixed_5b = _mixed_5(192, 32)
        self.Mixed_5c = _mixed_5(256, 64)
        self.Mixed_5d = _mixed_5(288, 64)
        self.Mixed_6a = _mixed_6a()
        self.Mixed_6b = _mixed_6(128)
        self.Mixed_6c = _mixed_6(160)
        self.Mixed_6d = _mixed_6(160)
        self.Mixed_6e = _mixed_6(192)
        self.dropout = nn.Dropout(0.5)
        self.SPG_A3_1b = nn.Conv2d(768, SPG, 3, padding=1)
        self.SPG_A3_2b = nn.Conv2d(SPG, SPG, 3, padding=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)  # public code
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        """Five maps, see the class."""
        maps = [self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(images_BCHW)))]
        maps.append(self.Conv2d_3b_1x1(_halve(maps[-1])))
        maps.append(self.Mixed_5c(self.Mixed_5b(_halve(self.Conv2d_4a_3x3(maps[-1])))))
        x_BChw = self.Mixed_6a(self.Mixed_5d(maps[-1]))
        maps.append(self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x_BChw)))))
        x_BChw = maps[-1]
        for convolution in (self.SPG_A3_1b, self.SPG_A3_2b):
            x_BChw = functional.relu(convolution(self.dropout(x_BChw)), inplace=True)
        return [*maps, x_BChw]

    def fast_parameters(self) -> list[nn.Parameter]:
        """The SPG convolutions, as in the public code."""
        return [*self.SPG_A3_1b.parameters(), *self.SPG_A3_2b.parameters()]


def _halve(x_BChw: Tensor) -> Tensor:
    return functional.max_pool2d(x_BChw, 3, stride=2, padding=1, ceil_mode=True)
