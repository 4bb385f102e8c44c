"""The paper's Table 8 on any labeled split: three configurations, with true, predicted and every class as input.

Shape suffixes: F labeled frames, K classes, T thresholds, B frames of a batch, H and W the image size.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from colocam_dist.clip_es.gradcam import ClipEs, Rivals
from colocam_dist.clip_es.maps import CONFIGURATIONS, clip_es_maps, maps_of_all_classes
from colocam_dist.config import Config
from colocam_dist.data.frame_stream import FrameStream
from colocam_dist.data.index import ShotIndex
from colocam_dist.distributed import Workers
from colocam_dist.evaluation.boxes import box_at
from colocam_dist.evaluation.corloc import RULES, CorLoc, FrameScores, best_threshold, corloc
from colocam_dist.inference.score import MapMaker, Scorer
from colocam_dist.models.localizer import Classifier

__all__ = ["LABELS", "Row", "Table", "predicted_classes", "score_table"]

LABELS = ("GT", "PR", "AVG")
"""The class given to CLIP-ES: the true one, a classifier's answer, or each one in turn with the mean over them."""
TIMED_FRAMES = 64
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        labels: one of LABELS.
        configuration: one of CONFIGURATIONS.
        corloc: macro CorLoc by rule, percent; for AVG the mean over the input classes, each with thresholds of its own.
        results: everything about it: one entry for GT and PR; for AVG one per input class, in label order.
    """

    labels: str
    configuration: str
    corloc: dict[str, float]
    results: tuple[CorLoc, ...]

    def to_dict(self) -> dict[str, Any]:
        """json-able."""
        results = [result.to_dict() for result in self.results]
        return {**vars(self), "results": results}


@dataclass(frozen=True)
class Table:
    """The rows that could be computed, in the paper's order, and what they cost.

    Attributes:
        rows: nine, or six without predicted classes.
        classification: accuracy of the predicted classes, percent; None without them.
        zero_shot: accuracy of CLIP's own nearest class prompt, from the patches' mean, percent.
        milliseconds: network, map and box per frame by configuration, without reading the frame.
        frames: labeled frames of the split.
        videos: videos that they are from.
    """

    rows: tuple[Row, ...]
    classification: float | None
    zero_shot: float
    milliseconds: dict[str, float]
    frames: int
    videos: int


def predicted_classes(
    classifier: Classifier, index: ShotIndex, config: Config, workers: Workers, classes: Sequence[str]
) -> Labels:
    """A run's classifier's answer for every labeled frame, int64 ``[F]`` (collective).

    Args:
        classifier: its weights are those of the run.
        index: the split.
        config: the run's settings, which say how large its frames are.
        workers: this rank.
        classes: the run's classes in label order.

    Raises:
        DataError: no labeled frame, or a class that the run does not know.
    """

    def no_maps(images_BCHW: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        return images_BCHW.new_zeros(images_BCHW[:, 0].shape), classifier(images_BCHW).logits_BK

    return Scorer(index, config, workers, 1, classes=classes).score(classifier, no_maps).predicted_F


def score_table(
    model: ClipEs,
    classes: Sequence[str],
    scorers: tuple[Scorer, Scorer],
    predicted: tuple[Labels, Labels] | None,
    *,
    initial: Rivals = "classes",
) -> Table:
    """Score every row (collective).

    Each frame is mapped for every class, once per split; the rows only choose among these maps, so that GT, PR and AVG
    are about the same boxes. The validation rule's threshold is chosen on the validation split for each row by itself,
    with labels of the same kind; for AVG for each input class by itself.

    Args:
        model: the network, with one prompt per class.
        classes: names in label order.
        scorers: of the validation split and of the evaluated one, with equal thresholds.
        predicted: the classes that a classifier predicts on the two splits, int64 ``[F]`` each, in the order of the
            scorers' frames; None leaves PR out.
        initial: see :func:`~colocam_dist.clip_es.maps.clip_es_maps`.
    """
    maps = maps_of_all_classes(model, initial=initial)
    count = len(CONFIGURATIONS) * len(classes)
    val, test = (scorer.score_each(model, maps, count) for scorer in scorers)
    scorer = scorers[1]
    rows = []
    for labels in LABELS:
        for place, configuration in enumerate(CONFIGURATIONS):
            part = slice(place * len(classes), (place + 1) * len(classes))
            val_inputs, test_inputs = (
                _inputs(labels, split[part], guess_F)
                for split, guess_F in zip((val, test), predicted or (None, None), strict=True)
            )
            results = [
                _result(*pair, classes, scorer.config, resamples=labels != "AVG")
                for pair in zip(val_inputs, test_inputs, strict=True)
            ]
            if results:
                mean = {rule: float(np.mean([result.corloc[rule] for result in results])) for rule in RULES}
                rows.append(Row(labels, configuration, mean, tuple(results)))
    tau = {row.configuration: row.results[0].thresholds["validation"] for row in rows if row.labels == "GT"}
    return Table(
        tuple(rows),
        None if predicted is None else 100.0 * float((predicted[1] == test[0].labels_F).mean()),
        100.0 * float((test[0].predicted_F == test[0].labels_F).mean()),
        {name: 1000 * _seconds(clip_es_maps(model, name, initial=initial), scorer, tau[name]) for name in tau},
        len(test[0].labels_F),
        len(np.unique(test[0].videos_F)),
    )


def _inputs(labels: str, by_class: list[FrameScores], predicted_F: Labels | None) -> list[FrameScores]:
    """The tables of a row, from those of every input class: one for GT and PR, all for AVG, none for PR without it."""
    if labels == "AVG":
        return by_class
    chosen_F = by_class[0].labels_F if labels == "GT" else predicted_F
    if chosen_F is None:
        return []
    frames = np.arange(len(chosen_F))
    iou_FT = np.stack([scores.iou_FT for scores in by_class])[chosen_F, frames]
    answers_F = by_class[0].predicted_F if labels == "GT" else chosen_F
    return [replace(by_class[0], iou_FT=iou_FT, predicted_F=answers_F)]


def _result(val: FrameScores, test: FrameScores, classes: Sequence[str], config: Config, *, resamples: bool) -> CorLoc:
    """Figures on the evaluated split with the threshold that validation chooses."""
    settings = config.evaluation
    return corloc(
        test,
        classes,
        best_threshold(val, settings.iou)[0],
        iou=settings.iou,
        resamples=settings.bootstrap if resamples else 0,
        seed=config.run.seed,
    )


def _seconds(maps: MapMaker, scorer: Scorer, threshold: float) -> float:
    """Per frame, for the true class, over a few dozen frames that are already in memory."""
    config, device = scorer.config, scorer.workers.device
    frames = scorer.frames[:TIMED_FRAMES]
    stream = FrameStream(scorer.index, frames, crop=config.data.crop, batch=config.evaluation.batch)
    batches = [(batch.images_NCHW.to(device), scorer.model_labels(batch.labels_N)) for batch in stream]
    maps(*batches[0])  # the first call pays for set-up
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    for images_BCHW, labels_B in batches:
        for map_HW in maps(images_BCHW, labels_B)[0].cpu().numpy():
            box_at(map_HW, threshold)
    return (time.perf_counter() - started) / len(frames)
