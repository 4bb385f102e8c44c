"""Several boxes per frame against several true ones: recall and precision. CorLoc asks for one right box only.

F frames, k predicted and j true boxes of a frame.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colocam_dist.evaluation.intervals import ratio_interval
from colocam_dist.evaluation.iou import iou_inclusive

__all__ = ["InstanceCounts", "InstanceScores", "count_matches", "instance_scores"]

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class InstanceCounts:
    """What is kept of each frame: int64 ``[F]`` each.

    Attributes:
        found_F: true boxes that were found.
        boxes_F: predicted boxes.
        truth_F: true boxes, at least 1.
    """

    found_F: Counts
    boxes_F: Counts
    truth_F: Counts


@dataclass(frozen=True)
class InstanceScores:
    """Figures over a group of frames, percent.

    Attributes:
        recall: true boxes that were found.
        precision: predicted boxes that found one; None if there is no predicted box.
        f1: their harmonic mean.
        intervals: of the three, 95 %, over videos; None where not computed.
        frames: number of frames.
        boxes: predicted boxes.
        truth: true boxes.
    """

    recall: float
    precision: float | None
    f1: float
    intervals: dict[str, tuple[float, float] | None]
    frames: int
    boxes: int
    truth: int

    def to_dict(self) -> dict[str, Any]:
        """json-able, with the attribute names as keys."""
        return asdict(self)


def count_matches(boxes_k4: NDArray[Any], truth_j4: NDArray[Any], iou: float = 0.5) -> int:
    """True boxes that are found: each box, in the given order, takes the free true box with which its IoU is largest.

    Args:
        boxes_k4: ``[k, 4]`` as x0, y0, x1, y1, the best first; k may be 0.
        truth_j4: ``[j, 4]``.
        iou: smallest IoU that counts as found.
    """
    free_kj = iou_inclusive(boxes_k4, truth_j4)
    found = 0
    for place in range(len(boxes_k4)):
        best = int(free_kj[place].argmax()) if len(truth_j4) else -1
        if best >= 0 and free_kj[place, best] >= iou:
            free_kj[:, best] = -1.0
            found += 1
    return found


def instance_scores(
    counts: InstanceCounts, videos_F: NDArray[np.str_], *, resamples: int = 1000, seed: int = 0
) -> dict[str, InstanceScores]:
    """Figures of the groups "all" (every frame) and "several" (frames with two or more true boxes, if there are any).

    Args:
        counts: of the frames.
        videos_F: ``[F]``, their videos, which the bootstrap draws.
        resamples: of the bootstrap; 0 = no intervals.
        seed: of the bootstrap.
    """
    groups = {"all": counts.truth_F >= 1, "several": counts.truth_F >= 2}
    return {
        name: _scores(_part(counts, mine_F), videos_F[mine_F], resamples, seed)
        for name, mine_F in groups.items()
        if mine_F.any()
    }


def _part(counts: InstanceCounts, mine_F: NDArray[np.bool_]) -> InstanceCounts:
    return InstanceCounts(counts.found_F[mine_F], counts.boxes_F[mine_F], counts.truth_F[mine_F])


def _scores(counts: InstanceCounts, videos_F: NDArray[np.str_], resamples: int, seed: int) -> InstanceScores:
    found, boxes, truth = (int(values_F.sum()) for values_F in (counts.found_F, counts.boxes_F, counts.truth_F))
    ratios = {
        "recall": (counts.found_F, counts.truth_F),
        "precision": (counts.found_F, counts.boxes_F),
        "f1": (2 * counts.found_F, counts.boxes_F + counts.truth_F),
    }
    return InstanceScores(
        recall=100.0 * found / truth,
        precision=100.0 * found / boxes if boxes else None,
        f1=200.0 * found / (boxes + truth),
        intervals={
            name: ratio_interval(*ratio, videos_F, resamples=resamples, seed=seed) for name, ratio in ratios.items()
        },
        frames=len(videos_F),
        boxes=boxes,
        truth=truth,
    )
