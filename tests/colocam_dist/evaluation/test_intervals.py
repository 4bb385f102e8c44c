"""Intervals against a slow loop over the same draws, and where their answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from colocam_dist.evaluation.intervals import bootstrap_intervals


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
    right = np.array([[True], [False], [False], [False]])
    alone = bootstrap_intervals(right, np.zeros(4, np.int64), np.array(["a"] * 4), 0)
    assert alone == dict.fromkeys(("validation", "pooled", "per_class"), (25.0, 25.0))


def test_the_seed_decides_the_draws() -> None:
    rng = np.random.default_rng(1)
    right, videos = rng.random((40, 3)) > 0.4, np.array([f"v{n % 9}" for n in range(40)])
    first, again, other = (bootstrap_intervals(right, np.zeros(40, np.int64), videos, 1, seed=s) for s in (3, 3, 4))
    assert first == again
    assert first != other
