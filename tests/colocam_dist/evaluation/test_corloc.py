"""CorLoc on cases with known answers, and its intervals against a slow loop."""

from __future__ import annotations

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
    assert result.thresholds == {"validation": 0.25, "pooled": 0.0}
    assert list(result.per_class) == ["cat", "dog"], "a class without labelled frames does not enter the mean"
    assert result.per_class["dog"].per_class == 100.0
    assert result.per_class["dog"].validation == pytest.approx(100 / 3)
    assert result.per_class["cat"].frames == 2
    assert result.classification == pytest.approx(60.0)
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


def test_intervals_equal_a_loop_over_the_same_draws() -> None:
    rng = np.random.default_rng(5)
    frames = 60
    labels = rng.integers(0, 3, frames)
    videos = [f"{label}-{rng.integers(0, 4)}" for label in labels]
    table = scores(rng.random((frames, 7)).tolist(), labels.tolist(), labels.tolist(), videos)
    ours = corloc(table, CLASSES, threshold=table.thresholds_T[3], resamples=200, seed=9).intervals
    draws = np.random.default_rng(9)
    right = table.iou_FT >= 0.5
    per_class: list[list[np.ndarray]] = []
    for label in range(3):
        names = sorted({video for video, one in zip(videos, labels, strict=True) if one == label})
        drawn = draws.multinomial(len(names), [1 / len(names)] * len(names), size=200)
        rates = []
        for counts in drawn:
            rows = [
                right[frame]
                for name, count in zip(names, counts, strict=True)
                for _ in range(count)
                for frame in range(frames)
                if videos[frame] == name
            ]
            rates.append(np.mean(rows, axis=0))
        per_class.append(rates)
    macro = np.mean(per_class, axis=0)
    expected = {
        "validation": macro[:, 3],
        "pooled": macro.max(1),
        "per_class": np.mean([np.max(rates, axis=1) for rates in per_class], axis=0),
    }
    for rule, values in expected.items():
        assert ours[rule] == pytest.approx(tuple(100 * np.percentile(values, [2.5, 97.5])), abs=1e-3)


def test_unusable_input_is_refused(known: FrameScores) -> None:
    with pytest.raises(ValueError, match="not one of the 4 evaluated"):
        corloc(known, CLASSES, 0.3)
    nothing = FrameScores(
        *(
            getattr(known, f"{name}_F")[:0] if name != "iou" else known.iou_FT[:0]
            for name in ("iou", "labels", "predicted", "videos", "frames")
        ),
        known.thresholds_T,
    )
    with pytest.raises(ValueError, match="at least one labelled frame"):
        corloc(nothing, CLASSES, 0.25)
