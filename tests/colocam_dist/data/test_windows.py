from __future__ import annotations

from collections import Counter
from typing import get_args

import numpy as np
import pytest

from colocam_dist.data.rng import generator
from colocam_dist.data.windows import Scheme, allowed, choose, window_lengths
from colocam_dist.errors import ConfigError

SCHEMES = get_args(Scheme)


def central(frames: int, percent: int) -> list[int]:
    """The public code's rule, written down again with a list and whole percents."""
    everything = list(range(frames))
    if percent == 100 or frames in (1, 2):
        return everything
    if frames == 3:
        return [1]
    around = max(frames * percent // 100, 1) // 2 or 1
    return [frame for frame in everything if abs(frame - frames // 2) <= around]


@pytest.mark.parametrize("percent", [100, 60, 25, 1])
def test_allowed_frames_follow_the_public_rule(percent: int) -> None:
    for frames in range(1, 301):
        first, stop = allowed(frames, percent / 100)
        assert list(range(first, stop)) == central(frames, percent), frames


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("percent", [100, 60])
def test_windows_of_all_small_shots(scheme: Scheme, percent: int) -> None:
    for frames in range(1, 61):
        inside = central(frames, percent)
        for n in range(1, 17):
            rng = generator(0, frames, n, scheme)
            positions, mask = choose(frames, n, scheme, rng, central_fraction=percent / 100)
            assert (positions.dtype, mask.dtype, len(positions), len(mask)) == (np.int64, np.bool_, n, n)
            taken = positions[mask].tolist()
            assert len(taken) == min(n, len(inside))
            assert taken == sorted(set(taken))
            assert set(taken) <= set(inside)
            if len(inside) <= n:
                assert taken == inside
            assert mask.tolist() == [place < len(taken) for place in range(n)]
            assert set(positions[~mask].tolist()) <= {inside[-1]}
            if scheme == "adjacent":
                assert taken == list(range(taken[0], taken[0] + len(taken)))
            if scheme == "interval" and len(inside) >= n:
                parts = np.array_split(inside, n)
                assert all(frame in part for frame, part in zip(taken, parts, strict=True))


@pytest.mark.parametrize(("frames", "n", "percent"), [(11, 4, 100), (29, 3, 60), (5, 5, 100)])
def test_adjacent_ends_uniformly_on_every_frame_that_leaves_room(frames: int, n: int, percent: int) -> None:
    inside = central(frames, percent)
    ends = inside[n - 1 :]
    draws = 300 * len(ends)
    rng = generator(1, 0, 0, "adjacent")
    drawn = Counter(
        int(choose(frames, n, "adjacent", rng, central_fraction=percent / 100)[0][-1]) for _ in range(draws)
    )
    assert sorted(drawn) == ends
    assert sum((drawn[end] - 300) ** 2 / 300 for end in ends) < 3 * len(ends) + 10


def test_interval_is_uniform_in_each_part() -> None:
    rng = generator(1, 0, 0, "interval")
    drawn = np.array([choose(11, 3, "interval", rng)[0] for _ in range(3000)])
    for column, part in zip(drawn.T, np.array_split(np.arange(11), 3), strict=True):
        counts = np.array([(column == frame).sum() for frame in part])
        assert counts.sum() == 3000
        assert (abs(counts - 3000 / len(part)) < 4 * (3000 / len(part)) ** 0.5).all()


@pytest.mark.parametrize("width", [1 / 6, 0.05])
def test_gaussian_of_one_frame_has_the_density_of_a_gaussian(width: float) -> None:
    frames, draws = 15, 6000
    rng = generator(1, 0, 0, "gaussian")
    drawn = Counter(int(choose(frames, 1, "gaussian", rng, gaussian_width=width)[0][0]) for _ in range(draws))
    density = np.exp(-0.5 * ((np.arange(frames) - 7) / (width * frames)) ** 2)
    expected = draws * density / density.sum()
    for frame in range(frames):
        assert abs(drawn[frame] - expected[frame]) < 4.5 * max(expected[frame], 1) ** 0.5


def test_gaussian_pairs_are_drawn_one_after_another() -> None:
    """Probability of a pair without replacement, p_i p_j (1/(1-p_i) + 1/(1-p_j)), against the counts."""
    rng = generator(2, 0, 0, "gaussian")
    drawn = Counter(tuple(choose(4, 2, "gaussian", rng)[0].tolist()) for _ in range(6000))
    p = np.exp(-0.5 * ((np.arange(4) - 1.5) / (4 / 6)) ** 2)
    p /= p.sum()
    for i in range(4):
        for j in range(i + 1, 4):
            expected = 6000 * p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j]))
            assert abs(drawn[i, j] - expected) < 4.5 * max(expected, 1) ** 0.5


def test_a_very_narrow_gaussian_still_fills_the_window() -> None:
    positions, mask = choose(60, 16, "gaussian", generator(0, 0, 0, "x"), gaussian_width=1e-4)
    assert mask.all()
    assert positions.tolist() == list(range(22, 38))


def test_published_adjacent_windows_get_short_near_the_start() -> None:
    """The last frame is uniform over all, so (n - 1) / z of the windows have fewer than n frames."""
    frames, n, draws = 9, 4, 4000
    rng = generator(3, 0, 0, "published")
    lasts, lengths = Counter(), Counter()
    for _ in range(draws):
        positions, mask = choose(frames, n, "adjacent", rng, rules="published")
        kept = positions[mask]
        assert kept.tolist() == list(range(kept[0], kept[0] + len(kept)))
        assert (positions[~mask] == kept[-1]).all()
        assert len(kept) == min(n, kept[-1] + 1)
        lasts[int(kept[-1])] += 1
        lengths[len(kept)] += 1
    for last in range(frames):
        assert abs(lasts[last] - draws / frames) < 4.5 * (draws / frames) ** 0.5
    short = sum(lengths[length] for length in range(1, n))
    assert abs(short - draws * (n - 1) / frames) < 4.5 * (draws * (n - 1) / frames) ** 0.5


def test_published_adjacent_windows_stay_in_the_central_part() -> None:
    rng = generator(4, 0, 0, "published")
    inside = set(central(20, 60))
    for _ in range(300):
        positions, _ = choose(20, 5, "adjacent", rng, central_fraction=0.6, rules="published")
        assert set(positions.tolist()) <= inside


def test_published_gaussian_is_one_plus_a_density_of_one_frame() -> None:
    frames, draws = 9, 9000
    rng = generator(5, 0, 0, "published")
    drawn = Counter(int(choose(frames, 1, "gaussian", rng, rules="published")[0][0]) for _ in range(draws))
    weight = 1 + np.exp(-0.5 * (np.arange(frames) - 4.0) ** 2) / (2 * np.pi) ** 0.5
    expected = draws * weight / weight.sum()
    for frame in range(frames):
        assert abs(drawn[frame] - expected[frame]) < 4.5 * expected[frame] ** 0.5


@pytest.mark.parametrize("scheme", ["adjacent", "gaussian"])
@pytest.mark.parametrize("frames", [1, 3, 5])
def test_rules_agree_when_the_window_takes_all(scheme: Scheme, frames: int) -> None:
    both = [choose(frames, 5, scheme, generator(0, 0, 0, "x"), rules=rules) for rules in ("full", "published")]
    assert both[0][0].tolist() == both[1][0].tolist() == [min(frame, frames - 1) for frame in range(5)]
    assert both[0][1].tolist() == both[1][1].tolist()


@pytest.mark.parametrize("fraction", [1.0, 0.6, 0.3])
def test_lengths_of_many_windows_are_those_of_each(fraction: float) -> None:
    frames = np.array([1, 2, 3, 4, 9, 30, 3, 300])
    rng = generator(0, 0, 0, "x")
    masks = [choose(int(t), 4, "adjacent", rng, central_fraction=fraction)[1] for t in frames]
    assert window_lengths(frames, 4, fraction).tolist() == [int(mask.sum()) for mask in masks]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"n_available": 0}, "no frames"),
        ({"n": 0}, "needs frames"),
        ({"scheme": "random"}, "adjacent, interval, gaussian"),
        ({"central_fraction": 0.0}, "central fraction"),
        ({"central_fraction": 1.5}, "central fraction"),
        ({"rules": "ours"}, "full, published"),
        ({"gaussian_width": 0.0}, "width"),
        ({"gaussian_width": float("nan")}, "width"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, object], text: str) -> None:
    arguments = {"n_available": 9, "n": 2, "scheme": "adjacent", "rng": generator(0, 0, 0, "x"), **change}
    with pytest.raises(ConfigError, match=text):
        choose(**arguments)  # type: ignore[arg-type]
