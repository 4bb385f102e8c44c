"""Smooth Grad-CAM++ (Omeiza et al. 2019): Grad-CAM++ with derivatives that are means over noisy copies of the frame.

Shape suffixes: B frames, C channels, P = 3 * H * W values of an image, h and w the size of the feature map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from colocam_dist.cams.gradients import class_gradients
from colocam_dist.cams.maps import min_max, reciprocal, weighted_sum
from colocam_dist.cams.method import CamOutput, check_labels
from colocam_dist.models.localizer import Classifier
from colocam_dist.noise import content_keys, frame_normals

__all__ = ["SmoothGradCamPP", "smoothgradcam_pp"]

PIXELS = 255.0  # range of the input


@dataclass(frozen=True)
class SmoothGradCamPP:
    """Smooth Grad-CAM++ as a :class:`~colocam_dist.cams.method.CamMethod`.

    The noise is a function of the frame's pixels and of the sample alone: a frame has the same map in every batch, run
    and process, and under every seed, so that runs can share archives.

    Behind global average pooling and a linear layer the gradient does not depend on the image. The derivatives then
    are those of the clean frame, and with ``activations="clean"``, as in the paper, the map is exactly that of
    Grad-CAM++. The default follows the public code (torchcam, which TCAM took over): its sum is over the activations of
    a noisy copy. It uses the last copy alone; here it is the mean over all copies.

    Attributes:
        samples: noisy copies of each frame, at least 1 (public code: 4).
        noise: standard deviation of the Gaussian noise as a share of the range of pixels, 0 to 255. The public code
            adds 0.3 to normalized pixels, whose standard deviation is 57 to 58 levels: 0.068 of the range.
        activations: the feature maps that the weights are for: the mean over the noisy copies, or those of the frame.

    Raises:
        ValueError: a value outside its range.
    """

    samples: int = 4
    noise: float = 0.068
    activations: Literal["noisy", "clean"] = "noisy"

    def __post_init__(self) -> None:
        if self.samples < 1 or self.noise < 0:
            raise ValueError(
                f"smoothgradcam++: wanted samples >= 1 and noise >= 0, got {self.samples} and {self.noise}"
            )
        if self.activations not in ("noisy", "clean"):
            raise ValueError(f"smoothgradcam++: wanted activations noisy or clean, got {self.activations!r}")

    @property
    def identity(self) -> str:
        """Name and settings."""
        return f"smoothgradcam++(samples={self.samples}, noise={self.noise}, activations={self.activations})"

    @torch.no_grad()
    def __call__(self, classifier: Classifier, images_BCHW: Tensor, labels_B: Tensor) -> CamOutput:
        """See :class:`~colocam_dist.cams.method.CamMethod`; ``samples + 1`` forward passes."""
        check_labels("smoothgradcam++", images_BCHW, labels_B)
        output = classifier(images_BCHW)
        encoder, clean_BChw = classifier.encoder, output.features[-1].float()
        pixels_BCHW = encoder.normalize(images_BCHW)
        deviation_C11 = pixels_BCHW.new_tensor(encoder.pixel_std).reciprocal()[:, None, None] * (self.noise * PIXELS)
        keys_B = content_keys(images_BCHW)
        derivatives = []
        noisy_BChw = torch.zeros_like(clean_BChw)
        for sample in range(self.samples):
            noise_BP = frame_normals(keys_B, images_BCHW[0].numel(), seed=0, epoch=sample)
            features_BChw = encoder(pixels_BCHW + deviation_C11 * noise_BP.view_as(pixels_BCHW))[-1].float()
            noisy_BChw += features_BChw / self.samples
            derivatives.append(class_gradients(classifier.head, features_BChw, labels_B))
        with torch.autocast(images_BCHW.device.type, enabled=False):
            activations_BChw = noisy_BChw if self.activations == "noisy" else clean_BChw
            maps_Bhw = smoothgradcam_pp(activations_BChw, torch.stack(derivatives))
            return CamOutput(min_max(maps_Bhw), output.logits_BK)


def smoothgradcam_pp(activations_BChw: Tensor, gradients_NBChw: Tensor) -> Tensor:
    """``relu(sum_k w_k A_k)``, ``w_k`` = mean over positions of ``alpha relu(D1)``, ``alpha = D2 / (2 D2 + S D3)``.

    D1, D2 and D3 are means over the N copies of the gradient and of its powers, S is the sum of the feature map. The
    paper's alpha has D1 where we have D2: taken for a slip, as in the public code, since for N = 1 it would not be
    Grad-CAM++. Gradients are scaled to at most 1 first, because third powers of small ones are not float32 numbers.

    Args:
        activations_BChw: float ``[B, C, h, w]``, never negative.
        gradients_NBChw: ``[N, B, C, h, w]``, or ``[N, B, C, 1, 1]`` where they are constant over positions.

    Returns:
        ``[B, h, w]``, never negative, up to a positive factor per frame.
    """
    largest_B111 = gradients_NBChw.abs().amax((0, 2, 3, 4))[:, None, None, None]
    scaled_NBChw = gradients_NBChw * reciprocal(largest_B111)
    first_BChw, second_BChw, third_BChw = (scaled_NBChw.pow(power).mean(0) for power in (1, 2, 3))
    total_BC11 = activations_BChw.sum((2, 3), keepdim=True) * largest_B111
    alpha_BChw = second_BChw * reciprocal(2.0 * second_BChw + total_BC11 * third_BChw)
    weights_BC11 = (alpha_BChw * first_BChw.relu()).mean((2, 3), keepdim=True)
    return weighted_sum(activations_BChw, weights_BC11).relu()
