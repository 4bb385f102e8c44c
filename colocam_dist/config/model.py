"""Settings of the network."""

from __future__ import annotations

import difflib
from typing import Annotated, Literal

from pydantic import BeforeValidator

from colocam_dist.config.section import Positive, Section

__all__ = ["ENCODERS", "Model"]

ENCODERS = (
    *("resnet18", "resnet50", "vgg16", "inceptionv3", "efficientnet_lite0"),
    *("vit_tiny", "vit_small", "vit_base"),
)
"""Those of the project; any other name begins with "timm:"."""


def _encoder(value: object) -> object:
    """A known name, or that of a timm model, which only timm knows."""
    if isinstance(value, str) and value not in ENCODERS and not value.startswith("timm:"):
        close = difflib.get_close_matches(value, ENCODERS, n=1)
        near = f", did you mean {close[0]}?" if close else ""
        raise ValueError(f"unknown encoder; wanted {', '.join(ENCODERS)} or timm:MODEL{near}")
    return value


class Model(Section):
    """Encoder, its initial weights, and the decoder's width."""

    encoder: Annotated[str, BeforeValidator(_encoder)] = "resnet50"
    weights: str = "imagenet"  # "imagenet", "none", or the path of a state_dict
    weights_sha256: str | None = None
    output_stride: Literal[8, 16, 32] | None = None  # None: the encoder's own (8 for the WSOL ResNets)
    decoder_channels: tuple[Positive, ...] | None = None  # None: the encoder's own
    map_stride: Literal[1, 2, 4] = 1  # image pixels per pixel of the map that the decoder makes and losses look at
