"""One box per frame for a whole shot: the cheapest path through candidate boxes.

Candidates of a frame are the boxes of all contours of its map at several thresholds. With b_t the box chosen in frame
t, n_t its number in the video and m_t its map, the path minimizes

    E = sum_t [1 - fit(b_t, m_t) + prior |tau(b_t) - tau|]  +  pairwise * sum_t change(b_t-1, b_t)^2 / (n_t - n_t-1)

- fit: the correlation of the map with the picture that is 1 in the box and 0 elsewhere. Its square is the share of the
  map's variance that a box explains, so a box that cuts through the blob loses as well as one that is too wide.
- tau(b): the threshold at which the box was found; tau: the validation threshold.
- change: 1 - IoU + center * (distance of the centers) / (the mean of the diagonals) + scale * |ln of the areas' ratio|.
  It is squared because objects move: ten small changes must cost less than one jump. Without that the cheapest path
  prefers large boxes, which overlap themselves more.

The second sum is over neighbors of one segment (no cut between them) and is the smaller the more frames lie between
them. The minimum is exact, by dynamic programming (Viterbi, 1967) in O(T k^2) for T frames of k candidates.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colocam_dist.config.evaluation import Viterbi
from colocam_dist.evaluation.boxes import all_boxes_over_thresholds, box_at
from colocam_dist.evaluation.iou import iou_inclusive
from colocam_dist.inference.timeline import Timeline

__all__ = ["Candidates", "box_fit", "cheapest_path", "choose_boxes", "find_candidates", "path_boxes", "transitions"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Candidates:
    """What may be chosen in one frame.

    Attributes:
        boxes_k4: int16 ``[k, 4]`` as x0, y0, x1, y1 in pixels of the map; k is 0 where the map is empty.
        costs_k: float64 ``[k]``, the first sum of the energy.
    """

    boxes_k4: NDArray[np.int16]
    costs_k: Floats


def path_boxes(maps_THW: NDArray[np.float32], timeline: Timeline, threshold: float, rule: Viterbi) -> NDArray[np.int16]:
    """The boxes of the cheapest path.

    Frames without candidates (empty maps) are no part of the path; their neighbors become neighbors of each other.

    Args:
        maps_THW: float32 ``[T, H, W]`` in [0, 1]; all frames of a shot or clip, in order.
        timeline: when they were taken, and where cuts are.
        threshold: tau, the validation threshold.
        rule: the energy's weights, and how candidates are found.

    Returns:
        int16 ``[T, 4]`` as x0, y0, x1, y1 in pixels of the map; zeros where the map is empty.

    Raises:
        ValueError: a map is not finite or not in [0, 1], or the numbers of frames differ.
    """
    if len(maps_THW) != len(timeline):
        raise ValueError(f"path_boxes: wanted one map for each frame, got {len(maps_THW)} for {len(timeline)}")
    return choose_boxes([find_candidates(map_HW, threshold, rule) for map_HW in maps_THW], timeline, rule)


def choose_boxes(found: Sequence[Candidates], timeline: Timeline, rule: Viterbi) -> NDArray[np.int16]:
    """The second half of :func:`path_boxes`, which needs no maps any more.

    Args:
        found: of :func:`find_candidates`, one for each frame: less than 2 kB a frame with 40 candidates.
        timeline: see there.
        rule: see there.

    Returns:
        int16 ``[T, 4]``, see there.
    """
    boxes_T4 = np.zeros((len(found), 4), np.int16)
    filled = np.array([t for t, frame in enumerate(found) if len(frame.costs_k)], np.int64)
    for segment in np.unique(timeline.segments_T[filled]):
        path = filled[timeline.segments_T[filled] == segment]
        gaps = np.diff(timeline.numbers_T[path]).tolist()
        frames = [found[t] for t in path.tolist()]
        pairs = zip(frames[:-1], frames[1:], gaps, strict=True)
        moves = (transitions(before.boxes_k4, after.boxes_k4, rule) / gap for before, after, gap in pairs)
        chosen = cheapest_path([frame.costs_k for frame in frames], moves)
        boxes_T4[path] = [frame.boxes_k4[place] for frame, place in zip(frames, chosen.tolist(), strict=True)]
    return boxes_T4


def find_candidates(map_HW: NDArray[np.float32], threshold: float, rule: Viterbi) -> Candidates:
    """The box of the published rule at `threshold`, and the boxes of all contours at `rule.levels` even thresholds.

    Boxes with less than `rule.min_area` of the map are left out (but for that of the published rule), equal boxes are
    one with the lowest cost, and the `rule.candidates` cheapest stay.
    """
    levels = np.arange(1, rule.levels + 1) / (rule.levels + 1)
    per_level = all_boxes_over_thresholds(map_HW, levels)
    boxes_k4 = np.concatenate([box_at(map_HW, threshold)[None], *per_level])
    taus_k = np.repeat([threshold, *levels.tolist()], [1, *(len(boxes) for boxes in per_level)])
    large_k = _areas(boxes_k4) >= rule.min_area * map_HW.size
    large_k[0] = True
    kept_k = np.flatnonzero(large_k & boxes_k4.any(1))
    boxes_k4 = boxes_k4[kept_k]
    costs_k = 1.0 - box_fit(map_HW, boxes_k4) + rule.prior * np.abs(taus_k[kept_k] - threshold)
    order = np.argsort(costs_k, kind="stable")
    _, first = np.unique(boxes_k4[order], axis=0, return_index=True)
    cheapest = order[np.sort(first)][: rule.candidates]
    return Candidates(boxes_k4[cheapest], costs_k[cheapest])


def box_fit(map_HW: NDArray[np.float32], boxes_k4: NDArray[Any]) -> Floats:
    """Correlation of a map with the indicators of boxes (end pixels included): float64 ``[k]`` in [-1, 1].

    0 for a flat map and for a box that covers the whole map: neither says anything.
    """
    sums = np.zeros((map_HW.shape[0] + 1, map_HW.shape[1] + 1))
    sums[1:, 1:] = map_HW.astype(np.float64).cumsum(0).cumsum(1)
    x0, y0, x1, y1 = (boxes_k4 + np.array([0, 0, 1, 1])).T
    inside_k = sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]
    areas_k = _areas(boxes_k4)
    spread = float(map_HW.std(dtype=np.float64))
    if spread < 1e-9:
        return np.zeros(len(boxes_k4))
    share_k = areas_k / map_HW.size
    above_k = inside_k / areas_k - sums[-1, -1] / map_HW.size
    room_k = np.sqrt(share_k / np.maximum(1.0 - share_k, 1e-12))
    return np.where(share_k < 1.0, above_k * room_k / spread, 0.0)


def transitions(before_j4: NDArray[Any], after_k4: NDArray[Any], rule: Viterbi) -> Floats:
    """The term ``pairwise * change^2`` for every pair of boxes of two neighbors one frame apart, float64 ``[j, k]``."""
    a, b = before_j4[:, None].astype(np.float64), after_k4[None].astype(np.float64)
    change = 1.0 - iou_inclusive(before_j4, after_k4)
    centers = [(box[..., :2] + box[..., 2:]) / 2.0 for box in (a, b)]
    diagonals = [np.hypot(*np.moveaxis(box[..., 2:] - box[..., :2] + 1.0, -1, 0)) for box in (a, b)]
    change += rule.center * np.hypot(*np.moveaxis(centers[0] - centers[1], -1, 0)) / (sum(diagonals) / 2.0)
    change += rule.scale * np.abs(np.log(_areas(before_j4))[:, None] - np.log(_areas(after_k4))[None])
    return rule.pairwise * change**2


def cheapest_path(costs: Sequence[Floats], moves: Iterable[Floats]) -> NDArray[np.int64]:
    """The path of least cost through stages of states; exact, the first of equals by the last state.

    Args:
        costs: T arrays ``[k_t]``, k_t >= 1: what each state costs.
        moves: T - 1 arrays ``[k_t, k_t+1]``: what each move costs; they are not held together.

    Returns:
        int64 ``[T]``, the chosen state of each stage.
    """
    total = costs[0]
    best_before = []
    for cost, move in zip(costs[1:], moves, strict=True):
        sums = total[:, None] + move
        best_before.append(sums.argmin(0))
        total = sums.min(0) + cost
    path = [int(total.argmin())]
    for before in reversed(best_before):
        path.append(int(before[path[-1]]))
    return np.array(path[::-1], np.int64)


def _areas(boxes_k4: NDArray[Any]) -> Floats:
    extents = boxes_k4[:, 2:].astype(np.float64) - boxes_k4[:, :2] + 1.0
    return extents[:, 0] * extents[:, 1]
