"""ResNet-18 and ResNet-50 with the strides of the WSOL literature, under torchvision's parameter names.

Shape suffixes: B frames, C channels, H and W the image size, h and w the size of a feature map.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from colocam_dist.models.encoders.base import Encoder, init_convolutions

__all__ = ["ResNet"]


class ResidualBlock(nn.Module):
    """``relu(x + f(x))``; the shortcut is a 1x1 convolution where the stride or the width changes."""

    expansion: ClassVar[int]
    downsample: nn.Sequential | None

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.downsample = None
        if stride != 1 or channels_in != channels_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def residual(self, x_BChw: Tensor) -> Tensor:
        """The branch f, without its last ReLU."""
        raise NotImplementedError

    def forward(self, x_BChw: Tensor) -> Tensor:
        """``[B, C_in, h, w]`` to ``[B, C_out, h / stride, w / stride]``, never negative."""
        shortcut_BChw = x_BChw if self.downsample is None else self.downsample(x_BChw)
        return functional.relu(self.residual(x_BChw) + shortcut_BChw)


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions (ResNet-18)."""

    expansion = 1

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__(channels_in, width, stride)
        self.conv1 = nn.Conv2d(channels_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def residual(self, x_BChw: Tensor) -> Tensor:
        """The branch f, without its last ReLU."""
        x_BChw = functional.relu(self.bn1(self.conv1(x_BChw)), inplace=True)
        return self.bn2(self.conv2(x_BChw))


class Bottleneck(ResidualBlock):
    """1x1, 3x3, 1x1 (ResNet-50), with the stride at the 3x3 as in torchvision and the public CoLo-CAM code."""

    expansion = 4

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__(channels_in, width * self.expansion, stride)
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)

    def residual(self, x_BChw: Tensor) -> Tensor:
        """The branch f, without its last ReLU."""
        x_BChw = functional.relu(self.bn1(self.conv1(x_BChw)), inplace=True)
        x_BChw = functional.relu(self.bn2(self.conv2(x_BChw)), inplace=True)
        return self.bn3(self.conv3(x_BChw))


class ResNet(Encoder):
    """ResNet-18 or ResNet-50.

    ``output_stride`` 8 (default) takes the stride out of layer3 and layer4 *without* dilating their convolutions, the
    "large feature map" variant of the public CoLo-CAM code: 28 x 28 CAMs at 224 pixels. 16 does so for layer4 only, 32
    is torchvision's network. The weights are the same in all three.

    Five maps: stem, layer1 to layer4 (ResNet-50 at 224 pixels: 64 x 112², 256 x 56², 512 x 28², 1024 x 28²,
    2048 x 28²). The CAM layer is the output ReLU of the last block.

    Args:
        name: ``resnet18`` or ``resnet50``.
        output_stride: 8, 16, 32, or None for 8.

    Raises:
        ConfigError: another output stride.
    """

    strides = (8, 16, 32)
    decoder_channels = (256, 128, 64, 32, 16)
    public_ignored = ("fc.",)

    layouts: ClassVar[dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]]] = {
        "resnet18": (BasicBlock, (2, 2, 2, 2)),
        "resnet50": (Bottleneck, (3, 4, 6, 3)),
    }

    def __init__(self, name: str, output_stride: int | None = None) -> None:
        self.name = name
        super().__init__(output_stride)
        block, depths = self.layouts[name]
        self.feature_channels = (64, *(width * block.expansion for width in (64, 128, 256, 512)))
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        stride3, stride4 = (2 if self.output_stride >= total else 1 for total in (16, 32))
        self.layer1 = self._stage(block, 64, 64, depths[0], 1)
        self.layer2 = self._stage(block, self.feature_channels[1], 128, depths[1], 2)
        self.layer3 = self._stage(block, self.feature_channels[2], 256, depths[2], stride3)
        self.layer4 = self._stage(block, self.feature_channels[3], 512, depths[3], stride4)
        init_convolutions(self)

    @staticmethod
    def _stage(
        block: type[BasicBlock] | type[Bottleneck], channels_in: int, width: int, depth: int, stride: int
    ) -> nn.Sequential:
        first = block(channels_in, width, stride)
        return nn.Sequential(first, *(block(width * block.expansion, width, 1) for _ in range(depth - 1)))

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        """Five maps, see the class."""
        stem_BChw = functional.relu(self.bn1(self.conv1(images_BCHW)), inplace=True)
        maps = [stem_BChw, self.layer1(self.maxpool(stem_BChw))]
        for layer in (self.layer2, self.layer3, self.layer4):
            maps.append(layer(maps[-1]))
        return maps

    def fast_parameters(self) -> list[nn.Parameter]:
        """layer4, as in the public code."""
        return list(self.layer4.parameters())
