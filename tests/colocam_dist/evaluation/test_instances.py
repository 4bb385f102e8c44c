"""Recall and precision of several boxes per frame, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from colocam_dist.evaluation.instances import InstanceCounts, count_matches, instance_scores

A, B, C = [0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]
A_AND_MORE = [0, 0, 9, 14]  # IoU 2/3 with A


@pytest.mark.parametrize(
    ("boxes", "truth", "found"),
    [
        ([A], [A, B], 1),
        ([A, B, C], [A, B], 2),
        ([A, A], [A], 1),  # a true box is found once
        ([A_AND_MORE, A], [A], 1),
        ([C], [A, B], 0),
        ([A], [], 0),
        ([], [A], 0),
    ],
)
def test_matches(boxes: list[list[int]], truth: list[list[int]], found: int) -> None:
    assert count_matches(np.array(boxes).reshape(-1, 4), np.array(truth).reshape(-1, 4)) == found


def test_the_smallest_iou_that_counts_counts() -> None:
    assert count_matches(np.array([A_AND_MORE]), np.array([A]), 100 / 150) == 1
    assert count_matches(np.array([A_AND_MORE]), np.array([A]), 0.67) == 0


def test_better_boxes_choose_first() -> None:
    """Greedy on purpose: the first box takes the true box that it overlaps most, though the second needs it."""
    truth = np.array([[0, 0, 9, 9], [0, 0, 9, 13]])
    first, second = [0, 0, 9, 10], [0, 0, 9, 5]
    assert count_matches(np.array([first, second]), truth, 0.5) == 1
    assert count_matches(np.array([second, first]), truth, 0.5) == 2


def test_figures_by_hand() -> None:
    counts = InstanceCounts(
        found_F=np.array([1, 2, 0, 1]), boxes_F=np.array([1, 3, 0, 2]), truth_F=np.array([1, 4, 2, 1])
    )
    scores = instance_scores(counts, np.array(["a/v", "a/v", "a/w", "a/w"]), resamples=300)
    every, several = scores["all"], scores["several"]
    assert (every.recall, every.precision, every.f1) == pytest.approx((400 / 8, 400 / 6, 800 / 14))
    assert (every.frames, every.boxes, every.truth) == (4, 6, 8)
    assert (several.recall, several.precision, several.f1) == pytest.approx((200 / 6, 200 / 3, 400 / 9))
    assert several.frames == 2
    assert every.intervals["recall"] == pytest.approx((100 / 3, 60.0))  # of one video or the other
    assert every.intervals["precision"] == pytest.approx((50.0, 75.0))
    assert several.intervals["precision"] is None, "one of the two videos has no box there"
    assert several.to_dict()["truth"] == 6


def test_without_boxes_and_without_frames_of_several() -> None:
    counts = InstanceCounts(np.zeros(2, int), np.zeros(2, int), np.ones(2, int))
    scores = instance_scores(counts, np.array(["v", "v"]), resamples=0)
    assert list(scores) == ["all"]
    assert (scores["all"].recall, scores["all"].precision, scores["all"].f1) == (0.0, None, 0.0)
