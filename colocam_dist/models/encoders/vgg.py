"""VGG-16 as the WSOL literature cuts it, under torchvision's parameter names.

Shape suffixes: B frames, C channels, H and W the image size, h and w the size of a feature map.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional

from colocam_dist.models.encoders.base import Encoder, init_convolutions

__all__ = ["VGG16"]

# Widths of torchvision's configuration "D"; "pool" halves the size, "keep" is a pool that the WSOL variant removes.
# The removed pools still count, so that a convolution has the same number as in torchvision.
PLAN: tuple[int | str, ...] = (
    *(64, 64, "pool"),
    *(128, 128, "pool"),
    *(256, 256, 256, "pool"),
    *(512, 512, 512, "keep"),
    *(512, 512, 512, "keep"),
)
CONV6 = 1024
KINDS = ("weight", "bias")


class VGG16(Encoder):
    """VGG-16 without its 4th and 5th max-pool and without BatchNorm, plus ``conv6`` (512 -> 1024, 3x3) and a ReLU.

    Three maps, cut at the remaining pools (at 224 pixels: 128 x 112², 256 x 56², 1024 x 28²; the 64 channels at full
    size are not used). The CAM layer is the ReLU after ``conv6``, which public weight files do not have. The decoder
    starts with a center block.

    Args:
        output_stride: 8, or None for 8.

    Raises:
        ConfigError: another output stride.
    """

    name = "vgg16"
    strides = (8,)
    feature_channels = (128, 256, CONV6)
    decoder_channels = (256, 128, 64)
    center_block = True
    public_ignored = ("classifier.",)
    public_missing = ("conv6.",)

    def __init__(self, output_stride: int | None = None) -> None:
        super().__init__(output_stride)
        self.features = nn.ModuleDict()
        self._steps: list[str] = []  # module names and "pool", in order
        channels, number = 3, 0
        for item in PLAN:
            if isinstance(item, int):
                self.features[str(number)] = nn.Conv2d(channels, item, 3, padding=1)
                self._steps.append(str(number))
                channels, number = item, number + 2  # a ReLU takes a number too
            else:
                number += 1
                if item == "pool":
                    self._steps.append(item)
        self.conv6 = nn.Conv2d(channels, CONV6, 3, padding=1)
        init_convolutions(self)

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        """Three maps, see the class."""
        x_BChw, maps = images_BCHW, []
        for step in self._steps:
            if step == "pool":
                maps.append(x_BChw)
                x_BChw = functional.max_pool2d(x_BChw, 2)
            else:
                x_BChw = functional.relu(self.features[step](x_BChw), inplace=True)
        return [*maps[1:], functional.relu(self.conv6(x_BChw), inplace=True)]

    def fast_parameters(self) -> list[nn.Parameter]:
        """Everything outside ``features``: conv6, as in the public code."""
        return list(self.conv6.parameters())

    def select_public(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Match the convolutions of ``features`` from the last backwards, whatever their numbers are.

        Other WSOL files number the layers without the removed pools; the order of the 13 convolutions is the same.
        """
        kept = super().select_public(state)
        numbers = [int(found[1]) for name in kept if (found := re.fullmatch(r"features\.(\d+)\.weight", name))]
        if len(numbers) != len(self.features):
            return kept  # another network: the caller reports the names that do not fit
        pairs = zip(sorted(numbers, reverse=True), sorted(self.features, key=int, reverse=True), strict=True)
        new = {f"features.{number}.{kind}": f"features.{our}.{kind}" for number, our in pairs for kind in KINDS}
        return {new.get(name, name): value for name, value in kept.items()}
