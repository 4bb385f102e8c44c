"""Maps averaged over time: against a plain double loop, with gaps and cuts."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from colocam_dist.inference.smoothing import smooth_each, smooth_maps
from colocam_dist.inference.timeline import TimedMap, Timeline, make_timeline


def slow(maps_THW: np.ndarray, numbers: list[int], segments: list[int], sigma: float) -> np.ndarray:
    found = []
    for t, number in enumerate(numbers):
        total, weights = np.zeros(maps_THW.shape[1:], np.float64), 0.0
        for s, other in enumerate(numbers):
            if segments[s] == segments[t] and abs(other - number) <= 3 * sigma:
                weight = math.exp(-((other - number) ** 2) / (2 * sigma**2))
                total += weight * maps_THW[s]
                weights += weight
        found.append(total / weights)
    return np.array(found)


@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.7])
def test_means_are_those_of_a_plain_loop(sigma: float) -> None:
    maps_THW = np.random.default_rng(0).random((9, 5, 7), np.float32)
    numbers, segments = [0, 1, 2, 5, 6, 7, 8, 30, 31], [0, 0, 0, 0, 0, 1, 1, 1, 2]
    ours = smooth_maps(maps_THW, Timeline(np.array(numbers), np.array(segments)), sigma)
    assert ours.dtype == np.float32
    assert ours == pytest.approx(slow(maps_THW, numbers, segments, sigma), abs=1e-6)


def test_constant_maps_stay_as_they_are_bit_by_bit() -> None:
    maps_THW = np.full((11, 3, 5), 0.3, np.float32)
    assert np.array_equal(smooth_maps(maps_THW, make_timeline(np.arange(11)), 2.0), maps_THW)


def test_nothing_crosses_a_cut() -> None:
    maps_THW = np.zeros((6, 3, 3), np.float32)
    maps_THW[3:] = 1.0
    timeline = Timeline(np.arange(6), np.array([0, 0, 0, 1, 1, 1]))
    assert np.array_equal(smooth_maps(maps_THW, timeline, 2.0), maps_THW)
    assert not np.array_equal(smooth_maps(maps_THW, make_timeline(np.arange(6)), 2.0), maps_THW)


def test_frames_far_apart_no_smoothing_and_no_frames_change_nothing() -> None:
    maps_THW = np.random.default_rng(1).random((4, 3, 3), np.float32)
    assert np.array_equal(smooth_maps(maps_THW, make_timeline(np.array([0, 10, 20, 30])), 3.0), maps_THW)
    assert np.array_equal(smooth_maps(maps_THW, make_timeline(np.arange(4)), 0.0), maps_THW)
    assert smooth_maps(maps_THW[:0], make_timeline(np.arange(0)), 1.0).shape == (0, 3, 3)


def test_results_stay_in_the_unit_interval() -> None:
    maps_THW = np.ones((7, 3, 3), np.float32)
    maps_THW[::2] = np.nextafter(np.float32(1), np.float32(0))
    smooth_THW = smooth_maps(maps_THW, make_timeline(np.arange(7)), 1.3)
    assert smooth_THW.max() <= 1.0


def test_maps_that_come_one_by_one_are_not_held_longer_than_needed() -> None:
    read = []

    def frames() -> Iterator[TimedMap]:
        for number in [0, 1, 2, 3, 4, 5, 20, 21]:
            read.append(number)
            yield TimedMap(number, 0, np.full((3, 5), number, np.float32))

    ahead = [len(read) - made for made, _ in enumerate(smooth_each(frames(), 0.7), 1)]
    assert ahead == [3, 3, 3, 3, 2, 1, 1, 0], "2.1 frames to the right, and the first one behind them"
    read.clear()
    assert [len(read) - made for made, _ in enumerate(smooth_each(frames(), 0.0), 1)] == [0] * 8


def test_wrong_input_is_refused() -> None:
    maps_THW = np.zeros((3, 2, 2), np.float32)
    with pytest.raises(ValueError, match="one map for each frame"):
        smooth_maps(maps_THW, make_timeline(np.arange(4)), 1.0)
    with pytest.raises(ValueError, match="sigma of 0 or more"):
        smooth_maps(maps_THW, make_timeline(np.arange(3)), -1.0)
    with pytest.raises(ValueError, match="sigma of 0 or more"):
        next(smooth_each([], -1.0))
