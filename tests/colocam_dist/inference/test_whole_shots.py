"""Ways past the paper are scored beside the published one, on any number of ranks with the same result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from colocam_dist.config.evaluation import Evaluation, Instances, MapSmoothing, Viterbi
from colocam_dist.evaluation.boxes import box_at
from colocam_dist.evaluation.instances import count_matches
from colocam_dist.evaluation.iou import iou_inclusive
from colocam_dist.inference.score import Scorer
from colocam_dist.inference.shots import each_shot, frames_of_shots
from colocam_dist.inference.smoothing import smooth_maps
from colocam_dist.inference.ways import GridWay, InstanceWay, PathWay, Way, clip_boxes, clip_instances
from colocam_dist.inference.whole_shots import WayScores, score_ways

OnRanks = Callable[[int, Callable[[Any], Any]], list[Any]]
TAU = 0.5
IOU = 0.1  # maps of colors know nothing of boxes
RULE = Viterbi(pairwise=2.0, prior=0.5, levels=5)
SEVERAL = Instances(min_area=0.01)


def ways(scorer: Scorer) -> dict[str, Way]:
    return {
        "": GridWay(scorer.thresholds, TAU),
        "maps": GridWay(scorer.thresholds, TAU, 1.5),
        "viterbi": PathWay(TAU, RULE),
        "all": InstanceWay(TAU, SEVERAL),
    }


@pytest.fixture
def score(make_scorer: Callable[..., Scorer], on_ranks: OnRanks, colors: Any) -> Callable[[int], Any]:
    def on(world: int) -> list[tuple[Scorer, dict[str, WayScores]]]:
        def rank(workers: Any) -> tuple[Scorer, dict[str, WayScores]]:
            scorer = make_scorer(workers, f"evaluation.iou={IOU}")
            frames = frames_of_shots(scorer.index, scorer.frames)
            return scorer, score_ways(scorer, colors, colors, ways(scorer), frames, cut=0.05)

        return on_ranks(world, rank)

    return on


def test_the_way_of_the_paper_scores_as_the_scorer_does(score: Callable[[int], Any], colors: Any) -> None:
    scorer, found = score(1)[0]
    plain, expected = found[""].scores, scorer.score(colors, colors)
    for name in ("iou_FT", "labels_F", "predicted_F", "videos_F", "frames_F", "thresholds_T"):
        assert np.array_equal(getattr(plain, name), getattr(expected, name)), name


@pytest.mark.parametrize("world", [2, 3, 6])
def test_the_number_of_ranks_changes_nothing(score: Callable[[int], Any], world: int) -> None:
    _, alone = score(1)[0]
    for _, found in score(world):
        for name, one in alone.items():
            other = found[name]
            assert np.array_equal(other.frames_F, one.frames_F)
            assert np.array_equal(other.boxes_F4, one.boxes_F4)
            assert np.array_equal(other.scores.iou_FT, one.scores.iou_FT)
            assert np.array_equal(other.scores.predicted_F, one.scores.predicted_F)
            assert np.array_equal(other.counts.found_F, one.counts.found_F)
            assert np.array_equal(other.counts.boxes_F, one.counts.boxes_F)


def test_boxes_and_scores_are_those_of_the_functions_for_clips(score: Callable[[int], Any], colors: Any) -> None:
    scorer, found = score(1)[0]
    shots = list(each_shot(scorer, colors, colors, found[""].frames_F, cut=0.05))
    for name, smoothing in (("", "none"), ("maps", "maps"), ("viterbi", "viterbi")):
        settings = Evaluation(smoothing=smoothing, maps=MapSmoothing(sigma=1.5), viterbi=RULE, instances=SEVERAL)
        boxes = np.concatenate([clip_boxes(shot.maps_THW, shot.timeline, TAU, settings) for shot in shots])
        assert np.array_equal(boxes, found[name].boxes_F4)
        tau = scorer.thresholds.tolist().index(TAU) if name != "viterbi" else 0
        labeled = np.isin(found[name].frames_F, scorer.frames)
        pairs = zip(boxes[labeled], found[name].scores.frames_F.tolist(), strict=True)
        iou = [iou_inclusive(box[None], scorer.truth(frame)).max() for box, frame in pairs]
        assert found[name].scores.iou_FT[:, tau] == pytest.approx(iou)
    several = [boxes for shot in shots for boxes in clip_instances(shot.maps_THW, TAU, settings)]
    counted = [len(boxes.boxes_k4) for boxes, is_labeled in zip(several, labeled, strict=True) if is_labeled]
    assert found["all"].counts.boxes_F.tolist() == counted
    assert max(counted) > 1
    chosen = [boxes for boxes, is_labeled in zip(several, labeled, strict=True) if is_labeled]
    matches = [
        count_matches(boxes.boxes_k4, scorer.truth(frame), IOU)
        for boxes, frame in zip(chosen, scorer.frames.tolist(), strict=True)
    ]
    assert found["all"].counts.found_F.tolist() == matches
    assert sum(matches) > sum(found[""].counts.found_F)
    assert found["all"].scores.iou_FT.shape == (13, 0), "CorLoc does not apply"
    assert found[""].counts.boxes_F.tolist() == [1] * 13
    assert set(found[""].counts.truth_F.tolist()) == {1, 2}


def test_smoothing_uses_frames_without_boxes_and_keeps_shots_apart(score: Callable[[int], Any], colors: Any) -> None:
    scorer, found = score(1)[0]
    shots = list(each_shot(scorer, colors, colors, found[""].frames_F))
    assert len(found["maps"].boxes_F4) == 17
    first = smooth_maps(shots[0].maps_THW, shots[0].timeline, 1.5)
    assert found["maps"].boxes_F4[3].tolist() == box_at(first[3], TAU).tolist()
    alone = found["maps"].boxes_F4[7], found[""].boxes_F4[7]
    assert alone[0].tolist() == alone[1].tolist(), "the only frame of its shot"
    far = found["maps"].boxes_F4[-4:], found[""].boxes_F4[-4:]
    assert np.array_equal(*far), "seven frames apart, more than three sigmas"
    assert not np.array_equal(found["maps"].boxes_F4[:7], found[""].boxes_F4[:7])


def test_only_what_is_beyond_the_published_rule_is_timed(score: Callable[[int], Any]) -> None:
    _, found = score(1)[0]
    assert 0 <= found[""].extra_seconds < found["viterbi"].extra_seconds < 1
