"""Which trials belong together, what their mean is made of, and which point is the best."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from tune.report import best_point, grouped
from tune.results import StudyResult, TrialResult

Make = Callable[..., TrialResult]
Study = Callable[..., StudyResult]
A, B, C = ({"data.n_frames": n} for n in (2, 4, 8))


def test_mean_and_interval_over_seeds(trial: Make, study: Study) -> None:
    found = grouped(
        study([trial(A, [1.0, top, 2.0], seed=seed) for seed, top in enumerate((50.0, 52.0, 54.0))], seeds=[0, 1, 2])
    )
    assert len(found) == 1
    assert (found[0].n, found[0].mean, found[0].complete) == (3, 52.0, True)
    assert found[0].low == pytest.approx(52 - 4.968275, abs=1e-5)
    assert found[0].high == pytest.approx(52 + 4.968275, abs=1e-5)
    assert found[0].by_seed == {0: 50.0, 1: 52.0, 2: 54.0}
    assert (found[0].epochs, found[0].total_epochs, found[0].seconds) == (9, 9, 180.0)


def test_failed_trials_are_counted_but_not_in_the_mean(trial: Make, study: Study) -> None:
    result = study([trial(A, [40.0]), trial(A, [90.0], seed=1, state="failed")], seeds=[0, 1])
    point = grouped(result)[0]
    assert (point.n, point.mean, point.low, point.failed, point.complete) == (1, 40.0, None, 1, False)


def test_stopped_trials_count_with_their_best_and_are_marked(trial: Make, study: Study) -> None:
    point = best_point(study([trial(A, [10.0, 30.0, 20.0], state="stopped", total_epochs=9)]))
    assert point is not None
    assert (point.mean, point.stopped, point.complete) == (30.0, 1, True)


def test_an_incomplete_point_is_best_only_as_long_as_none_is_complete(trial: Make, study: Study) -> None:
    part = trial(A, [80.0])
    whole = [trial(B, [30.0], seed=0), trial(B, [32.0], seed=1, state="stopped")]
    running = trial(A, [85.0], seed=1, state="running")
    assert best_point(study([part], seeds=[0, 1])).point == A  # type: ignore[union-attr]
    result = study([part, running, *whole], seeds=[0, 1])
    assert [(point.point, point.complete) for point in grouped(result)] == [(B, True), (A, False)]
    assert best_point(result).mean == 31.0  # type: ignore[union-attr]
    over = replace(result, trials=[part, replace(running, state="finished"), *whole])
    assert best_point(over).point == A  # type: ignore[union-attr]


def test_a_seed_without_a_figure_leaves_its_point_incomplete(trial: Make, study: Study) -> None:
    result = study(
        [trial(A, [90.0]), trial(A, [math.nan], seed=1), trial(B, [10.0]), trial(B, [10.0], seed=1)], seeds=[0, 1]
    )
    assert [(point.point, point.n) for point in grouped(result)] == [(B, 2), (A, 1)]


def test_equals_are_ordered_by_number_whatever_the_order_of_the_trials(trial: Make, study: Study) -> None:
    trials = [trial(A, [50.0], number=3), trial(B, [50.0], number=1), trial(C, [50.0], number=2)]
    assert [point.number for point in grouped(study(trials))] == [1, 2, 3]


def test_points_without_a_figure_come_last_and_are_never_best(trial: Make, study: Study) -> None:
    waiting, failed = trial(A, [], state="waiting"), trial(B, [], state="failed")
    assert best_point(study([waiting, failed])) is None
    assert best_point(study([])) is None
    assert [p.mean for p in grouped(study([waiting, failed, trial(C, [1.0])]))] == [1.0, None, None]


def test_a_seed_that_was_tried_twice_is_one_seed(trial: Make, study: Study) -> None:
    point = grouped(study([trial(A, [40.0]), trial(A, [44.0]), trial(A, [50.0], seed=1)], seeds=[0, 1]))[0]
    assert (point.n, point.mean, len(point.trials)) == (2, 47.0, 3)


def test_values_of_other_types_are_other_points(trial: Make, study: Study) -> None:
    values = [True, 1, "1", None, "null", [1, 2], [1, 2, 3], False, 0]
    assert len(grouped(study([trial({"x": value}) for value in values]))) == len(values)


def test_order_of_a_points_dimensions_does_not_matter(trial: Make, study: Study) -> None:
    assert len(grouped(study([trial({"a": 1, "b": 2}), trial({"b": 2, "a": 1}, seed=1)]))) == 1


def test_test_figures_do_not_choose(realistic: StudyResult) -> None:
    swapped = [
        replace(t, test={"methods": {"localizer": {"corloc": {"validation": 100.0 - t.number / 10}}}})
        for t in realistic.trials
    ]
    assert [p.point for p in grouped(replace(realistic, trials=swapped))] == [p.point for p in grouped(realistic)]
