"""Whether the object is in a frame, by the frozen classifier; what frames without it weigh (paper 5, "empty frames").

The tag is that of the whole video, so some frames do not hold the object, and their maps are still pulled to a
foreground. The paper suggests to leave them out or to weight them by the classifier's probability of the tag's class,
and tries neither.

Shape suffixes: W windows, N frames per window, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["PresenceSettings", "frame_weights", "tag_probability"]


@dataclass(frozen=True)
class PresenceSettings:
    """How the probability of the tag becomes a frame's weight in the loss.

    Attributes:
        mode: ``none`` leaves all frames alone; ``drop`` takes frames below the threshold out of every term, of the
            window of the co-localization term, too; ``weight`` does so and weights the others in the terms of single
            frames.
        relative: presence is the probability divided by the largest in the frame's window, so that it compares frames
            of one shot and says nothing about hard classes and shots; the window's best frame then always has 1, also
            when the whole window is empty. Without it, presence is the probability itself.
        threshold: of presence, in [0, 1); frames below it count like masked ones.
        power: of presence in the weight, > 0: below 1 the weights are nearer to each other, above 1 farther apart.

    Raises:
        ValueError: a value outside its range, or ``drop`` without a threshold.
    """

    mode: Literal["none", "weight", "drop"] = "none"
    relative: bool = False
    threshold: float = 0.1
    power: float = 1.0

    def __post_init__(self) -> None:
        if self.mode not in ("none", "weight", "drop"):
            raise ValueError(f"PresenceSettings: wanted mode none, weight or drop, got {self.mode!r}")
        if not (0.0 <= self.threshold < 1.0 and 0.0 < self.power < float("inf")):
            raise ValueError(
                f"PresenceSettings: wanted threshold in [0, 1) and power > 0, got {self.threshold} and {self.power}"
            )
        if self.mode == "drop" and self.threshold == 0.0:
            raise ValueError("PresenceSettings: mode drop wanted a threshold > 0, got 0")


@torch.no_grad()
def tag_probability(class_logits_WNK: Tensor, labels_W: Tensor) -> Tensor:
    """Probability that the classifier gives the window's tag in each frame, by softmax over the classes.

    Args:
        class_logits_WNK: float ``[W, N, K]``.
        labels_W: int64 ``[W]`` in [0, K).

    Returns:
        float32 ``[W, N]`` in [0, 1], without a graph.
    """
    probabilities_WNK = class_logits_WNK.float().softmax(2)
    return probabilities_WNK.take_along_dim(labels_W[:, None, None], dim=2)[:, :, 0]


@torch.no_grad()
def frame_weights(
    probability_WN: Tensor,
    mask_WN: Tensor,
    settings: PresenceSettings,
    largest: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """What takes the place of the mask in the loss.

    Args:
        probability_WN: float32 ``[W, N]`` from :func:`tag_probability`, of the frames.
        mask_WN: bool ``[W, N]``, False for frames that do not count anyway.
        settings: see :class:`PresenceSettings`.
        largest: the largest of all ranks' values ``[W]`` where windows have frames on others, None = they have not.

    Returns:
        The mask itself (``none``), with False for frames below the threshold (``drop``), or float32 weights
        ``[W, N]`` in [0, 1], 0 for frames that do not count (``weight``).
    """
    if settings.mode == "none":
        return mask_WN
    presence_WN = probability_WN.masked_fill(~mask_WN, 0.0)
    if settings.relative:
        best_W = presence_WN.amax(1)
        if largest is not None:
            best_W = largest(best_W)
        # Of a window whose probabilities are all 0 nothing is left.
        presence_WN = presence_WN / best_W[:, None].clamp(min=torch.finfo(torch.float32).tiny)
    kept_WN = mask_WN & (presence_WN >= settings.threshold)
    return kept_WN if settings.mode == "drop" else presence_WN.pow(settings.power) * kept_WN
