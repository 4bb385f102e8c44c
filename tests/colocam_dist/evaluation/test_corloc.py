"""CorLoc on cases with known answers, and against plain loops over published IoUs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from colocam_dist.evaluation.boxes import threshold_grid
from colocam_dist.evaluation.corloc import FrameScores, best_threshold, corloc

CLASSES = ("cat", "dog", "emu")


def scores(iou: list[list[float]], labels: list[int], predicted: list[int], videos: list[str]) -> FrameScores:
    table = np.array(iou, np.float32)
    return FrameScores(
        table,
        np.array(labels),
        np.array(predicted),
        np.array(videos),
        np.arange(len(labels)),
        threshold_grid(table.shape[1]),
    )


@pytest.fixture
def known() -> FrameScores:
    return scores(
        iou=[
            [0.6, 0.5, 0.2, 0.1],  # cat, right at 0 and 1 (0.5 counts)
            [0.7, 0.1, 0.1, 0.1],  # cat, right at 0
            [0.1, 0.6, 0.6, 0.1],  # dog, right at 1 and 2
            [0.1, 0.1, 0.8, 0.1],  # dog, right at 2
            [0.1, 0.1, 0.8, 0.1],  # dog, right at 2
        ],
        labels=[0, 0, 1, 1, 1],
        predicted=[0, 1, 1, 1, 0],
        videos=["a", "b", "c", "c", "d"],
    )


def test_the_three_rules(known: FrameScores) -> None:
    result = corloc(known, CLASSES, threshold=0.25, resamples=0)
    # By threshold: cat 100 50 0 0, dog 0 33.3 100 0; macro 50 41.7 50 0: the first of equals is threshold 0.
    assert result.corloc == pytest.approx({"validation": 100 * (1 / 2 + 1 / 3) / 2, "pooled": 50.0, "per_class": 100.0})
    assert result.micro == pytest.approx({"validation": 100 * 2 / 5, "pooled": 100 * 2 / 5, "per_class": 100.0})
    assert result.thresholds == {"validation": 0.25, "pooled": 0.0}
    assert list(result.per_class) == ["cat", "dog"], "a class without labeled frames does not enter the mean"
    assert result.per_class["dog"].per_class == 100.0
    assert result.per_class["dog"].validation == pytest.approx(100 / 3)
    assert result.per_class["cat"].frames == 2
    assert result.classification == pytest.approx(60.0)
    assert result.top1["pooled"] == pytest.approx(100 * (1 / 2 + 1 / 3) / 2), "chosen anew: not threshold 0"
    assert result.top1["per_class"] == pytest.approx(100 * (1 / 2 + 2 / 3) / 2)
    assert (result.frames, result.videos) == (5, 4)
    assert result.intervals["pooled"] is None


def test_a_higher_iou_counts_fewer(known: FrameScores) -> None:
    assert corloc(known, CLASSES, 0.25, iou=0.65, resamples=0).corloc["per_class"] == pytest.approx(
        100 * (1 / 2 + 2 / 3) / 2
    )


def test_best_threshold_takes_the_first_of_equals(known: FrameScores) -> None:
    assert best_threshold(known) == (0.0, 50.0)


def test_merging_ranks_changes_nothing(known: FrameScores) -> None:
    parts = [
        FrameScores(
            known.iou_FT[part],
            known.labels_F[part],
            known.predicted_F[part],
            known.videos_F[part],
            known.frames_F[part],
            known.thresholds_T,
        )
        for part in (slice(0, 2), slice(2, 2), slice(2, 5))
    ]
    assert corloc(FrameScores.merge(parts), CLASSES, 0.25) == corloc(known, CLASSES, 0.25)


def test_certain_results_have_no_spread() -> None:
    sure = scores([[1.0, 0.0]] * 6, [0, 0, 1, 1, 2, 2], [0] * 6, ["a", "b", "c", "d", "e", "f"])
    assert corloc(sure, CLASSES, 0.0).intervals == dict.fromkeys(("validation", "pooled", "per_class"), (100.0, 100.0))


def test_unusable_input_is_refused(known: FrameScores) -> None:
    with pytest.raises(ValueError, match="not one of the 4 evaluated"):
        corloc(known, CLASSES, 0.3)
    nothing = FrameScores(
        known.iou_FT[:0],
        known.labels_F[:0],
        known.predicted_F[:0],
        known.videos_F[:0],
        known.frames_F[:0],
        known.thresholds_T,
    )
    with pytest.raises(ValueError, match="at least one labeled frame"):
        corloc(nothing, CLASSES, 0.25)
    for label in (-1, 3):
        with pytest.raises(ValueError, match=r"labels from 0 to 2, got"):
            corloc(replace(known, labels_F=np.array([0, 0, 1, 1, label])), CLASSES, 0.25)
    with pytest.raises(ValueError, match="same thresholds"):
        FrameScores.merge([known, replace(known, thresholds_T=known.thresholds_T + 0.1)])


@pytest.mark.shared
@pytest.mark.parametrize("least", [0.3, 0.5, 0.7])
def test_the_rules_equal_plain_loops_over_published_ious(shared: Path, least: float) -> None:
    published = np.load(shared / "fixtures" / "eval_boxes.npz")
    labels, iou = published["class_id"].tolist(), published["iou_largest"]
    table = scores(iou.tolist(), labels, labels, [f"v{frame % 5}" for frame in range(len(labels))])
    table = replace(table, iou_FT=iou)
    rates = [
        [np.mean([row[t] >= least for row, label in zip(iou, labels, strict=True) if label == k]) for t in range(1000)]
        for k in range(3)
    ]
    pooled = [float(np.mean([rates[k][t] for k in range(3)])) for t in range(1000)]
    best = pooled.index(max(pooled))
    result = corloc(table, CLASSES, 0.123, iou=least, resamples=0)
    assert result.thresholds["pooled"] == best / 1000
    assert best_threshold(table, least) == pytest.approx((best / 1000, 100 * pooled[best]))
    assert result.corloc == pytest.approx(
        {
            "validation": 100 * pooled[123],
            "pooled": 100 * pooled[best],
            "per_class": 100 * float(np.mean([max(one) for one in rates])),
        }
    )
