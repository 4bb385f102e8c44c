"""Intervals against a slow loop over the same draws, and where their answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from colocam_dist.evaluation.intervals import bootstrap_intervals, ratio_interval


def test_intervals_equal_a_loop_over_the_same_draws() -> None:
    rng = np.random.default_rng(5)
    frames = 60
    labels = rng.integers(0, 3, frames)
    # The same names in every class: videos of different classes must not be taken for one.
    videos = np.array([f"v{rng.integers(0, 4)}" for _ in labels])
    right = rng.random((frames, 7)) >= 0.5
    ours = bootstrap_intervals(right, labels, videos, 3, resamples=200, seed=9)
    draws = np.random.default_rng(9)
    per_class: list[list[np.ndarray]] = []
    for label in range(3):
        names = sorted({str(video) for video in videos[labels == label]})
        rates = []
        for counts in draws.multinomial(len(names), [1 / len(names)] * len(names), size=200):
            rows = [
                right[frame]
                for name, count in zip(names, counts, strict=True)
                for _ in range(count)
                for frame in range(frames)
                if videos[frame] == name and labels[frame] == label
            ]
            rates.append(np.mean(rows, axis=0))
        per_class.append(rates)
    macro = np.mean(per_class, axis=0)
    expected = {
        "validation": macro[:, 3],
        "pooled": macro.max(1),
        "per_class": np.mean([np.max(rates, axis=1) for rates in per_class], axis=0),
    }
    assert list(ours) == list(expected)
    for rule, values in expected.items():
        assert ours[rule] == pytest.approx(tuple(100 * np.percentile(values, [2.5, 97.5])), rel=1e-9)


def test_frames_of_one_video_are_drawn_together() -> None:
    right = np.array([[True]] * 50 + [[False]] * 50)
    labels = np.zeros(100, np.int64)
    two_videos = np.repeat(["a", "b"], 50)
    assert bootstrap_intervals(right, labels, two_videos, 0)["validation"] == (0.0, 100.0)
    low, high = bootstrap_intervals(right, labels, np.array([f"v{n}" for n in range(100)]), 0)["validation"]
    assert 35 < low < 45
    assert 55 < high < 65


def test_a_class_with_one_video_adds_no_width() -> None:
    right = np.array([[True], [False], [False], [False], [True], [False]])
    labels, videos = np.array([0, 0, 0, 0, 1, 1]), np.array([*"aaaa", "b", "c"])
    both = bootstrap_intervals(right, labels, videos, 0)
    assert both == dict.fromkeys(("validation", "pooled", "per_class"), (12.5, 62.5))
    assert bootstrap_intervals(right[:4], labels[:4], videos[:4], 0) == {}, "nothing is known of other videos"


def test_the_seed_decides_the_draws() -> None:
    rng = np.random.default_rng(1)
    right, videos = rng.random((40, 3)) > 0.4, np.array([f"v{n % 9}" for n in range(40)])
    first, again, other = (bootstrap_intervals(right, np.zeros(40, np.int64), videos, 1, seed=s) for s in (3, 3, 4))
    assert first == again
    assert first != other


def test_ratios_are_those_of_drawn_videos() -> None:
    values, counts = np.array([1, 0, 1, 1, 9]), np.array([1, 1, 1, 1, 0])
    videos = np.array(["a", "a", "b", "b", "c"])  # 1/2 and 2/2; what does not count has no influence
    rng = np.random.default_rng(3)
    drawn = []
    for _ in range(4000):
        a, b, _ = rng.multinomial(3, np.full(3, 1 / 3)).tolist()
        if a + b:
            drawn.append((a + 2 * b) / (2 * a + 2 * b))
    assert ratio_interval(values, counts, videos, resamples=4000) == pytest.approx(
        100 * np.percentile(drawn, [2.5, 97.5]), abs=1.0
    )


def test_a_ratio_over_one_video_or_without_resamples_has_no_interval() -> None:
    one = np.array(["a", "a", "b"])
    assert ratio_interval(np.ones(3), np.array([1, 1, 0]), one) is None
    assert ratio_interval(np.ones(3), np.ones(3), one, resamples=0) is None
    assert ratio_interval(np.zeros(0), np.zeros(0), np.zeros(0, np.str_)) is None


def test_the_difference_of_a_method_to_itself_has_no_width() -> None:
    labels, videos = np.array([0, 0, 1]), np.array(["a", "b", "c"])
    change = np.zeros((3, 1))
    assert bootstrap_intervals(change, labels, videos, 0, resamples=50)["validation"] == (0.0, 0.0)
