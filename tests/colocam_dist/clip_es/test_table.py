"""The table on a tiny split: its rows against scoring with one class at a time, its text, and what is said about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from colocam_dist.clip_es.checkpoint import ClipCheckpoint
from colocam_dist.clip_es.gradcam import ClipEs
from colocam_dist.clip_es.maps import CONFIGURATIONS, clip_es_maps, maps_of_all_classes
from colocam_dist.clip_es.published import PUBLISHED, format_table, warnings_about
from colocam_dist.clip_es.table import LABELS, Table, predicted_classes, score_table
from colocam_dist.config import Config, load
from colocam_dist.data.frames import FrameReader, eval_frame
from colocam_dist.data.opening import open_split
from colocam_dist.distributed import Workers
from colocam_dist.evaluation.corloc import FrameScores, best_threshold, corloc
from colocam_dist.inference.load import build_classifier
from colocam_dist.inference.score import Scorer

CLASSES = ("train", "bird", "cat")  # not in the order of the data
WORKERS = Workers(0, 0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def config(tiny_shards: Path) -> Config:
    settings = ["data.crop=40", "data.resize=48", "data.workers=0", "model.encoder=resnet18", "model.weights=none"]
    settings += ["evaluation.thresholds=20", "evaluation.bootstrap=20", "evaluation.batch=5"]
    return load(None, [f"data.shards={tiny_shards}", *settings])


@pytest.fixture(scope="module")
def scorers(config: Config) -> tuple[Scorer, Scorer]:
    def make(split: str) -> Scorer:
        return Scorer(open_split(config.data, split), config, WORKERS, 20, classes=CLASSES)

    return make("val"), make("test")


@pytest.fixture(scope="module")
def reordered(clip: ClipCheckpoint) -> ClipEs:
    return ClipEs(clip, CLASSES)


@pytest.fixture(scope="module")
def guesses(scorers: tuple[Scorer, Scorer]) -> tuple[np.ndarray, np.ndarray]:
    val, test = (np.random.default_rng(3).integers(0, 3, len(scorer.frames)) for scorer in scorers)
    return val, test


@pytest.fixture(scope="module")
def table(reordered: ClipEs, scorers: tuple[Scorer, Scorer], guesses: tuple[np.ndarray, np.ndarray]) -> Table:
    return score_table(reordered, CLASSES, scorers, guesses)


def given_one_class(model: ClipEs, configuration: str, label: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    make = clip_es_maps(model, configuration)
    return lambda images_BCHW, labels_B: make(images_BCHW, torch.full_like(labels_B, label))


def test_rows_are_in_the_order_of_the_paper(table: Table) -> None:
    assert [(row.labels, row.configuration) for row in table.rows] == list(PUBLISHED)
    assert len(PUBLISHED) == 9
    assert [len(row.results) for row in table.rows] == [1] * 6 + [3] * 3


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_rows_are_those_of_scoring_one_class_at_a_time(
    table: Table,
    reordered: ClipEs,
    scorers: tuple[Scorer, Scorer],
    guesses: tuple[np.ndarray, np.ndarray],
    configuration: str,
) -> None:
    """GT through the scorer's own labels, PR by taking the guess's frame from each, AVG by plain means."""
    rows = {row.labels: row for row in table.rows if row.configuration == configuration}
    by_class = [
        [scorer.score(reordered, given_one_class(reordered, configuration, label)) for scorer in scorers]
        for label in range(3)
    ]

    def figures(val: FrameScores, test: FrameScores) -> dict[str, float]:
        return corloc(test, CLASSES, best_threshold(val)[0], resamples=0).corloc

    true = [scorer.score(reordered, clip_es_maps(reordered, configuration)) for scorer in scorers]
    assert rows["GT"].corloc == pytest.approx(figures(*true))
    guessed = []
    for place, guess_F in enumerate(guesses):
        rows_FT = [by_class[guess][place].iou_FT[frame] for frame, guess in enumerate(guess_F)]
        guessed.append(replace(true[place], iou_FT=np.array(rows_FT)))
    assert rows["PR"].corloc == pytest.approx(figures(*guessed))
    each = [figures(*pair) for pair in by_class]
    for rule, value in rows["AVG"].corloc.items():
        assert value == pytest.approx(sum(one[rule] for one in each) / 3)


class OneRank(Workers):
    """A rank that gathers from nobody."""

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def agree_to_go_on(self, what: str) -> None:
        pass


def test_ranks_share_the_frames_and_one_may_have_none(config: Config, reordered: ClipEs) -> None:
    singly = config.evaluation.model_copy(update={"batch": 1})  # rounding depends on the batch
    index, maps = open_split(config.data, "test"), maps_of_all_classes(reordered)
    world = len(index.labeled_frames()) + 1

    def scored(workers: Workers) -> list[FrameScores]:
        settings = config.model_copy(update={"evaluation": singly})
        return Scorer(index, settings, workers, 20, classes=CLASSES).score_each(reordered, maps, 9)

    parts = [scored(OneRank(rank, 0, world, torch.device("cpu"))) for rank in (0, 1, world - 1)]
    for place, whole in enumerate(scored(WORKERS)):
        merged = FrameScores.merge([tables[place] for tables in parts])
        assert np.array_equal(merged.iou_FT, whole.iou_FT[:2])
        assert merged.labels_F.tolist() == whole.labels_F[:2].tolist()


def test_figures_beside_the_rows(table: Table, scorers: tuple[Scorer, Scorer], guesses: tuple[np.ndarray, ...]) -> None:
    labels_F = scorers[1].score_each(torch.nn.Module(), blank, 1)[0].labels_F
    assert table.classification == pytest.approx(100 * (guesses[1] == labels_F).mean())
    assert table.rows[3].results[0].classification == pytest.approx(table.classification)
    assert table.rows[0].results[0].classification == pytest.approx(table.zero_shot)
    assert table.rows[0].results[0].intervals["validation"] is None, "of each class there is one video"
    assert (table.frames, table.videos) == (len(labels_F), 3)
    assert all(value > 0 for value in table.milliseconds.values())
    assert list(table.milliseconds) == list(CONFIGURATIONS)


def blank(images_BCHW: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros(1, len(images_BCHW), 40, 40), torch.zeros(len(images_BCHW), 3)


def test_the_text_has_ours_and_the_published_figures(
    table: Table, reordered: ClipEs, scorers: tuple[Scorer, Scorer]
) -> None:
    lines = format_table(table).splitlines()
    assert [line.split()[0] for line in lines[1:10]] == [labels for labels in LABELS for _ in range(3)]
    assert lines[3].split()[-2:] == ["88.2", "84.8"]
    assert f"{table.rows[8].corloc['per_class']:.1f}" in lines[9].split("|")[0]
    assert "49.9" in lines[-1]
    without = score_table(reordered, CLASSES, scorers, None)
    assert len(without.rows) == 6
    lines = format_table(without).splitlines()
    assert lines[4].split("|")[0].split()[-3:] == ["-", "-", "-"]
    assert lines[10].startswith("PR: not computed")


def test_what_the_data_are_not_is_said(config: Config) -> None:
    told = config.model_copy(update={"data": config.data.model_copy(update={"caveats": ("Drawn by hand.",)})})
    said = warnings_about(open_split(config.data, "val"), told)
    assert said[0] == "Drawn by hand."
    assert "not YouTube-Objects but shards of frames-csv" in said[1]
    assert "this is split val, not test" in said[1]
    assert "per_class" in said[2]


def test_predicted_classes_are_the_classifiers_answers_in_the_order_of_the_frames(config: Config) -> None:
    classifier = build_classifier(config, 3, pretrained=False).eval()
    index = open_split(config.data, "test")
    reader = FrameReader(index)
    images = [eval_frame(reader.read(frame, short_side=40), 40) for frame in index.labeled_frames().tolist()]
    reader.close()
    images_FCHW = torch.from_numpy(np.stack(images))
    with torch.no_grad():
        classifier.head.bias -= classifier(images_FCHW).logits_BK.mean(0)  # so that not all answers are the same
        wanted_F = classifier(images_FCHW).logits_BK.argmax(1).tolist()
    assert len(set(wanted_F)) > 1
    assert predicted_classes(classifier, index, config, WORKERS, CLASSES).tolist() == wanted_F
