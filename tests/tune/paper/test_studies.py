"""Trials are found by what they compute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from colocam_dist.errors import RunError
from tune.paper.figures import data_of, found_in, summary
from tune.paper.published import published
from tune.paper.studies import PaperStudy

Open = Callable[[Path], PaperStudy]
ADJACENT = {"data.sampling": "adjacent"}


def corlocs(study: PaperStudy, table: str, point: dict[str, Any], figure: str = "localizer") -> list[float]:
    return [one.value for one in study.found(table, point, figure, "corloc", "per_class")]


def test_a_folder_without_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such study"):
        PaperStudy(tmp_path)


def test_trials_of_a_point_of_all_seeds(paper_desk: Any) -> None:
    study = PaperStudy(paper_desk.sampling([81.0, 79.0, 78.0, 83.0]))
    assert corlocs(study, "table5", ADJACENT) == [81.0, 83.0]
    assert corlocs(study, "table5", {"data.sampling": "interval"}) == [78.0]
    assert corlocs(study, "table5", ADJACENT, "layercam") == [1.0, 1.0]
    assert corlocs(study, "table5", ADJACENT, "gradcam") == []
    assert study.states == "4 trials (4 finished)"


def test_trials_are_rows_of_other_tables_as_well(paper_desk: Any, metrics: Any) -> None:
    """Whatever the dimensions of their own study are called: Table 5's adjacent is Table 2's last row."""
    study = PaperStudy(paper_desk.sampling([81.0, 79.0]))
    assert corlocs(study, "table2", {"terms": "PL + ASC + CRF + CoLoc"}) == [81.0]
    assert corlocs(study, "table2", {"terms": "PL"}) == []
    assert corlocs(study, "table1", {"method": "CoLo-CAM"}) == [81.0]
    space = {"frames": {"one": {"data.n_frames": 1, "localizer.loss.colocalization.weight": 0.0}}}
    other = paper_desk.begin(space, name="other")
    paper_desk.trial(other, {"frames": "one"}, metrics(localizer=70.0))
    assert corlocs(PaperStudy(other.folder.path), "table1", {"method": "F-CAM"}) == [70.0]
    assert corlocs(PaperStudy(other.folder.path), "table2", {"terms": "PL + ASC + CRF"}) == [70.0]


def test_tables_can_share_a_folder(paper_desk: Any, metrics: Any) -> None:
    """A trial's point is then written anew in the words of the table that came last."""
    path = paper_desk.sampling([81.0, 79.0], name="paper")
    terms = {"terms": {"PL + ASC + CRF + CoLoc": {}, "PL + ASC": {"localizer.loss.frame_crf.weight": 0.0}}}
    second = paper_desk.begin(terms, name="paper")
    paper_desk.trial(second, {"terms": "PL + ASC + CRF + CoLoc"}, metrics(localizer=81.0))
    study = PaperStudy(path)
    assert study.trials == 2
    assert corlocs(study, "table5", ADJACENT) == [81.0]
    assert corlocs(study, "table5", {"data.sampling": "gaussian"}) == [79.0]
    assert corlocs(study, "table2", {"terms": "PL + ASC + CRF + CoLoc"}) == [81.0]


def test_a_variable_stands_for_its_value(paper_desk: Any, metrics: Any) -> None:
    space = {"data.n_frames": [2, 4], "localizer.loss.colocalization.weight": [3.0, 5.0]}
    study = paper_desk.begin(space, "localizer.loss.colocalization.weight=5.0")
    for n, weight, value in ((2, 5.0, 1.0), (4, 5.0, 2.0), (2, 3.0, 3.0)):
        point = {"data.n_frames": str(n), "localizer.loss.colocalization.weight": str(weight)}
        paper_desk.trial(study, point, metrics(localizer=value))
    found = PaperStudy(study.folder.path)
    assert corlocs(found, "fig2a", {"n": 2, "method": "CoLo-CAM"}) == [1.0]
    assert corlocs(found, "fig2a", {"n": 4, "method": "CoLo-CAM"}) == [2.0]
    assert corlocs(found, "fig2a", {"n": 2, "method": "TCAM"}) == []


def test_a_dimension_that_a_row_does_not_have_may_have_any_value(paper_desk: Any, metrics: Any) -> None:
    study = paper_desk.begin({"data.drop_shots": [1, 5], "data.drop_seed": [0, 7, 29]})
    for drop, seed, value in ((1, 0, 1.0), (1, 29, 2.0), (5, 7, 3.0)):
        paper_desk.trial(study, {"data.drop_shots": str(drop), "data.drop_seed": str(seed)}, metrics(localizer=value))
    assert corlocs(PaperStudy(study.folder.path), "table7", {"data.drop_shots": 1}) == [1.0, 2.0]


def test_trials_that_are_not_done_count_for_nothing(paper_desk: Any, metrics: Any) -> None:
    study = paper_desk.begin({"data.sampling": ["adjacent", "interval"]})
    paper_desk.trial(study, ADJACENT, None)
    found = PaperStudy(study.folder.path)
    assert len(found.records("table5", ADJACENT)) == 1
    assert corlocs(found, "table5", ADJACENT) == []
    assert found.states == "1 trials (1 not over)"


def test_other_settings_are_told(paper_desk: Any) -> None:
    path = paper_desk.sampling([81.0])
    told = PaperStudy(path).other_settings("table5")
    assert "classifier.epochs (100 -> 1)" in told
    assert told.endswith("more")
    assert "data.shards" not in told


def test_the_papers_test_sets_are_known_by_what_was_scored(metrics: Any) -> None:
    paper = published()
    for dataset in paper.datasets:
        found = data_of(metrics(dataset, layercam=1.0), paper)
        assert (found.label, found.why_not) == (dataset, ())
    small = data_of(metrics("mine", layercam=1.0), paper)
    assert small.label == "data/mine, split test, 224 pixels"
    (why,) = small.why_not
    assert why == "12 labeled frames in 2 classes, by class not those of 346 (YTOv1) or 1781 (YTOv2.2)"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"caveats": ["painted"]}, "caveat: painted"),
        ({"split": "val"}, "split val instead of test"),
        ({"size": 112}, "pixels 112 instead of 224"),
    ],
)
def test_the_right_frames_alone_are_not_enough(metrics: Any, change: dict[str, Any], why: str) -> None:
    found = data_of({**metrics(layercam=1.0), **change}, published())
    assert found.why_not == (why,)
    assert found.label.startswith("data/YTOv1, split ")


def test_one_frame_more_is_another_set(metrics: Any) -> None:
    changed = metrics(layercam=1.0)
    changed["methods"]["layercam"]["per_class"]["dog"]["frames"] += 1
    assert data_of(changed, published()).why_not


def test_numbers_of_one_run(metrics: Any) -> None:
    content = metrics(**{"gradcam++": 60.0}, interval=(50.0, 70.0))
    data = data_of(content, published())

    def value(of: str, rule: str = "per_class", figure: str = "gradcam_pp") -> float | None:
        found = found_in(content, data, figure, of, rule)
        return None if found is None else found.value

    assert [value("corloc", rule) for rule in ("validation", "pooled", "per_class")] == [55.0, 58.0, 60.0]
    assert (value("bird"), value("bird", "validation"), value("milliseconds")) == (61.0, 56.0, 12.3)
    assert value("corloc", figure="GradCAM++") == 60.0
    assert value("corloc", figure="gradcam") is None
    assert value("zebra") is None
    found = found_in(content, data, "gradcam_pp", "corloc", "per_class")
    assert found is not None
    one, several = summary([found], "corloc"), summary([found, found], "corloc")
    assert one is not None
    assert several is not None
    assert (one.mean, one.runs, one.std, one.interval) == (60.0, 1, None, (50.0, 70.0))
    assert (several.mean, several.runs, several.std, several.interval) == (60.0, 2, 0.0, None)
    assert (summary([found], "std"), summary([], "corloc")) == (None, None)
