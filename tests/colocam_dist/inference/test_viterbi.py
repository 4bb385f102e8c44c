"""Paths of boxes: exact against all paths, candidates and energy against plain formulas."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from colocam_dist.config.evaluation import Viterbi
from colocam_dist.evaluation.boxes import box_at
from colocam_dist.inference.timeline import Timeline, make_timeline
from colocam_dist.inference.viterbi import box_fit, cheapest_path, find_candidates, path_boxes, transitions

FREE = Viterbi(pairwise=0.0, center=0.0, scale=0.0, prior=0.0, levels=9, min_area=0.0, candidates=50)


def blob(y: int, x: int, size: tuple[int, int] = (31, 37), height: float = 1.0, radius: float = 4.0) -> np.ndarray:
    ys, xs = np.mgrid[: size[0], : size[1]]
    return (height * np.exp(-((ys - y) ** 2 + (xs - x) ** 2) / (2 * radius**2))).astype(np.float32)


@pytest.mark.parametrize("seed", range(20))
def test_the_path_is_the_best_of_all_paths(seed: int) -> None:
    rng = np.random.default_rng(seed)
    states = rng.integers(1, 5, rng.integers(1, 6)).tolist()
    costs = [rng.random(k) for k in states]
    moves = [2.0 * rng.random((j, k)) for j, k in itertools.pairwise(states)]

    def energy(path: tuple[int, ...]) -> float:
        pairs = zip(moves, itertools.pairwise(path), strict=True)
        return sum(cost[k] for cost, k in zip(costs, path, strict=True)) + sum(move[pair] for move, pair in pairs)

    best = min(itertools.product(*map(range, states)), key=energy)
    assert tuple(cheapest_path(costs, moves).tolist()) == best


def test_the_fit_is_the_correlation_with_the_box() -> None:
    map_HW = np.random.default_rng(0).random((13, 17), np.float32)
    boxes = np.array([[2, 3, 9, 11], [0, 0, 0, 0], [16, 12, 16, 12], [0, 0, 16, 5]], np.int16)
    for fit, (x0, y0, x1, y1) in zip(box_fit(map_HW, boxes), boxes.tolist(), strict=True):
        inside = np.zeros((13, 17))
        inside[y0 : y1 + 1, x0 : x1 + 1] = 1.0
        assert fit == pytest.approx(np.corrcoef(inside.ravel(), map_HW.ravel())[0, 1], abs=1e-9)


def test_a_flat_map_and_a_box_of_everything_fit_nothing() -> None:
    whole = np.array([[0, 0, 16, 12]], np.int16)
    assert box_fit(np.full((13, 17), 0.7, np.float32), whole).tolist() == [0.0]
    assert box_fit(np.random.default_rng(0).random((13, 17), np.float32), whole).tolist() == [0.0]
    assert box_fit(np.zeros((3, 3), np.float32), whole[:0]).shape == (0,)


def test_candidates_hold_the_published_box_and_smaller_regions() -> None:
    map_HW = np.maximum(blob(8, 9), blob(22, 28, height=0.6))
    found = find_candidates(map_HW, 0.33, FREE)
    assert box_at(map_HW, 0.33).tolist() in found.boxes_k4.tolist()
    assert len(np.unique(found.boxes_k4, axis=0)) == len(found.boxes_k4)
    assert (np.diff(found.costs_k) >= 0).all()
    assert found.costs_k == pytest.approx(1.0 - box_fit(map_HW, found.boxes_k4))
    centers = found.boxes_k4[:, [0, 2]].mean(1)
    assert (centers < 15).any()
    assert (centers > 22).any(), "also where the map is weaker"


def test_limits_of_candidates() -> None:
    map_HW = np.maximum(blob(8, 9), blob(22, 28, height=0.6, radius=2.0))
    few = find_candidates(map_HW, 0.33, FREE.model_copy(update={"candidates": 3}))
    assert np.array_equal(few.boxes_k4, find_candidates(map_HW, 0.33, FREE).boxes_k4[:3])
    large = find_candidates(map_HW, 0.95, FREE.model_copy(update={"min_area": 0.05}))
    sides = large.boxes_k4[:, 2:].astype(int) - large.boxes_k4[:, :2] + 1
    kept = box_at(map_HW, 0.95).tolist()
    assert all(
        area >= 0.05 * 31 * 37 or box == kept for area, box in zip(sides.prod(1), large.boxes_k4.tolist(), strict=True)
    )
    assert kept in large.boxes_k4.tolist(), "the published box may be small"
    empty = find_candidates(np.zeros((5, 7), np.float32), 0.5, FREE)
    assert empty.boxes_k4.shape == (0, 4)
    assert empty.costs_k.shape == (0,)


def test_a_high_prior_leaves_the_boxes_of_the_published_threshold() -> None:
    maps = np.stack([np.maximum(blob(8 + t, 9), blob(22, 28 - t, height=0.9)) for t in range(5)])
    boxes = path_boxes(maps, make_timeline(np.arange(5)), 0.5, FREE.model_copy(update={"prior": 1e6}))
    assert boxes.tolist() == [box_at(map_HW, 0.5).tolist() for map_HW in maps]


def test_a_change_costs_what_the_formula_says() -> None:
    rule = Viterbi(pairwise=2.0, center=0.7, scale=0.3)
    a, b = np.array([[0, 0, 3, 3]], np.int16), np.array([[2, 0, 9, 3], [0, 0, 3, 3]], np.int16)
    overlap = 2 * 4 / (16 + 32 - 2 * 4)
    distance = 4.0 / ((math.hypot(4, 4) + math.hypot(8, 4)) / 2)
    expected = 2.0 * (1 - overlap + 0.7 * distance + 0.3 * math.log(2)) ** 2
    assert transitions(a, b, rule)[0] == pytest.approx([expected, 0.0])


def flicker() -> np.ndarray:
    """A blob that stays, and in frame 3 a stronger one elsewhere, as when the CAM finds another part for a moment."""
    steady = [blob(8, 9 + t) for t in range(7)]
    steady[3] = np.maximum(0.7 * steady[3], blob(24, 30))
    return np.stack(steady)


def test_a_momentary_jump_is_bridged_only_if_changes_cost() -> None:
    maps, timeline = flicker(), make_timeline(np.arange(7))
    centers = [box_at(map_HW, 0.5)[[0, 2]].mean() for map_HW in maps]
    assert centers[3] > 25
    jumping = path_boxes(maps, timeline, 0.5, FREE)
    assert jumping[3, [0, 2]].mean() > 20
    steady = path_boxes(maps, timeline, 0.5, FREE.model_copy(update={"pairwise": 1.0}))
    assert steady[3, [0, 2]].mean() < 16


def test_cuts_and_long_gaps_let_boxes_jump() -> None:
    rule = FREE.model_copy(update={"pairwise": 1.0})
    cut = Timeline(np.arange(7), np.array([0, 0, 0, 1, 2, 2, 2]))
    assert path_boxes(flicker(), cut, 0.5, rule)[3, [0, 2]].mean() > 20
    apart = make_timeline(np.arange(7) * 100)
    assert path_boxes(flicker(), apart, 0.5, rule)[3, [0, 2]].mean() > 20


def test_empty_maps_have_no_box_and_do_not_break_the_path() -> None:
    maps = flicker()
    maps[2] = 0.0
    rule = FREE.model_copy(update={"pairwise": 2.0})
    boxes = path_boxes(maps, make_timeline(np.arange(7)), 0.5, rule)
    assert boxes[2].tolist() == [0, 0, 0, 0]
    assert boxes[3, [0, 2]].mean() < 16
    nothing = path_boxes(np.zeros((3, 5, 7), np.float32), make_timeline(np.arange(3)), 0.5, rule)
    assert nothing.tolist() == [[0] * 4] * 3
    assert path_boxes(maps[:0], make_timeline(np.arange(0)), 0.5, rule).shape == (0, 4)


def test_the_energy_of_the_path_is_the_lowest_of_all_choices_of_candidates() -> None:
    rule = Viterbi(pairwise=0.8, center=0.5, scale=0.2, prior=0.3, levels=3, min_area=0.0, candidates=4)
    maps, numbers = flicker()[2:6], [0, 1, 3, 4]
    frames = [find_candidates(map_HW, 0.5, rule) for map_HW in maps]

    def energy(path: tuple[int, ...]) -> float:
        total = sum(float(frame.costs_k[k]) for frame, k in zip(frames, path, strict=True))
        for t in range(1, 4):
            before, after = (frames[s].boxes_k4[path[s]][None] for s in (t - 1, t))
            total += float(transitions(before, after, rule)[0, 0]) / (numbers[t] - numbers[t - 1])
        return total

    best = min(itertools.product(*(range(len(frame.costs_k)) for frame in frames)), key=energy)
    boxes = path_boxes(maps, make_timeline(np.array(numbers)), 0.5, rule)
    assert boxes.tolist() == [frame.boxes_k4[k].tolist() for frame, k in zip(frames, best, strict=True)]


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="one map for each frame"):
        path_boxes(flicker(), make_timeline(np.arange(3)), 0.5, FREE)
    with pytest.raises(ValueError, match="finite map in"):
        path_boxes(np.full((1, 3, 3), np.nan, np.float32), make_timeline(np.arange(1)), 0.5, FREE)
