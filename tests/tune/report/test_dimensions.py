"""What kind of dimension it is, how it is called, and where its values lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tune.report.dimensions import Dimension, dimensions_of, leading, text
from tune.report.points import grouped
from tune.results import StudyResult, TrialResult

Make = Callable[..., TrialResult]
Study = Callable[..., StudyResult]


def only(study: Study, values: Sequence[Any], trials: Sequence[TrialResult] = ()) -> Dimension:
    return dimensions_of(study(trials, {"x": values}))[0]


@pytest.mark.parametrize(
    ("values", "numeric", "scale"),
    [
        ([2, 4, 8], True, "linear"),
        ([1, 30], True, "linear"),
        ([1, 31], True, "log"),
        ([0, 0.1, 9.0], True, "symlog"),
        ([-1.0, 0.1, 9.0], True, "linear"),
        ([0], True, "linear"),
        ((1e-4, 1e-2, "log"), True, "log"),
        ((0.0, 100.0, "linear"), True, "linear"),
        ([1, None], False, "linear"),
        ([True, False], False, "linear"),
        ([[1, 2], [3]], False, "linear"),
        (["a", "b", "log"], False, "linear"),
        ([1, float("nan")], False, "linear"),
        ([], False, "linear"),
    ],
)
def test_kind_and_scale(study: Study, values: Sequence[Any], numeric: bool, scale: str) -> None:
    found = only(study, values)
    assert (found.numeric, found.scale) == (numeric, scale)


def test_shares_lie_on_the_scale(study: Study) -> None:
    assert [only(study, [2, 4, 8]).share(value) for value in (2, 4, 8)] == pytest.approx([0, 1 / 3, 1])
    assert only(study, (1e-4, 1e-2, "log")).share(1e-3) == pytest.approx(0.5)
    # 0 has half of a decade below the smallest positive value: of 2.5 decades in all.
    assert [only(study, [0, 0.1, 10.0]).share(value) for value in (0, 0.1, 10.0)] == pytest.approx([0, 0.2, 1])
    assert [only(study, ["a", None, [1]]).share(value) for value in ("a", None, [1])] == [0.0, 0.5, 1.0]
    assert only(study, [5]).share(5) == only(study, ["a"]).share("a") == 0.5


def test_values_that_were_not_declared_are_added_and_equal_numbers_are_one(trial: Make, study: Study) -> None:
    trials = [trial({"x": 1}), trial({"x": 3.5}), trial({"y": "new"})]
    found = dimensions_of(study(trials, {"x": (1.0, 5.0, "linear")}))
    assert [(one.name, one.values) for one in found] == [("x", (1, 3.5, 5.0)), ("y", ("new",))]


def test_labels_are_short_but_apart(study: Study) -> None:
    names = (
        "data.n_frames",
        "localizer.loss.colocalization.weight",
        "localizer.loss.frame_crf.weight",
        "classifier.optimizer.lr",
        "localizer.optimizer.lr",
        "model.encoder",
        "recipe",
    )
    assert [one.label for one in dimensions_of(study([], dict.fromkeys(names, (1, 2))))] == [
        "n",
        "lambda_c",
        "frame_crf.weight",
        "classifier.optimizer.lr",
        "localizer.optimizer.lr",
        "encoder",
        "recipe",
    ]


def test_texts() -> None:
    values = ["a b", 4, 0.000123456, True, None, [1, None], 3.0]
    assert [text(value) for value in values] == ["a b", "4", "0.0001235", "true", "null", "[1, null]", "3"]


def test_lines_are_drawn_by_encoder_else_by_what_explains_most(trial: Make, study: Study) -> None:
    space = {"model.encoder": ["a", "b"], "data.sampling": ["near", "far"], "flip": [True, False], "n": [1, 2]}
    trials = [
        trial(dict(zip(space, (encoder, sampling, flip, 1), strict=True)), [50.0 + 9 * (sampling == "far") + flip])
        for encoder in "ab"
        for sampling in ("near", "far")
        for flip in (True, False)
    ]
    result = study(trials, space)
    dimensions, points = dimensions_of(result), grouped(result)
    assert leading(dimensions, points).name == "model.encoder"  # type: ignore[union-attr]
    assert leading(dimensions[1:], points).name == "data.sampling"  # type: ignore[union-attr]
    assert leading(dimensions[3:], points) is None
    assert leading(dimensions_of(study([], {"encoder": [f"e{i}" for i in range(7)]})), []) is None
