"""What every encoder is to the rest of the project: a pyramid of feature maps whose deepest one carries the CAMs.

Shape suffixes: B frames, C channels, H and W the image size, h and w the size of a feature map.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from colocam_dist.errors import ConfigError
from colocam_dist.models.decoder import UNetDecoder

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Encoder", "init_convolutions"]

IMAGENET_MEAN = (0.485 * 255.0, 0.456 * 255.0, 0.406 * 255.0)
IMAGENET_STD = (0.229 * 255.0, 0.224 * 255.0, 0.225 * 255.0)


class Encoder(nn.Module, ABC):
    """Base of all encoders.

    Attributes:
        name: name that :func:`~colocam_dist.models.encoders.build_encoder` knows it by.
        output_stride: image pixels per pixel of the deepest map.
        strides: output strides this family offers; the first is the default.
        feature_channels: channels of the maps handed to the decoder, shallow to deep. The deepest map is the CAM layer:
            the output of a ReLU, never negative, and what the classification head pools.
        decoder_channels: default widths of the decoder's blocks, in their order.
        center_block: whether the U-Net decoder starts with two convolutions on the deepest map.
        pixel_mean, pixel_std: input normalization in pixel units (0 to 255), RGB.
        public_names: whose parameter names public weight files have.
        public_ignored: prefixes of parameter names in public weight files that this encoder has no use for.
        public_missing: prefixes of our parameter names that public weight files do not have; they stay random.
    """

    name: str
    output_stride: int
    strides: tuple[int, ...]
    feature_channels: tuple[int, ...]
    decoder_channels: tuple[int, ...]
    center_block: bool = False
    pixel_mean: tuple[float, float, float] = IMAGENET_MEAN
    pixel_std: tuple[float, float, float] = IMAGENET_STD
    public_names: str = "torchvision"
    public_ignored: tuple[str, ...] = ()
    public_missing: tuple[str, ...] = ()

    _mean_C11: Tensor
    _std_C11: Tensor

    def __init__(self, output_stride: int | None) -> None:
        super().__init__()
        stride = self.strides[0] if output_stride is None else output_stride
        if stride not in self.strides:
            raise ConfigError(
                f"encoder {self.name} cannot have this output stride",
                where="model.output_stride",
                got=output_stride,
                wanted=" or ".join(map(str, self.strides)),
            )
        self.output_stride = stride
        # Not persistent: state_dict() holds the names of the public weight files and nothing else.
        self.register_buffer("_mean_C11", torch.tensor(self.pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("_std_C11", torch.tensor(self.pixel_std).view(3, 1, 1), persistent=False)

    @abstractmethod
    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        """Feature maps of normalized images.

        Args:
            images_BCHW: float ``[B, 3, H, W]`` from :meth:`normalize`.

        Returns:
            One map ``[B, C, h, w]`` for each entry of ``feature_channels``; the last is never negative.
        """

    @abstractmethod
    def fast_parameters(self) -> list[nn.Parameter]:
        """The encoder's share of the parameter group that learns ten times as fast in stage 1 (public code)."""

    def build_decoder(self, channels: Sequence[int] | None = None, map_stride: int = 1) -> nn.Module:
        """A new network from this encoder's maps and the size of the map to its logits ``[B, 2, h, w]``.

        Args:
            channels: widths of its blocks; None for the first ones of ``decoder_channels``.
            map_stride: image pixels per pixel of the map: 1, 2 or 4. Each doubling saves the last block.

        Returns:
            The U-Net decoder, unless the encoder has no pyramid.

        Raises:
            ConfigError: not as many widths as it has blocks.
        """
        saved = map_stride.bit_length() - 1
        widths = channels or self.decoder_channels[: len(self.decoder_channels) - saved]
        return UNetDecoder(self.feature_channels, widths, self.center_block, saved)

    def normalize(self, images: Tensor) -> Tensor:
        """Pixels to the input of :meth:`forward`, on the device where they are.

        Args:
            images: uint8 RGB ``[..., 3, H, W]``.

        Returns:
            float32 of the same shape.

        Raises:
            ValueError: not uint8, or not three channels.
        """
        if images.dtype != torch.uint8 or images.ndim < 3 or images.shape[-3] != 3:
            raise ValueError(
                f"encoder {self.name}: wanted uint8 RGB images [..., 3, H, W], got {images.dtype} {tuple(images.shape)}"
            )
        return (images.float() - self._mean_C11) / self._std_C11

    def select_public(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Pick from a public weight file what belongs to this encoder, under this encoder's names."""
        return {name: value for name, value in state.items() if not name.startswith(self.public_ignored)}


def init_convolutions(module: nn.Module) -> None:
    """He-normal convolutions (fan out; fan in where depthwise), zero biases, BatchNorm at 1 and 0.

    A depthwise convolution has one input channel per output, so its fan out as torch counts it is far too large.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            depthwise = layer.groups == layer.in_channels > 1
            nn.init.kaiming_normal_(layer.weight, mode="fan_in" if depthwise else "fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
