"""The two networks of CoLo-CAM: a frame classifier, and the localizer built over it once it is frozen.

Shape suffixes: B frames, C channels, K classes, H and W the image size, h and w the size of the deepest feature map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from colocam_dist.errors import ConfigError
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
        self._only_head = False

    def train_only_head(self) -> None:
        """Keep the encoder as it is, in eval mode: what learns is the head on its features (a linear probe).

        Raises:
            ConfigError: the encoder has layers that no weight file has, which would stay random.
        """
        if self.encoder.public_missing:
            raise ConfigError(
                f"encoder {self.encoder.name} has layers without pretrained weights",
                where="classifier.train_encoder",
                got=f"false; {', '.join(self.encoder.public_missing)} would stay random",
                fix="train the encoder too, or choose resnet50, resnet18 or efficientnet_lite0",
            )
        self.encoder.requires_grad_(False).eval()
        self._only_head = True

    def train(self, mode: bool = True) -> Classifier:
        """Set the mode; an encoder that does not learn stays in eval."""
        super().train(mode)
        if self._only_head:
            self.encoder.eval()
        return self

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
        decoder_channels: widths of the decoder's blocks, in their order; None for the encoder's own.
        map_stride: image pixels per pixel of the map that the decoder makes (1, 2 or 4). At 2 or 4 the decoder's last
            and most expensive blocks are saved (the paper, 4.3 d, names smaller maps as a way to save time).

    Raises:
        ConfigError: not as many widths as the encoder's decoder has blocks.
    """

    def __init__(
        self, classifier: Classifier, decoder_channels: Sequence[int] | None = None, map_stride: int = 1
    ) -> None:
        super().__init__()
        self.classifier = classifier.requires_grad_(False)
        self.decoder = classifier.encoder.build_decoder(decoder_channels, map_stride)
        self.map_stride = map_stride
        self.train()

    def train(self, mode: bool = True) -> Localizer:
        """Set the decoder's mode; the classifier stays in eval."""
        super().train(mode)
        self.classifier.eval()
        return self

    def own_maps(self, images_BCHW: Tensor, other: nn.Module | None = None) -> LocalizerOutput:
        """As :meth:`forward`, with maps of the decoder's own size, ``[B, 2, H // map_stride, W // map_stride]``.

        Args:
            images_BCHW: see :meth:`forward`.
            other: one more decoder for the same features, which is not trained.
        """
        with torch.no_grad():
            features, logits_BK = self.classifier(images_BCHW)
            size = tuple(side // self.map_stride for side in images_BCHW.shape[2:])
            other_logits_B2HW = None if other is None else other(features, size)
        return LocalizerOutput(self.decoder(features, size), logits_BK, features[-1], other_logits_B2HW)

    def forward(self, images_BCHW: Tensor) -> LocalizerOutput:
        """Maps and class logits of a batch of frames; maps smaller than the image are brought to its size, bilinear.

        Args:
            images_BCHW: uint8 RGB ``[B, 3, H, W]`` of any size, on the model's device; normalized here.

        Raises:
            ValueError: the images are not uint8 RGB.
        """
        output = self.own_maps(images_BCHW)
        if self.map_stride == 1:
            return output
        size = images_BCHW.shape[2:]
        full_B2HW = functional.interpolate(output.map_logits_B2HW, size, mode="bilinear", align_corners=False)
        return output._replace(map_logits_B2HW=full_B2HW)
