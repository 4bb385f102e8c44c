"""Statistics against SciPy and numbers worked out by hand; figures of trials with and without gaps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from scipy import stats

from tune.report.figures import best_row, class_table, corloc_on_test, mean_interval, number, student_t
from tune.results import TrialResult


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 30, 199])
def test_student_t_is_that_of_scipy(freedom: int) -> None:
    assert student_t(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-10)


def test_interval_by_hand() -> None:
    # Variance (4 + 0 + 4) / 2 = 4, standard error 2 / sqrt(3), t of two degrees of freedom 4.302653.
    mean, low, high = mean_interval([50.0, 52.0, 54.0])
    assert mean == 52.0
    assert (low, high) == (pytest.approx(52 - 4.968275, abs=1e-5), pytest.approx(52 + 4.968275, abs=1e-5))


def test_one_value_has_no_interval_and_none_has_no_mean() -> None:
    assert mean_interval([7.0]) == (7.0, None, None)
    assert mean_interval([]) == (None, None, None)
    assert mean_interval([3.0, 3.0]) == (3.0, 3.0, 3.0)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "1", True, [1]])
def test_what_is_no_finite_number(value: object) -> None:
    assert number(value) is None


def test_best_row_is_the_trials_best_but_passes_over_nan(trial: Callable[..., TrialResult]) -> None:
    tied = trial(corloc=[1.0, 5.0, 5.0, 2.0])
    assert best_row(tied) == tied.best
    assert best_row(trial(corloc=[math.nan, 3.0, math.nan])).corloc == 3.0  # type: ignore[union-attr]
    assert best_row(trial(corloc=[math.nan])) is None
    assert best_row(trial(corloc=[])) is None


def test_test_figures_are_those_of_the_localizer_if_there_is_one(
    trial: Callable[..., TrialResult], metrics: Callable[..., dict[str, Any]]
) -> None:
    both, alone = trial(test=metrics(40.0, 55.0)), trial(test=metrics(40.0, None))
    assert [corloc_on_test(both, rule) for rule in ("validation", "pooled", "per_class")] == [55.0, 56.5, 59.0]
    assert corloc_on_test(alone) == 40.0
    assert {tuple(scores) for scores in class_table(both).values()} == {("layercam", "localizer")}
    assert {tuple(scores) for scores in class_table(alone).values()} == {("layercam",)}


@pytest.mark.parametrize(
    "test", [None, {}, {"methods": {}}, {"methods": {"localizer": {"corloc": {"validation": math.nan}}}}]
)
def test_no_test_figures(trial: Callable[..., TrialResult], test: dict[str, object] | None) -> None:
    assert corloc_on_test(trial(test=test)) is None
    assert class_table(trial(test=test)) == {}
