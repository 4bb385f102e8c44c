"""Entries past the paper: what is in them, what is absent, and why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from colocam_dist.config import load
from colocam_dist.evaluation.corloc import CorLoc, corloc
from colocam_dist.inference.method import MapSource
from colocam_dist.inference.past_paper import Entry, PastPaper, smoothed_thresholds
from colocam_dist.inference.past_paper_tables import past_paper_tables
from colocam_dist.inference.score import Scorer
from colocam_dist.runs.folder import RunFolder

OnRanks = Callable[[int, Callable[[Any], Any]], list[Any]]
CLASSES = ("bird", "cat")
TAU = 0.5


@pytest.fixture
def evaluate(make_scorer: Callable[..., Scorer], on_ranks: OnRanks, colors: Any) -> Callable[..., Any]:
    def run(*settings: str, smoothed: float | None = None, world: int = 1) -> tuple[list[Entry], CorLoc]:
        def rank(workers: Any) -> tuple[list[Entry], CorLoc]:
            scorer = make_scorer(workers, *settings)
            past = PastPaper(scorer, scorer.config, CLASSES)
            scores = past.score("localizer", colors, colors, TAU, smoothed)
            result = corloc(scores, CLASSES, TAU, resamples=20)
            return past.entries("localizer", result, 0.01), result

        return on_ranks(world, rank)[-1]

    return run


def test_without_settings_a_method_stays_as_it_is(evaluate: Callable[..., Any]) -> None:
    (entry,), result = evaluate()
    figures = entry.to_dict()
    reason = figures.pop("consistency")["absent"]
    assert reason == "3 of 9 neighboring frames are at most 1 frame apart, wanted 50 %"
    assert figures == {**result.to_dict(), "seconds_per_frame": 0.01}


def test_every_way_is_one_more_entry(evaluate: Callable[..., Any]) -> None:
    entries, result = evaluate("evaluation.smoothing=maps", "evaluation.boxes=all", smoothed=0.4)
    assert [entry.name for entry in entries] == ["localizer", "localizer+maps", "localizer+all"]
    plain, maps, every = (entry.to_dict() for entry in entries)
    assert plain["corloc"] == result.corloc
    assert "gain" not in plain
    assert maps["thresholds"]["validation"] == 0.4
    assert maps["corloc"].keys() == {"validation", "pooled", "per_class"}
    assert maps["gain"]["corloc"] == pytest.approx(maps["corloc"]["validation"] - result.corloc["validation"])
    low, high = maps["gain"]["interval"]
    assert low <= high
    assert "corloc" not in every
    assert plain["instances"].keys() == every["instances"].keys() == {"all", "several"}
    assert every["instances"]["all"]["boxes"] > plain["instances"]["all"]["boxes"]
    assert every["consistency"]["absent"] == "several boxes per frame are not followed"
    assert every["seconds_per_frame"] > 0.01
    json.dumps([plain, maps, every])


def test_a_path_has_no_oracle(evaluate: Callable[..., Any]) -> None:
    entries, _ = evaluate("evaluation.smoothing=viterbi")
    figures = entries[1].to_dict()
    assert entries[1].name == "localizer+viterbi"
    for name in ("corloc", "micro", "intervals", "top1", "thresholds"):
        assert list(figures[name]) == ["validation"]
    assert all(scores["pooled"] is None for scores in figures["per_class"].values())
    assert all(scores["validation"] is not None for scores in figures["per_class"].values())
    assert "instances" not in figures


def test_steadiness_is_measured_where_frames_are_near_enough(evaluate: Callable[..., Any]) -> None:
    (labeled,), _ = evaluate("evaluation.consistency.max_gap=2")
    assert labeled.to_dict()["consistency"]["pairs"] == 6
    (every,), result = evaluate("evaluation.consistency.frames=all")
    steady = every.to_dict()["consistency"]
    assert steady["pairs"] == 10
    assert steady["truth_pairs"] == 3, "pairs of which both have a box: 0-1, 5-6, and 0-1 of another shot"
    assert list(steady["shots"]) == ["bird/test-0/000", "bird/test-1/000"]
    assert every.result == result
    (none,), _ = evaluate("evaluation.consistency.frames=none")
    assert none.to_dict()["consistency"] == {"absent": "evaluation.consistency.frames is none"}


def test_ranks_agree(evaluate: Callable[..., Any]) -> None:
    settings = ("evaluation.smoothing=viterbi", "evaluation.boxes=all", "evaluation.consistency.frames=all")
    one, two = ([entry.to_dict() for entry in evaluate(*settings, world=world)[0]] for world in (1, 2))
    for figures in (*one, *two):
        figures.pop("seconds_per_frame")
    assert one == two


def test_thresholds_of_smoothed_maps_come_from_validation_and_are_kept(
    make_scorer: Callable[..., Scorer], on_ranks: OnRanks, colors: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path)
    folder.write_json("validation.json", {"localizer": {"threshold": 0.3}})

    def thresholds(workers: Any, *settings: str) -> dict[str, float]:
        own = make_scorer(workers, "evaluation.thresholds=20").config
        settings_now = load(None, ["data.shards=x", *settings]).evaluation
        source = MapSource("localizer", "localizer", colors, colors)
        return smoothed_thresholds([source], own, settings_now, folder, workers, CLASSES)

    assert on_ranks(1, thresholds) == [{}], "not asked for"
    smooth = ("evaluation.smoothing=maps", "evaluation.maps.sigma=1.5")
    found = on_ranks(2, lambda workers: thresholds(workers, *smooth))
    assert found[0] == found[1]
    stored = json.loads((tmp_path / "validation.json").read_text())
    assert stored["localizer"] == {"threshold": 0.3}
    assert stored["localizer+maps"]["threshold"] == found[0]["localizer"]
    assert stored["localizer+maps"]["sigma"] == 1.5
    monkeypatch.setattr("colocam_dist.inference.past_paper.score_ways", None)
    assert on_ranks(1, lambda workers: thresholds(workers, *smooth)) == found[:1], "not computed again"
    with pytest.raises(TypeError):
        on_ranks(1, lambda workers: thresholds(workers, *smooth[:1], "evaluation.maps.sigma=2"))


def test_tables_show_what_was_measured(evaluate: Callable[..., Any]) -> None:
    assert past_paper_tables(evaluate()[0]) == []
    settings = ("evaluation.smoothing=viterbi", "evaluation.boxes=all", "evaluation.consistency.max_gap=2")
    ways, steady, several = past_paper_tables(evaluate(*settings)[0])
    assert [row[0] for row in ways.rows] == ["localizer", "localizer+viterbi"]
    assert ways.rows[1][4:6] == ["\N{EN DASH}"] * 2
    assert [row[0] for row in steady.rows] == ["localizer", "localizer+viterbi"]
    assert [row[:2] for row in several.rows] == [
        ["all frames", "localizer"],
        ["all frames", "localizer+viterbi"],
        ["all frames", "localizer+all"],
        ["frames with several true boxes", "localizer"],
        ["frames with several true boxes", "localizer+viterbi"],
        ["frames with several true boxes", "localizer+all"],
    ]
    for table in (ways, steady, several):
        assert all(len(row) == len(table.header) for row in table.rows)
    assert all(np.char.count(row[2], "[") == 1 for row in ways.rows)
