"""Encoders by name, one family a file."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from colocam_dist.errors import ConfigError
from colocam_dist.models.encoders.base import Encoder
from colocam_dist.models.encoders.efficientnet_lite import EfficientNetLite0
from colocam_dist.models.encoders.inception import InceptionV3
from colocam_dist.models.encoders.resnet import ResNet
from colocam_dist.models.encoders.timm_pyramid import TimmPyramid
from colocam_dist.models.encoders.vgg import VGG16
from colocam_dist.models.encoders.vit import VisionTransformer

__all__ = ["ENCODERS", "Encoder", "build_encoder"]

TIMM = "timm:"

ENCODERS: dict[str, Callable[[int | None], Encoder]] = {
    "resnet18": lambda output_stride: ResNet("resnet18", output_stride),
    "resnet50": lambda output_stride: ResNet("resnet50", output_stride),
    "vgg16": VGG16,
    "inceptionv3": InceptionV3,
    "efficientnet_lite0": EfficientNetLite0,
    "vit_tiny": lambda output_stride: VisionTransformer("vit_tiny", output_stride),
    "vit_small": lambda output_stride: VisionTransformer("vit_small", output_stride),
    "vit_base": lambda output_stride: VisionTransformer("vit_base", output_stride),
}


def build_encoder(name: str, *, output_stride: int | None = None) -> Encoder:
    """A new encoder with random weights.

    Args:
        name: a name of ``ENCODERS``, or ``timm:`` and the name of a timm model that has a feature pyramid.
        output_stride: image pixels per pixel of the deepest map; None for the encoder's own default.

    Raises:
        ConfigError: unknown name, an output stride that the encoder cannot have, timm missing, or a timm model without
            a pyramid.
    """
    if name.startswith(TIMM):
        return TimmPyramid(name.removeprefix(TIMM), output_stride)
    if name not in ENCODERS:
        close = difflib.get_close_matches(name, ENCODERS, n=1)
        raise ConfigError(
            "unknown encoder",
            where="model.encoder",
            got=name,
            wanted=", ".join([*ENCODERS, f"{TIMM}<timm model>"]),
            fix=f"did you mean {close[0]}?" if close else None,
        )
    return ENCODERS[name](output_stride)
