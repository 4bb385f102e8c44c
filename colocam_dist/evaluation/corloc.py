"""CorLoc under three threshold rules, with intervals.

A frame is right at threshold tau if the IoU of its box with one of its true boxes is at least 0.5 (configurable). The
denominator is the number of labeled frames; the headline is the mean over classes. All figures are percent.

- ``validation``: one tau, the best on the validation split, used here. The only number a user can have in practice.
- ``pooled``: one tau for all classes, the best on this very split. An upper bound.
- ``per_class``: one tau per class, the best on this very split. A higher bound, and what published tables print.

F frames, T thresholds, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colocam_dist.evaluation.intervals import bootstrap_intervals

__all__ = ["RULES", "ClassScores", "CorLoc", "FrameScores", "best_threshold", "corloc"]

RULES = ("validation", "pooled", "per_class")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FrameScores:
    """What is kept of each evaluated frame.

    Attributes:
        iou_FT: float32 ``[F, T]``, best IoU over the frame's true boxes at each threshold.
        labels_F: int64 ``[F]``.
        predicted_F: int64 ``[F]``, the classifier's answer.
        videos_F: str ``[F]``.
        frames_F: int64 ``[F]``, frame ids within the split.
        thresholds_T: float64 ``[T]``, ascending.
    """

    iou_FT: NDArray[np.float32]
    labels_F: NDArray[np.int64]
    predicted_F: NDArray[np.int64]
    videos_F: NDArray[np.str_]
    frames_F: NDArray[np.int64]
    thresholds_T: Floats

    @classmethod
    def merge(cls, parts: Sequence[FrameScores]) -> FrameScores:
        """One table from those of several ranks, in rank order.

        Raises:
            ValueError: the parts were scored at different thresholds.
        """
        if not all(np.array_equal(part.thresholds_T, parts[0].thresholds_T) for part in parts):
            raise ValueError("FrameScores.merge: wanted parts scored at the same thresholds, got different ones")
        return cls(
            np.concatenate([part.iou_FT for part in parts]),
            np.concatenate([part.labels_F for part in parts]),
            np.concatenate([part.predicted_F for part in parts]),
            np.concatenate([part.videos_F for part in parts]),
            np.concatenate([part.frames_F for part in parts]),
            parts[0].thresholds_T,
        )


@dataclass(frozen=True)
class ClassScores:
    """CorLoc of one class under each rule, percent, and its number of labeled frames."""

    frames: int
    validation: float
    pooled: float
    per_class: float


@dataclass(frozen=True)
class CorLoc:
    """The figures of one method on one split, percent.

    Attributes:
        corloc: mean over the classes present, by rule.
        micro: right frames of all classes over all frames, by rule, at the thresholds of `corloc`.
        intervals: 95 % bootstrap intervals over videos, by rule; None where not computed, or where no class has two.
        top1: like `corloc`, for frames whose class is predicted right too; oracle rules choose for this figure anew.
        thresholds: tau of the rules "validation" and "pooled".
        classification: share of frames classified right (not averaged over classes).
        per_class: by class name, classes with at least one labeled frame.
        frames: labeled frames.
        videos: videos with labeled frames.
        iou: the IoU that counts as right.
    """

    corloc: dict[str, float]
    micro: dict[str, float]
    intervals: dict[str, tuple[float, float] | None]
    top1: dict[str, float]
    thresholds: dict[str, float]
    classification: float
    per_class: dict[str, ClassScores]
    frames: int
    videos: int
    iou: float

    def to_dict(self) -> dict[str, Any]:
        """json-able, with the attribute names as keys."""
        return asdict(self)


def best_threshold(scores: FrameScores, iou: float = 0.5) -> tuple[float, float]:
    """(tau, macro CorLoc in percent) of the single threshold that is best on these frames; the first of equals."""
    macro_T = _class_rates(scores, scores.iou_FT >= iou)[1].mean(0)
    best = int(macro_T.argmax())
    return float(scores.thresholds_T[best]), 100.0 * float(macro_T[best])


def corloc(
    scores: FrameScores,
    classes: Sequence[str],
    threshold: float,
    *,
    iou: float = 0.5,
    resamples: int = 1000,
    seed: int = 0,
) -> CorLoc:
    """Score a split.

    Args:
        scores: its frames.
        classes: names; labels are positions in it.
        threshold: tau that validation chose; must be one of ``scores.thresholds_T``.
        iou: smallest IoU that counts as right.
        resamples: bootstrap resamples; 0 = no intervals. Whole videos are drawn with replacement within each class, so
            that every class stays present. Oracle rules choose their thresholds again in each resample, the validation
            threshold stays fixed.
        seed: of the bootstrap.

    Raises:
        ValueError: no frames, a label without a class name, or a threshold that was not evaluated.
    """
    if not len(scores.labels_F):
        raise ValueError("corloc: wanted at least one labeled frame, got none")
    if not (scores.labels_F.min() >= 0 and scores.labels_F.max() < len(classes)):
        got = f"{scores.labels_F.min()} to {scores.labels_F.max()}"
        raise ValueError(f"corloc: wanted labels from 0 to {len(classes) - 1}, got {got}")
    place = int(np.abs(scores.thresholds_T - threshold).argmin())
    if abs(scores.thresholds_T[place] - threshold) > 1e-9:
        raise ValueError(f"corloc: threshold {threshold} is not one of the {len(scores.thresholds_T)} evaluated ones")
    right_FT = scores.iou_FT >= iou
    known_F = scores.predicted_F == scores.labels_F
    present, rates_KT, frames_K = _class_rates(scores, right_FT)
    pooled = int(rates_KT.mean(0).argmax())
    by_rule = _by_rule(rates_KT, place, pooled)
    top1 = _by_rule(_class_rates(scores, right_FT & known_F[:, None])[1], place, None)
    intervals: dict[str, tuple[float, float] | None] = dict.fromkeys(RULES)
    if resamples:
        drawn = bootstrap_intervals(right_FT, scores.labels_F, scores.videos_F, place, resamples=resamples, seed=seed)
        intervals.update(drawn)
    return CorLoc(
        corloc=_percent(by_rule),
        micro={rule: 100.0 * float(rates_K @ frames_K / frames_K.sum()) for rule, rates_K in by_rule.items()},
        intervals=intervals,
        top1=_percent(top1),
        thresholds={"validation": threshold, "pooled": float(scores.thresholds_T[pooled])},
        classification=100.0 * float(known_F.mean()),
        per_class={
            classes[label]: ClassScores(int(count), *(100.0 * float(by_rule[rule][k]) for rule in RULES))
            for k, (label, count) in enumerate(zip(present.tolist(), frames_K, strict=True))
        },
        frames=len(scores.labels_F),
        videos=len(np.unique(scores.videos_F)),
        iou=iou,
    )


def _class_rates(scores: FrameScores, right_FT: NDArray[np.bool_]) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Labels present, share of right frames [K, T], and frames [K]."""
    present, position_F = np.unique(scores.labels_F, return_inverse=True)
    frames_K = np.bincount(position_F).astype(np.float64)
    right_KT = np.zeros((len(present), right_FT.shape[1]))
    np.add.at(right_KT, position_F, right_FT)
    return present, right_KT / frames_K[:, None], frames_K


def _by_rule(rates_KT: Floats, validation: int, pooled: int | None) -> dict[str, Floats]:
    """Share of right frames per class under each rule."""
    if pooled is None:
        pooled = int(rates_KT.mean(0).argmax())
    return {"validation": rates_KT[:, validation], "pooled": rates_KT[:, pooled], "per_class": rates_KT.max(1)}


def _percent(by_rule: dict[str, Floats]) -> dict[str, float]:
    return {rule: 100.0 * float(rates_K.mean()) for rule, rates_K in by_rule.items()}
