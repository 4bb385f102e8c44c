"""The two networks of CoLo-CAM: a frame classifier, and the localizer built over it once it is frozen.

Shape suffixes: B frames, C channels, K classes, H and W the image size, h and w the size of the deepest feature map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from colocam_dist.models.decoder import UNetDecoder
from colocam_dist.models.encoders.base import Encoder

__all__ = ["WGAP", "Classifier", "ClassifierOutput", "Localizer", "LocalizerOutput"]


class ClassifierOutput(NamedTuple):
    """Feature maps, shallow to deep (the last one is what the head pools), and class logits ``[B, K]``."""

    features: list[Tensor]
    logits_BK: Tensor


class LocalizerOutput(NamedTuple):
    """Map logits ``[B, 2, H, W]`` (0 background, 1 foreground), class logits ``[B, K]``, deepest features (no grad).

    And the map logits of another decoder if there was one, without a graph.
    """

    map_logits_B2HW: Tensor
    class_logits_BK: Tensor
    features_BChw: Tensor
    other_logits_B2HW: Tensor | None = None


class WGAP(nn.Linear):
    """Global average pooling and one linear layer, Xavier-uniform weight, zero bias (public code's head).

    ``weight`` is ``[K, C]``: with the never negative features it pools it gives LayerCAM in closed form.
    """

    def __init__(self, channels: int, n_classes: int) -> None:
        super().__init__(channels, n_classes)
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, features_BChw: Tensor) -> Tensor:
        """``[B, C, h, w]`` to logits ``[B, K]``."""
        return functional.linear(features_BChw.mean((2, 3)), self.weight, self.bias)


class Classifier(nn.Module):
    """Encoder and head: stage 1 (paper 3: trained with the video's class tag on every frame).

    Args:
        encoder: the feature pyramid.
        n_classes: K, at least 1.
    """

    def __init__(self, encoder: Encoder, n_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = WGAP(encoder.feature_channels[-1], n_classes)

    def forward(self, images_BCHW: Tensor) -> ClassifierOutput:
        """Features and logits of a batch of frames.

        Args:
            images_BCHW: uint8 RGB ``[B, 3, H, W]``, on the model's device; normalized here.

        Raises:
            ValueError: the images are not uint8 RGB.
        """
        features = self.encoder(self.encoder.normalize(images_BCHW))
        return ClassifierOutput(features, self.head(features[-1]))


class Localizer(nn.Module):
    """A decoder over a frozen classifier: stage 2 (paper 3.1, Fig. 1).

    Takes the classifier over and freezes it: no parameter of it asks for a gradient, it stays in eval mode whatever
    mode the localizer is put in (BatchNorm statistics and dropout included), and it runs without recording a graph.

    Args:
        classifier: trained classifier; changed as said.
        decoder_channels: widths of the decoder's blocks, deep to shallow; None for the encoder's own.

    Raises:
        ConfigError: not one width per feature map.
    """

    def __init__(self, classifier: Classifier, decoder_channels: Sequence[int] | None = None) -> None:
        super().__init__()
        encoder = classifier.encoder
        self.classifier = classifier.requires_grad_(False)
        self.decoder = UNetDecoder(
            encoder.feature_channels, decoder_channels or encoder.decoder_channels, encoder.center_block
        )
        self.train()

    def train(self, mode: bool = True) -> Localizer:
        """Set the decoder's mode; the classifier stays in eval."""
        super().train(mode)
        self.classifier.eval()
        return self

    def forward(self, images_BCHW: Tensor, other: UNetDecoder | None = None) -> LocalizerOutput:
        """Maps and class logits of a batch of frames.

        Args:
            images_BCHW: uint8 RGB ``[B, 3, H, W]`` of any size, on the model's device; normalized here.
            other: one more decoder for the same features, which is not trained.

        Raises:
            ValueError: the images are not uint8 RGB.
        """
        with torch.no_grad():
            features, logits_BK = self.classifier(images_BCHW)
            height, width = images_BCHW.shape[2:]
            other_logits_B2HW = None if other is None else other(features, (height, width))
        return LocalizerOutput(self.decoder(features, (height, width)), logits_BK, features[-1], other_logits_B2HW)
