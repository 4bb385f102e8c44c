"""Evaluates a run: CorLoc of stage 1's LayerCAM and of the localizer, ``metrics.json`` and ``report.html``."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from colocam_dist.config import Config, load
from colocam_dist.config.locations import location_name
from colocam_dist.data.frame_stream import FrameStream
from colocam_dist.data.opening import open_split
from colocam_dist.distributed import Workers
from colocam_dist.errors import RunError
from colocam_dist.evaluation.boxes import box_at
from colocam_dist.evaluation.corloc import best_threshold, corloc
from colocam_dist.inference.load import load_classifier, load_localizer
from colocam_dist.inference.method import Method
from colocam_dist.inference.past_paper import Entry, PastPaper, smoothed_thresholds
from colocam_dist.inference.past_paper_tables import past_paper_tables
from colocam_dist.inference.score import MapMaker, Scorer, layercam_maps, localizer_maps
from colocam_dist.inference.summary_page import write_summary
from colocam_dist.runs.folder import RunFolder

__all__ = ["evaluate_run", "run_classes"]

log = logging.getLogger(__name__)
TIMED_FRAMES = 64


def evaluate_run(config: Config, folder: RunFolder, workers: Workers) -> Path:
    """Score every method of the run on ``data.split`` of ``data.shards`` (collective); returns the folder written to.

    The run's own split goes into the run's folder; any other data into ``evaluations/<shards>-<split>`` below it. The
    validation threshold is always that of the run's own validation split.

    Raises:
        DataError: shards that cannot be read, no boxes, or classes that the run does not know.
        RunError: the run has no trained classifier.
    """
    classes = run_classes(folder)
    index = open_split(config.data, config.data.split)
    own = load(folder.config_path)
    same = (own.data.shards, own.data.split) == (config.data.shards, config.data.split)
    target = (
        folder.path
        if same
        else folder.path / "evaluations" / f"{location_name(config.data.shards)}-{config.data.split}"
    )
    thresholds = _validation_thresholds(own, folder, workers, classes)
    models = _models(own, folder, classes)
    smoothed = smoothed_thresholds(models, own, config.evaluation, folder, workers, classes)
    scorer = Scorer(index, config, workers, config.evaluation.thresholds, classes=classes)
    past = PastPaper(scorer, config, classes)
    methods = []
    for name, (model, maps) in models.items():
        scores = past.score(name, model, maps, thresholds[name], smoothed.get(name))
        result = corloc(
            scores,
            classes,
            thresholds[name],
            iou=config.evaluation.iou,
            resamples=config.evaluation.bootstrap,
            seed=config.run.seed,
        )
        seconds = _seconds_per_frame(model, maps, scorer, thresholds[name])
        methods.append(Method(name, model, maps, scores, result, seconds))
    if workers.is_main:
        entries = [entry for m in methods for entry in past.entries(m.name, m.result, m.seconds_per_frame)]
        target.mkdir(parents=True, exist_ok=True)
        RunFolder(target).write_json("metrics.json", _metrics(methods[-1].name, entries, classes, config))
        write_summary(target / "report.html", methods, scorer, config, folder, tables=past_paper_tables(entries))
        for entry in entries:
            log.info("%s on %s: %s", entry.name, config.data.split, entry.summary())
    workers.barrier()
    return target


def run_classes(folder: RunFolder) -> tuple[str, ...]:
    """The classes that a run was trained on, in label order.

    Raises:
        RunError: the run has not been started.
    """
    classes = folder.read_json("classes.json")
    if classes is None:
        raise RunError("the run has no classes.json", where=folder.path, fix="train it first")
    return tuple(classes)


def _models(config: Config, folder: RunFolder, classes: tuple[str, ...]) -> dict[str, tuple[nn.Module, MapMaker]]:
    """Every method of the run that has weights: stage 1's LayerCAM, then the localizer."""
    classifier = load_classifier(config, folder, len(classes), "best-localization")
    found: dict[str, tuple[nn.Module, MapMaker]] = {"layercam": (classifier, layercam_maps(classifier))}
    if folder.weights("localizer", "best-localization").is_file():
        localizer = load_localizer(config, folder, len(classes))
        found["localizer"] = (localizer, localizer_maps(localizer))
    return found


def _validation_thresholds(
    config: Config, folder: RunFolder, workers: Workers, classes: tuple[str, ...]
) -> dict[str, float]:
    """tau of each method on the run's own validation split; kept in ``validation.json`` (collective)."""
    models = _models(config, folder, classes)
    stored: dict[str, Any] = workers.from_main(folder.read_json("validation.json")) or {}
    wanted = config.evaluation.thresholds
    if all(name in stored and stored[name]["thresholds"] == wanted for name in models):
        return {name: stored[name]["threshold"] for name in models}
    index = open_split(config.data, config.data.validation_split)
    scorer = Scorer(index, config, workers, wanted, classes=classes)
    facts = {}
    for name, (model, maps) in models.items():
        threshold, value = best_threshold(scorer.score(model, maps), config.evaluation.iou)
        facts[name] = {"threshold": threshold, "corloc": value, "thresholds": wanted}
    if workers.is_main:
        folder.write_json("validation.json", facts)
    return {name: fact["threshold"] for name, fact in facts.items()}


def _seconds_per_frame(model: nn.Module, maps: MapMaker, scorer: Scorer, threshold: float) -> float:
    """Time of network, map and box per frame, over a few dozen frames that are already in memory."""
    config, device = scorer.config, scorer.workers.device
    stream = FrameStream(
        scorer.index, scorer.frames[:TIMED_FRAMES], crop=config.data.crop, batch=config.evaluation.batch
    )
    batches = [(batch.images_NCHW.to(device), scorer.model_labels(batch.labels_N)) for batch in stream]
    with torch.inference_mode():
        maps(*batches[0])  # the first call pays for set-up
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        for images_BCHW, labels_B in batches:
            for map_HW in maps(images_BCHW, labels_B)[0].cpu().numpy():
                box_at(map_HW, threshold)
    return (time.perf_counter() - started) / sum(len(labels_B) for _, labels_B in batches)


def _metrics(main: str, entries: list[Entry], classes: tuple[str, ...], config: Config) -> dict[str, Any]:
    """The content of ``metrics.json``: the figures of the method `main` on top, those of all below ``methods``."""
    by_name = {entry.name: entry.to_dict() for entry in entries}
    return {
        **by_name[main],
        "method": main,
        "methods": by_name,
        "classes": list(classes),
        "split": config.data.split,
        "shards": config.data.shards,
        "size": config.data.crop,
        "unit": "percent",
        "caveats": list(config.data.caveats),
    }
