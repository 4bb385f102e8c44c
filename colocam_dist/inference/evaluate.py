"""Evaluates a run: CorLoc of stage 1's CAMs and of the localizer, ``metrics.json`` and ``report.html``."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from colocam_dist.config import Config, load
from colocam_dist.config.locations import location_name, scheme_of
from colocam_dist.data.frame_stream import FrameStream
from colocam_dist.data.index import ShotIndex
from colocam_dist.data.opening import caveats_of, open_split
from colocam_dist.distributed import Workers
from colocam_dist.errors import ConfigError, RunError
from colocam_dist.evaluation.boxes import box_at, threshold_grid
from colocam_dist.evaluation.corloc import best_threshold, corloc
from colocam_dist.inference.load import cam_method, load_classifier, load_localizer
from colocam_dist.inference.method import MapSource, Method
from colocam_dist.inference.past_paper import Entry, PastPaper, smoothed_thresholds
from colocam_dist.inference.past_paper_tables import past_paper_tables
from colocam_dist.inference.score import Scorer, cam_maps, localizer_maps
from colocam_dist.runs.folder import RunFolder

__all__ = ["evaluate_run", "run_classes"]

log = logging.getLogger(__name__)
TIMED_FRAMES = 64


def evaluate_run(config: Config, folder: RunFolder, workers: Workers) -> Path:
    """Score the classifier's ``evaluation.cams`` and the localizer on ``data.split`` of ``data.shards`` (collective).

    The run's own split goes into the run's folder; other data, and another ``evaluation.iou`` or ``data.crop``, into a
    folder of ``evaluations/`` below it (:func:`_target`). The validation threshold is always that of the run's own
    validation split. Networks are those of the run's own settings.

    Returns:
        The folder written to.

    Raises:
        DataError: shards that cannot be read, no boxes, or classes that the run does not know.
        RunError: the run has no trained classifier, nothing is asked for, or the folder has figures of other shards.
        ConfigError: a validation threshold is not among ``evaluation.thresholds``.
    """
    classes = run_classes(folder)
    index = open_split(config.data, config.data.split)
    own = load(folder.config_path)
    target = _target(own, config, folder, workers)
    sources = _sources(own, config, folder, classes)
    thresholds = _validation_thresholds(sources, own, folder, workers, classes)
    smoothed = smoothed_thresholds(sources, own, config.evaluation, folder, workers, classes)
    _check_thresholds([*thresholds.values(), *smoothed.values()], own, config)
    scorer = Scorer(index, config, workers, config.evaluation.thresholds, classes=classes)
    past = PastPaper(scorer, config, classes)
    methods = []
    for source in sources:
        scores = past.score(source.name, source.model, source.maps, thresholds[source.name], smoothed.get(source.name))
        result = corloc(
            scores,
            classes,
            thresholds[source.name],
            iou=config.evaluation.iou,
            resamples=config.evaluation.bootstrap,
            seed=config.run.seed,
        )
        seconds = _seconds_per_frame(source, scorer, thresholds[source.name])
        methods.append(Method(**vars(source), scores=scores, result=result, seconds_per_frame=seconds))
    if workers.is_main:
        entries = [entry for m in methods for entry in past.entries(m.name, m.result, m.seconds_per_frame)]
        # Its plots take 0.3 s to import, which no other rank and no training has to wait for.
        from colocam_dist.inference.summary_page import write_summary

        target.mkdir(parents=True, exist_ok=True)
        RunFolder(target).write_json("metrics.json", _metrics(methods[-1].name, entries, index, config, classes))
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


def _target(own: Config, config: Config, folder: RunFolder, workers: Workers) -> Path:
    """The run's own folder for its own data and measure, else ``evaluations/<shards>-<split>[-iou<iou>][-crop<crop>]``.

    Raises:
        RunError: what is there has the same name, but is of shards in another place.
    """
    measure = []
    if config.evaluation.iou != own.evaluation.iou:
        measure.append(f"iou{config.evaluation.iou}")
    if config.data.crop != own.data.crop:
        measure.append(f"crop{config.data.crop}")
    shards, split = config.data.shards, config.data.split
    if not measure and (own.data.shards, own.data.split) == (shards, split):
        return folder.path
    target = folder.path / "evaluations" / "-".join([location_name(shards), split, *measure])
    known = workers.from_main(RunFolder(target).read_json("metrics.json"))
    if known is not None and not _same_place(known.get("shards", "unknown"), shards):
        raise RunError(
            "there are figures of other shards with the same name",
            where=target,
            got=known.get("shards"),
            wanted=shards,
            fix="move or remove that folder, or give a link of another name to the shards",
        )
    return target


def _same_place(one: str, other: str) -> bool:
    if scheme_of(one) or scheme_of(other):
        return one == other
    return Path(one).resolve() == Path(other).resolve()


def _check_thresholds(chosen: Iterable[float], own: Config, config: Config) -> None:
    """Figures need the validation thresholds in the grid: one more beside it would be one more for the oracle rules.

    Raises:
        ConfigError: the grid lacks one.
    """
    count = config.evaluation.thresholds
    grid_T = threshold_grid(count)
    lacking = sorted({tau for tau in chosen if np.abs(grid_T - tau).min() > 1e-9})
    if lacking:
        raise ConfigError(
            "thresholds that validation chose are not among those to be scored",
            where="evaluation.thresholds",
            got=f"{count}, which lacks {', '.join(map(str, lacking))}",
            wanted=f"{own.evaluation.thresholds}, the run's own, or a multiple of it",
        )


def _sources(own: Config, config: Config, folder: RunFolder, classes: tuple[str, ...]) -> list[MapSource]:
    """What is to be scored: CAMs of stage 1's classifier, then the localizer, if it has been trained.

    Args:
        own: the run's settings, which say what its networks are.
        config: which CAMs, and their settings.
        folder: of the run.
        classes: of the run.
    """
    classifier = load_classifier(own, folder, len(classes), "best-localization")
    cams = {name: cam_method(config, name) for name in config.evaluation.cams}
    sources = [MapSource(name, cam.identity, classifier, cam_maps(classifier, cam)) for name, cam in cams.items()]
    if folder.weights("localizer", "best-localization").is_file():
        localizer = load_localizer(own, folder, len(classes))
        sources.append(MapSource("localizer", "localizer", localizer, localizer_maps(localizer)))
    if not sources:
        raise RunError(
            "there is nothing to score",
            where=folder.path,
            got="no trained localizer, and evaluation.cams is empty",
            fix="name a CAM method in evaluation.cams, or train stage 2",
        )
    return sources


def _validation_thresholds(
    sources: list[MapSource], own: Config, folder: RunFolder, workers: Workers, classes: tuple[str, ...]
) -> dict[str, float]:
    """tau of each method on the run's own validation split; kept in ``validation.json`` (collective)."""
    facts: dict[str, Any] = workers.from_main(folder.read_json("validation.json")) or {}
    wanted = own.evaluation.thresholds

    def known(source: MapSource) -> bool:
        fact = facts.get(source.name, {})
        return (fact.get("thresholds"), fact.get("method", source.name)) == (wanted, source.identity)

    missing = [source for source in sources if not known(source)]
    if missing:
        index = open_split(own.data, own.data.validation_split)
        scorer = Scorer(index, own, workers, wanted, classes=classes)
        for source in missing:
            threshold, value = best_threshold(scorer.score(source.model, source.maps), own.evaluation.iou)
            facts[source.name] = {
                "threshold": threshold,
                "corloc": value,
                "thresholds": wanted,
                "method": source.identity,
            }
        if workers.is_main:
            folder.write_json("validation.json", facts)
    return {source.name: facts[source.name]["threshold"] for source in sources}


def _seconds_per_frame(source: MapSource, scorer: Scorer, threshold: float) -> float:
    """Time of network, map and box per frame, over a few dozen frames that are already in memory."""
    config, device = scorer.config, scorer.workers.device
    stream = FrameStream(
        scorer.index, scorer.frames[:TIMED_FRAMES], crop=config.data.crop, batch=config.evaluation.batch
    )
    batches = [(batch.images_NCHW.to(device), scorer.model_labels(batch.labels_N)) for batch in stream]
    with torch.inference_mode():
        source.maps(*batches[0])  # the first call pays for set-up
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        for images_BCHW, labels_B in batches:
            for map_HW in source.maps(images_BCHW, labels_B)[0].cpu().numpy():
                box_at(map_HW, threshold)
    return (time.perf_counter() - started) / sum(len(labels_B) for _, labels_B in batches)


def _metrics(
    main: str, entries: list[Entry], index: ShotIndex, config: Config, classes: tuple[str, ...]
) -> dict[str, Any]:
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
        "caveats": caveats_of(index.caveats, config.data),
    }
