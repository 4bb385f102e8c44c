"""How steadily boxes follow an object: agreement of the boxes of consecutive frames, beside that of the true ones.

The paper shows boxes that jump from one place to another within a frame (its sections 4.5 and 5) and gives no figure
for it. A box that never moves is perfectly steady, so the agreement of the true boxes stands beside each figure.

F frames, P pairs of consecutive frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colocam_dist.evaluation.intervals import ratio_interval
from colocam_dist.evaluation.iou import iou_inclusive

__all__ = ["DENSE", "JUMP", "Consistency", "Pairs", "ShotConsistency", "consecutive_pairs", "consistency"]

JUMP = 0.1
"""IoU of consecutive boxes below which the box has jumped."""

DENSE = 0.5
"""Share of neighboring frames that must be consecutive for the figures to say something about a split."""

Floats = NDArray[np.float64]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Pairs:
    """Pairs of consecutive frames of one shot.

    Attributes:
        first_P: int64 ``[P]``, positions of the earlier frames; each one's partner follows it.
        neighbors: number of all pairs of neighbors within shots, at any distance.
        max_gap: largest distance of frame numbers that counts as consecutive.
    """

    first_P: NDArray[np.int64]
    neighbors: int
    max_gap: int

    def missing(self) -> str | None:
        """Why there are not enough of them to measure anything; None if there are."""
        if self.neighbors and len(self.first_P) >= DENSE * self.neighbors:
            return None
        frames = "frame" if self.max_gap == 1 else "frames"
        return (
            f"{len(self.first_P)} of {self.neighbors} neighboring frames are at most {self.max_gap} {frames} apart, "
            f"wanted {100 * DENSE:.0f} %"
        )


@dataclass(frozen=True)
class ShotConsistency:
    """The figures of one shot, as in :class:`Consistency`; None where there is no such pair."""

    pairs: int
    iou: float | None
    jumps: float | None
    truth_iou: float | None
    difference: float | None


@dataclass(frozen=True)
class Consistency:
    """The figures of one method, percent, over all pairs with a predicted box in at least one of the two frames.

    Attributes:
        iou: mean IoU of the boxes of two consecutive frames. Where only one of them has a box it is 0.
        jumps: share of pairs whose IoU is below 0.1.
        difference: mean distance of that IoU from the IoU of the true boxes; 0 for boxes as steady as those.
        truth_iou: mean IoU of the true boxes.
        truth_jumps: share of pairs in which the true box jumps.
        intervals: 95 % bootstrap intervals over videos of "iou", "jumps" and "difference"; None where not computed.
        pairs: number of pairs.
        truth_pairs: those with exactly one true box in both frames, to which the three figures with truth refer.
        empty_pairs: pairs without a predicted box in both frames, left out.
        max_gap: largest distance of frame numbers that counts as consecutive.
        shots: by the shot's key.
    """

    iou: float | None
    jumps: float | None
    difference: float | None
    truth_iou: float | None
    truth_jumps: float | None
    intervals: dict[str, Interval | None]
    pairs: int
    truth_pairs: int
    empty_pairs: int
    max_gap: int
    shots: dict[str, ShotConsistency]

    def to_dict(self) -> dict[str, Any]:
        """json-able, with the attribute names as keys."""
        return asdict(self)


def consecutive_pairs(numbers_F: NDArray[np.int64], shots_F: NDArray[Any], max_gap: int = 1) -> Pairs:
    """Neighboring frames of one shot whose numbers differ by at most `max_gap`.

    Args:
        numbers_F: int64 ``[F]``, number of each frame in its video; ascending within a shot.
        shots_F: ``[F]``, the shot of each frame; the frames of a shot are neighbors.
        max_gap: at least 1. Where a data set holds every tenth frame, it is 10.
    """
    same_P = shots_F[1:] == shots_F[:-1]
    near_P = np.diff(numbers_F) <= max_gap
    return Pairs(np.flatnonzero(same_P & near_P), int(same_P.sum()), max_gap)


def consistency(
    boxes_F4: NDArray[Any],
    truth_F: Sequence[NDArray[Any]],
    pairs: Pairs,
    shots_F: NDArray[np.str_],
    videos_F: NDArray[np.str_],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Consistency:
    """Compare the boxes of consecutive frames.

    Args:
        boxes_F4: ``[F, 4]`` as x0, y0, x1, y1, one predicted box per frame; zeros where there is none.
        truth_F: true boxes ``[k, 4]`` of each frame, in the same coordinates; k may be 0.
        pairs: of :func:`consecutive_pairs`.
        shots_F: ``[F]``, keys of the frames' shots.
        videos_F: ``[F]``, their videos, which the bootstrap draws.
        resamples: of the bootstrap; 0 = no intervals.
        seed: of the bootstrap.

    Raises:
        ValueError: no pairs.
    """
    first_P = pairs.first_P
    if not len(first_P):
        raise ValueError("consistency: wanted at least one pair of consecutive frames, got none")
    there_F: NDArray[np.bool_] = (boxes_F4 != 0).any(1)
    single_F = np.array([len(truth) == 1 for truth in truth_F])
    alone_F4 = np.array([truth[0] if len(truth) == 1 else np.zeros(4) for truth in truth_F])
    iou_P = _pair_iou(boxes_F4, first_P) * (there_F[first_P] & there_F[first_P + 1])
    truth_P = _pair_iou(alone_F4, first_P)
    counted_P = there_F[first_P] | there_F[first_P + 1]
    known_P = counted_P & single_F[first_P] & single_F[first_P + 1]
    columns = {
        "iou": (iou_P, counted_P),
        "jumps": (iou_P < JUMP, counted_P),
        "difference": (np.abs(iou_P - truth_P), known_P),
        "truth_iou": (truth_P, known_P),
        "truth_jumps": (truth_P < JUMP, known_P),
    }
    intervals = {
        name: ratio_interval(*columns[name], videos_F[first_P], resamples=resamples, seed=seed)
        for name in ("iou", "jumps", "difference")
    }
    keys_P = shots_F[first_P]
    by_shot = {}
    for key in dict.fromkeys(keys_P.tolist()):
        mine_P = keys_P == key
        figures = {name: _mean(*columns[name], mine_P) for name in ("iou", "jumps", "truth_iou", "difference")}
        by_shot[key] = ShotConsistency(pairs=int((counted_P & mine_P).sum()), **figures)
    return Consistency(
        **{name: _mean(*column) for name, column in columns.items()},
        intervals=intervals,
        pairs=int(counted_P.sum()),
        truth_pairs=int(known_P.sum()),
        empty_pairs=int((~counted_P).sum()),
        max_gap=pairs.max_gap,
        shots=by_shot,
    )


def _pair_iou(boxes_F4: NDArray[Any], first_P: NDArray[np.int64]) -> Floats:
    pairs = zip(boxes_F4[first_P], boxes_F4[first_P + 1], strict=True)
    return np.array([iou_inclusive(one[None], other[None])[0, 0] for one, other in pairs])


def _mean(
    values_P: NDArray[Any], counted_P: NDArray[np.bool_], mine_P: NDArray[np.bool_] | None = None
) -> float | None:
    """Mean over the pairs that count, percent; None if there are none."""
    chosen_P = counted_P if mine_P is None else counted_P & mine_P
    return 100.0 * float(values_P[chosen_P].mean()) if chosen_P.any() else None
