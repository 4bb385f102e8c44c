"""Scores ways from maps to boxes that look at whole shots, beside the published one, in one pass over the frames.

F frames, those with true boxes being L; S thresholds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from colocam_dist.evaluation.corloc import FrameScores
from colocam_dist.evaluation.instances import InstanceCounts, count_matches
from colocam_dist.evaluation.iou import iou_inclusive
from colocam_dist.inference.score import MapMaker, Scorer
from colocam_dist.inference.shots import ShotMaps, each_shot
from colocam_dist.inference.ways import Way

__all__ = ["WayScores", "score_ways"]


@dataclass(frozen=True)
class WayScores:
    """What one way answered on a split.

    Attributes:
        frames_F: int64 ``[F]``, all frames that were looked at, ascending.
        boxes_F4: int16 ``[F, 4]``, its first box of each; zeros where it has none.
        scores: of the frames with true boxes, at the way's thresholds.
        counts: of the frames with true boxes.
        extra_seconds: what it cost beyond the published rule, per frame, on this rank.
    """

    frames_F: NDArray[np.int64]
    boxes_F4: NDArray[np.int16]
    scores: FrameScores
    counts: InstanceCounts
    extra_seconds: float


@dataclass
class _Rows:
    """Of one way on one rank, a row per frame."""

    boxes: list[NDArray[np.int16]] = field(default_factory=list)
    iou: list[NDArray[np.float64]] = field(default_factory=list)
    counts: list[tuple[int, int, int]] = field(default_factory=list)
    seconds: float = 0.0


def score_ways(
    scorer: Scorer,
    model: torch.nn.Module,
    maps: MapMaker,
    ways: Mapping[str, Way],
    frames: NDArray[np.int64],
    *,
    cut: float = 0.0,
) -> dict[str, WayScores]:
    """Answers of every way on the same maps (collective). Ranks take whole shots, so the result depends on no number.

    Args:
        scorer: says the split, sizes and ranks.
        model: makes the maps; it is put in eval mode on the device.
        maps: how.
        ways: by name.
        frames: int64 ``[F]``, ascending; what the ways get to see. Those without true boxes are not scored.
        cut: as for :func:`make_timeline`.

    Raises:
        PreemptedError: on all ranks, because one of them was asked to stop.
    """
    labeled = np.isin(frames, scorer.frames)
    rows = {name: _Rows() for name in ways}
    seen: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    predicted: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    for shot in each_shot(scorer, model, maps, frames, cut=cut):
        seen.append(shot.frames_T)
        predicted.append(shot.predicted_T)
        for name, way in ways.items():
            _add(rows[name], way, shot, scorer)
    scorer.workers.agree_to_go_on(f"scoring of split {scorer.index.split}")
    parts = scorer.workers.gather((np.concatenate(seen), np.concatenate(predicted), rows))
    seen_F, predicted_F = (np.concatenate([part[place] for part in parts]) for place in (0, 1))
    assert np.array_equal(seen_F, frames)
    return {
        name: _merged([part[2][name] for part in parts], way, scorer, (seen_F, predicted_F), labeled)
        for name, way in ways.items()
    }


def _add(rows: _Rows, way: Way, shot: ShotMaps, scorer: Scorer) -> None:
    """Append a shot's frames to the rows of a way."""
    started = time.perf_counter()
    prepared = way.prepare(shot)
    rows.seconds += time.perf_counter() - started
    for t, frame in enumerate(shot.frames_T.tolist()):
        boxes = way.boxes(prepared, t)
        rows.boxes.append(boxes.chosen_k4[0] if len(boxes.chosen_k4) else np.zeros(4, np.int16))
        truth_j4 = scorer.truth(frame)
        if len(truth_j4):
            there_k4 = boxes.chosen_k4[boxes.chosen_k4.any(1)]
            found = count_matches(there_k4, truth_j4, scorer.config.evaluation.iou)
            rows.iou.append(iou_inclusive(boxes.over_S4, truth_j4).max(1))
            rows.counts.append((found, len(there_k4), len(truth_j4)))


def _merged(
    parts: Sequence[_Rows],
    way: Way,
    scorer: Scorer,
    seen: tuple[NDArray[np.int64], NDArray[np.int64]],
    labeled_F: NDArray[np.bool_],
) -> WayScores:
    """One table of the ranks' rows, in rank order, which is that of the frames."""
    frames_F, predicted_F = seen
    frames_L = frames_F[labeled_F]
    shots = [scorer.index.shots[shot] for shot in scorer.index.frame_shot[frames_L].tolist()]
    iou_LS = np.array([row for part in parts for row in part.iou], np.float32)
    counts_L3 = np.array([row for part in parts for row in part.counts], np.int64).reshape(-1, 3)
    return WayScores(
        frames_F,
        np.array([box for part in parts for box in part.boxes], np.int16).reshape(-1, 4),
        FrameScores(
            iou_LS.reshape(len(frames_L), len(way.thresholds_S)),
            scorer.labels[[shot.label for shot in shots]],
            predicted_F[labeled_F],
            np.array([f"{shot.cls}/{shot.video}" for shot in shots], np.str_),
            frames_L,
            way.thresholds_S,
        ),
        InstanceCounts(*counts_L3.T),
        sum(part.seconds for part in parts) / max(1, len(frames_F)),
    )
