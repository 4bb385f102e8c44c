"""Steadiness of boxes, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from colocam_dist.evaluation.consistency import Pairs, consecutive_pairs, consistency

NOTHING = [0, 0, 0, 0]
LEFT, SHIFTED, FAR = [0, 0, 9, 9], [5, 0, 14, 9], [50, 50, 59, 59]
HALF = 50 / 150  # IoU of LEFT and SHIFTED


def test_pairs_are_neighbors_of_one_shot_that_are_near_in_time() -> None:
    numbers = np.array([3, 4, 6, 7, 1, 2, 3])
    shots = np.array([0, 0, 0, 0, 1, 1, 2])
    pairs = consecutive_pairs(numbers, shots)
    assert pairs.first_P.tolist() == [0, 2, 4]
    assert pairs.neighbors == 4
    assert consecutive_pairs(numbers, shots, 2).first_P.tolist() == [0, 1, 2, 4]
    assert consecutive_pairs(numbers[:1], shots[:1]).first_P.tolist() == []


def test_too_few_pairs_are_said_with_their_number() -> None:
    assert consecutive_pairs(np.array([0, 1, 5]), np.zeros(3)).missing() is None
    reason = consecutive_pairs(np.array([0, 1, 5, 9]), np.zeros(4), 2).missing()
    assert reason == "1 of 3 neighboring frames are at most 2 frames apart, wanted 50 %"
    alone = consecutive_pairs(np.arange(3), np.arange(3)).missing()
    assert alone == "0 of 0 neighboring frames are at most 1 frame apart, wanted 50 %"


def test_figures_by_hand() -> None:
    boxes = np.array([LEFT, SHIFTED, FAR, NOTHING, NOTHING, FAR, FAR])
    one, two = np.array([LEFT]), np.array([LEFT, FAR])
    truth = [one, one, one, np.array([SHIFTED]), two, one, np.zeros((0, 4))]
    shots = np.array(["a/v/0"] * 5 + ["b/w/0"] * 2)
    videos = np.array(["a/v"] * 5 + ["b/w"] * 2)
    pairs = consecutive_pairs(np.array([0, 1, 2, 3, 4, 0, 1]), shots)
    found = consistency(boxes, truth, pairs, shots, videos, resamples=200)
    # Pairs: HALF, 0 (jump), 0 (lost), none (both empty), and 1 in the other shot.
    assert found.iou == pytest.approx(100 * (HALF + 0 + 0 + 1) / 4)
    assert found.jumps == pytest.approx(50.0)
    # True boxes are single in both frames of the first three: 1, 1, HALF.
    assert found.truth_iou == pytest.approx(100 * (1 + 1 + HALF) / 3)
    assert found.truth_jumps == 0.0
    assert found.difference == pytest.approx(100 * ((1 - HALF) + 1 + HALF) / 3)
    assert (found.pairs, found.truth_pairs, found.empty_pairs, found.max_gap) == (4, 3, 1, 1)
    assert list(found.shots) == ["a/v/0", "b/w/0"]
    other = found.shots["b/w/0"]
    assert (other.pairs, other.iou, other.jumps, other.truth_iou, other.difference) == (1, 100.0, 0.0, None, None)
    first = found.shots["a/v/0"]
    assert first.iou == pytest.approx(100 * HALF / 3)
    assert first.jumps == pytest.approx(200 / 3)
    low, high = found.intervals["jumps"]
    assert (low, high) == pytest.approx((0.0, 200 / 3))
    assert found.intervals["difference"] is None, "of one video only"
    assert found.to_dict()["shots"]["b/w/0"]["pairs"] == 1


def test_boxes_as_steady_as_the_true_ones_have_no_distance_from_them() -> None:
    boxes = np.array([[x, 3, x + 20, 30] for x in (0, 2, 9, 9)])
    shots = np.array(["a/v/0"] * 4)
    pairs = consecutive_pairs(np.arange(4), shots)
    found = consistency(boxes + 4, [box[None] for box in boxes], pairs, shots, shots, resamples=0)
    assert found.difference == 0.0
    assert found.iou == found.truth_iou
    assert set(found.intervals.values()) == {None}


def test_nothing_found_anywhere_has_no_figures() -> None:
    shots = np.array(["a/v/0"] * 2)
    pairs = consecutive_pairs(np.arange(2), shots)
    found = consistency(np.zeros((2, 4), int), [np.array([LEFT])] * 2, pairs, shots, shots)
    assert (found.iou, found.jumps, found.difference, found.pairs, found.empty_pairs) == (None, None, None, 0, 1)
    with pytest.raises(ValueError, match="at least one pair"):
        consistency(np.zeros((2, 4)), [], Pairs(np.zeros(0, np.int64), 1, 1), shots, shots)
