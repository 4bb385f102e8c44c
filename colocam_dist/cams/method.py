"""The protocol of all CAM methods, and what those that need one forward pass have in common.

Shape suffixes: B frames, C channels, K classes, H and W the image size, h and w the size of the feature map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from colocam_dist.cams.gradients import class_gradients
from colocam_dist.cams.maps import min_max
from colocam_dist.models.localizer import Classifier

__all__ = ["CamMethod", "CamOutput", "Formula", "OnePassCam", "check_labels"]

Formula = Callable[[Tensor, Tensor], Tensor]
"""(features ``[B, C, h, w]``, gradients ``[B, C, h, w]`` or ``[B, C, 1, 1]``) -> maps ``[B, h, w]``, not stretched."""


class CamOutput(NamedTuple):
    """Maps, float32 ``[B, h, w]`` in [0, 1], and the class logits ``[B, K]`` of the frames as they are."""

    maps_Bhw: Tensor
    logits_BK: Tensor


class CamMethod(Protocol):
    """Maps of a batch of frames, each for its own class; a frame's map does not depend on the rest of the batch."""

    @property
    def identity(self) -> str:
        """Name and settings: equal for two methods only if they make the same maps."""
        ...

    def __call__(self, classifier: Classifier, images_BCHW: Tensor, labels_B: Tensor) -> CamOutput:
        """Maps and logits. Records no graph; works on a frozen classifier, and inside of ``torch.inference_mode``.

        Args:
            classifier: in eval mode. The map belongs to the features that its head is given.
            images_BCHW: uint8 RGB ``[B, 3, H, W]``, on the classifier's device.
            labels_B: integer ``[B]``, the class that each map is for, in [0, K).

        Returns:
            Maps of the size of the last features, each stretched to [0, 1] by its own minimum and maximum (a flat one
            becomes all zero), and logits.

        Raises:
            ValueError: wrong type or shape of images or labels.
            ConfigError: the method is not defined for this classifier's head.
        """
        ...


@dataclass(frozen=True)
class OnePassCam:
    """A method that is a formula of features and gradients; computed in float32 also under autocast.

    Attributes:
        identity: its name.
        formula: maps from features and gradients.
    """

    identity: str
    formula: Formula

    @torch.no_grad()
    def __call__(self, classifier: Classifier, images_BCHW: Tensor, labels_B: Tensor) -> CamOutput:
        """See :class:`CamMethod`; one forward pass."""
        check_labels(self.identity, images_BCHW, labels_B)
        output = classifier(images_BCHW)
        with torch.autocast(images_BCHW.device.type, enabled=False):
            features_BChw = output.features[-1].float()
            gradients_BChw = class_gradients(classifier.head, features_BChw, labels_B)
            return CamOutput(min_max(self.formula(features_BChw, gradients_BChw)), output.logits_BK)


def check_labels(name: str, images_BCHW: Tensor, labels_B: Tensor) -> None:
    """One label per frame, else ValueError."""
    if labels_B.shape != images_BCHW.shape[:1]:
        raise ValueError(
            f"{name}: wanted one label per frame, [{len(images_BCHW)}], got labels {tuple(labels_B.shape)}"
        )
