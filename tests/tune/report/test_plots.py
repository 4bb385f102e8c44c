"""Every picture can be drawn of every study, and shows what it should."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from tune.report.dimension_plots import choice_plot, number_plot
from tune.report.dimensions import dimensions_of, leading
from tune.report.points import best_point, grouped
from tune.report.study_plots import learning_curves, parallel_coordinates
from tune.report.style import drawable, limits, picture, short
from tune.results import EpochRow, StudyResult, TrialResult

Make = Callable[..., TrialResult]
Study = Callable[..., StudyResult]
LONG = "a recipe whose name says everything about it and still goes on, $with_ money^ and {braces}"
HARD: dict[str, Sequence[Any]] = {
    "localizer.optimizer.lr": (1e-4, 1e-1, "log"),
    "data.n_frames": (1, 8, "linear"),
    "weight": [0.0, 0.1, 9.0],
    "channels": [None, [256, 128], [64, 32, 16]],
    "flip": [True, False],
    "recipe": [LONG, "_hidden", "日本語\n", ""],
    "one": ["only"],
}


def hard_trials(trial: Make, count: int) -> list[TrialResult]:
    """Trials all over the hard space; some have no figure, or one that is not a number."""
    draw = np.random.default_rng(5)
    found = []
    for number in range(count):
        point = {name: values[number % len(values)] for name, values in list(HARD.items())[2:]}
        point |= {
            "localizer.optimizer.lr": float(10 ** draw.uniform(-4, -1)),
            "data.n_frames": int(draw.integers(1, 9)),
        }
        curve = draw.uniform(20, 50, number % 9)
        if number % 11 == 3:
            curve[:] = math.nan
        states = ("finished", "stopped", "failed", "running", "waiting")
        found.append(trial(point, curve.tolist(), state=states[number % 5], total_epochs=9, test={"methods": None}))
    return found


def studies(trial: Make) -> Mapping[str, tuple[Sequence[TrialResult], Mapping[str, Sequence[Any]]]]:
    plain: Mapping[str, Sequence[Any]] = {"data.n_frames": [2, 4], "encoder": ["a", "b"]}
    point = {"data.n_frames": 2, "encoder": "a"}
    return {
        "none": ([], plain),
        "one": ([trial(point)], plain),
        "nothing finished": ([trial(point, [], state="waiting"), trial(point, [3.0], state="running")], plain),
        "all failed": ([trial(point, [], state="failed"), trial(point, [7.0], state="failed")], plain),
        "nan": ([trial(point, [math.nan])], plain),
        "no space": ([trial({})], {}),
        "stage 1 only": ([trial(point, [], epochs=[EpochRow(0, 40.0, 80.0)], total_epochs=0)], plain),
        "without a value": ([trial({"encoder": "a"}), trial({"data.n_frames": 4})], plain),
        "30 choices": (
            [trial({"x": f"timm/{i}"}, [float(i)]) for i in range(30)],
            {"x": [f"timm/{i}" for i in range(30)]},
        ),
        "1": (hard_trials(trial, 1), HARD),
        "200": (hard_trials(trial, 200), HARD),
    }


NAMES = (
    "none",
    "one",
    "nothing finished",
    "all failed",
    "nan",
    "no space",
    "stage 1 only",
    "without a value",
    "30 choices",
)


def drawn(figure: Figure) -> Figure:
    assert picture(figure).startswith("data:image/png;base64,iVBOR")
    return figure


def words(figure: Figure) -> list[str]:
    return [found.get_text() for found in figure.findobj(lambda one: hasattr(one, "get_text")) if found.get_visible()]


@pytest.mark.parametrize("name", [*NAMES, "1", "200"])
def test_every_picture_of_every_study_can_be_drawn(trial: Make, study: Study, name: str) -> None:
    trials, space = studies(trial)[name]
    result = study(trials, space)
    dimensions, points = dimensions_of(result), grouped(result)
    lead = leading(dimensions, points)
    for one in dimensions:
        drawn(number_plot(one, points, lead) if one.numeric else choice_plot(one, points))
    drawn(learning_curves(result.trials, lead, best_point(result)))
    drawn(parallel_coordinates(dimensions, points))


def test_lines_go_through_the_best_point_of_each_value(trial: Make, study: Study) -> None:
    trials = [
        trial({"encoder": encoder, "n": n, "other": other}, [base + n + other])
        for encoder, base in (("a", 10.0), ("b", 30.0))
        for n in (8, 2)
        for other in (0.0, 0.5)
    ]
    result = study(trials, {"encoder": ["a", "b"], "n": [2, 8], "other": [0.0, 0.5]})
    encoder, n, _ = dimensions_of(result)
    axes = number_plot(n, grouped(result), encoder).axes[0]
    lines = {
        line.get_color(): line.get_xydata().tolist()
        for line in axes.lines
        if line.get_linestyle() == "-" and line.get_marker() == "o"
    }
    assert list(lines.values()) == [[[2.0, 12.5], [8.0, 18.5]], [[2.0, 32.5], [8.0, 38.5]]]
    dots = [line for line in axes.lines if line.get_linestyle() == "None"]
    assert sum(len(line.get_xdata()) for line in dots) == len(trials)


def test_intervals_are_drawn_for_several_seeds_only(trial: Make, study: Study) -> None:
    for seeds, bars in (((0,), 0), ((0, 1, 2), 2)):
        trials = [trial({"n": n}, [40.0 + n + seed], seed=seed) for n in (2, 4) for seed in seeds]
        result = study(trials, {"n": [2, 4]}, seeds=seeds)
        point = grouped(result)[0]
        axes = number_plot(dimensions_of(result)[0], grouped(result)).axes[0]
        upright = [line for line in axes.lines if line.get_linewidth() == 1.3]
        assert len(upright) == bars
        assert not bars or [*upright[-1].get_ydata()] == [point.low, point.high]


@pytest.mark.parametrize(("values", "scale"), [([2, 8], "linear"), ([0.1, 9], "log"), ([0, 0.1, 9], "symlog")])
def test_scales(trial: Make, study: Study, values: list[float], scale: str) -> None:
    result = study([trial({"n": value}) for value in values], {"n": values})
    figure = drawn(number_plot(dimensions_of(result)[0], grouped(result)))
    assert figure.axes[0].get_xscale() == scale
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == [f"{value:g}" for value in values]


def test_a_range_shows_all_of_its_scale(trial: Make, study: Study) -> None:
    result = study([trial({"lr": 0.01})], {"lr": (1e-4, 1.0, "log")})
    low, high = number_plot(dimensions_of(result)[0], grouped(result)).axes[0].get_xlim()
    assert low < 1e-4 < 1.0 < high


def test_learning_curves_end_where_trials_ended(trial: Make, study: Study) -> None:
    trials = [
        trial(corloc=[1.0, math.nan, 3.0]),
        trial(corloc=[1.0, 2.0], state="stopped"),
        trial(corloc=[1.5], state="failed"),
        trial(corloc=[]),
    ]
    figure = drawn(learning_curves(trials, best=best_point(study(trials))))
    assert [line.get_xdata().tolist() for line in figure.axes[0].lines] == [[1, 3], [1, 2], [2], [1], [1]]
    assert {"best point", "stopped early", "failed"} <= set(words(figure))
    assert "running" not in words(figure)


def test_choices_with_one_point_each_show_their_seeds(trial: Make, study: Study) -> None:
    trials = [trial({"e": e}, [base + seed], seed=seed) for e, base in (("a", 10.0), ("b", 30.0)) for seed in (0, 1, 2)]
    result = study(trials, {"e": ["a", "b"]}, seeds=(0, 1, 2))
    figure = drawn(choice_plot(dimensions_of(result)[0], grouped(result)))
    point = best_point(result)
    assert point is not None
    assert "seed" in words(figure)
    assert [point.low, point.high] in [[*line.get_xdata()] for line in figure.axes[0].lines]


def test_of_many_choices_the_best_are_shown(trial: Make, study: Study) -> None:
    trials, space = studies(trial)["30 choices"]
    result = study(trials, space)
    labels = [
        one.get_text() for one in choice_plot(dimensions_of(result)[0], grouped(result)).axes[0].get_yticklabels()
    ]
    assert labels == [f"timm/{i}" for i in range(29, 9, -1)]


def test_a_study_without_figures_says_so(trial: Make, study: Study) -> None:
    result = study([trial({"n": 2}, [], state="failed")], {"n": [2, 4]})
    dimension, points = dimensions_of(result)[0], grouped(result)
    for figure in (
        number_plot(dimension, points),
        choice_plot(dimension, points),
        parallel_coordinates([dimension], points),
    ):
        assert "no figures yet" in words(drawn(figure))
    assert "no validation yet" in words(drawn(learning_curves(result.trials)))


def test_limits_show_small_intervals_whole_and_cut_huge_ones_off() -> None:
    low, high = limits([40.0, 50.0], [38.0, None, 52.0])
    assert 35 < low < 38
    assert 52 < high < 55
    low, high = limits([40.0, 50.0], [-90.0, 180.0])
    assert 30 < low < 40
    assert 50 < high < 60
    low, high = limits([40.0], [])
    assert high - low >= 2.0


def test_words_in_pictures() -> None:
    assert short("encoder", 10) == "encoder"
    assert short("long_name_of_encoder_a", 10) == "long_…er_a"
    assert len(short("long_name_of_encoder_a", 10)) == 10
    assert drawable("a\n b\t日 λ") == "a b ? λ"
