"""What evaluation adds past the paper: steadiness of boxes, smoothing over time, several boxes per frame.

Every method of a run keeps its own name and figures; each way past the paper is one more entry, "method+way".
F frames, those with true boxes being L.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from colocam_dist.config import Config
from colocam_dist.config.evaluation import Evaluation
from colocam_dist.data.opening import open_split
from colocam_dist.distributed import Workers
from colocam_dist.evaluation.consistency import Consistency, consecutive_pairs, consistency
from colocam_dist.evaluation.corloc import CorLoc, FrameScores, best_threshold, corloc
from colocam_dist.evaluation.instances import InstanceScores, instance_scores
from colocam_dist.evaluation.intervals import bootstrap_intervals
from colocam_dist.inference.method import MapSource
from colocam_dist.inference.score import MapMaker, Scorer
from colocam_dist.inference.shots import frames_of_shots, numbers_of_frames
from colocam_dist.inference.ways import GridWay, InstanceWay, PathWay, Way
from colocam_dist.inference.whole_shots import WayScores, score_ways
from colocam_dist.runs.folder import RunFolder

__all__ = ["Entry", "PastPaper", "known_smoothed_threshold", "smoothed_thresholds"]

ORACLES = ("pooled", "per_class")


@dataclass(frozen=True)
class Entry:
    """One method, or one way of it, on the evaluated split.

    Attributes:
        method: name of the method.
        way: "maps", "viterbi" or "all"; "" for the method itself.
        result: its CorLoc; None for several boxes per frame.
        oracles: whether the oracle rules apply; a path's boxes belong to no threshold that could be chosen anew.
        gain: CorLoc minus that of the method itself, both at their validation thresholds, points, with the paired 95 %
            interval; None for the method itself and for several boxes per frame.
        steadiness: of its boxes, or why that was not measured.
        instances: recall and precision by group of frames; empty where not asked for.
        seconds_per_frame: network, maps and boxes.
    """

    method: str
    way: str
    result: CorLoc | None
    oracles: bool
    gain: tuple[float, tuple[float, float] | None] | None
    steadiness: Consistency | str
    instances: dict[str, InstanceScores]
    seconds_per_frame: float

    @property
    def name(self) -> str:
        """Under which its figures stand, for example "localizer+viterbi"."""
        return f"{self.method}+{self.way}" if self.way else self.method

    def summary(self) -> str:
        """Its figures in a line."""
        if self.result is None:
            figures = "  ".join(f"{group} frames {scores.f1:.1f}" for group, scores in self.instances.items())
            return f"F1 {figures}"
        rules = self.result.corloc.items() if self.oracles else [("validation", self.result.corloc["validation"])]
        return "CorLoc " + "  ".join(f"{rule} {value:.1f}" for rule, value in rules)

    def to_dict(self) -> dict[str, Any]:
        """json-able; without the figures that do not apply."""
        figures: dict[str, Any] = {} if self.result is None else self.result.to_dict()
        if self.result is not None and not self.oracles:
            for name in ("corloc", "micro", "intervals", "top1", "thresholds"):
                figures[name] = {rule: value for rule, value in figures[name].items() if rule not in ORACLES}
            for scores in figures["per_class"].values():
                scores.update(dict.fromkeys(ORACLES))
        if self.gain is not None:
            figures["gain"] = {"corloc": self.gain[0], "interval": self.gain[1]}
        steady = self.steadiness
        figures["consistency"] = {"absent": steady} if isinstance(steady, str) else steady.to_dict()
        if self.instances:
            figures["instances"] = {group: scores.to_dict() for group, scores in self.instances.items()}
        return {**figures, "seconds_per_frame": self.seconds_per_frame}


class PastPaper:
    """Scores a run's methods on one split, with what the section ``evaluation`` asks for past the paper.

    Args:
        scorer: the split.
        config: settings of this evaluation.
        classes: those of the run.
    """

    def __init__(self, scorer: Scorer, config: Config, classes: Sequence[str]) -> None:
        self.scorer = scorer
        self.settings = config.evaluation
        self.seed = config.run.seed
        self.classes = classes
        whole = self.settings.smoothing != "none" or self.settings.consistency.frames == "all"
        index = scorer.index
        self.frames_F = frames_of_shots(index, scorer.frames) if whole else scorer.frames
        self._compared_F = np.isin(self.frames_F, scorer.frames) | (self.settings.consistency.frames == "all")
        compared = self.frames_F[self._compared_F]
        self.pairs = consecutive_pairs(
            numbers_of_frames(index, compared), index.frame_shot[compared], self.settings.consistency.max_gap
        )
        off = self.settings.consistency.frames == "none"
        self.not_steady = "evaluation.consistency.frames is none" if off else self.pairs.missing()
        self._found: dict[str, dict[str, tuple[Way, WayScores]]] = {}

    def score(
        self, name: str, model: torch.nn.Module, maps: MapMaker, threshold: float, smoothed: float | None = None
    ) -> FrameScores:
        """The published scores of a method (collective); what is past the paper is kept for :meth:`entries`.

        Args:
            name: of the method.
            model: as for :meth:`Scorer.score`.
            maps: likewise.
            threshold: that of the method on validation.
            smoothed: that of its smoothed maps, with ``evaluation.smoothing=maps``.

        Raises:
            PreemptedError: on all ranks, because one of them was asked to stop.
        """
        settings = self.settings
        ways: dict[str, Way] = {"": GridWay(self.scorer.thresholds, threshold)}
        if smoothed is not None:
            ways["maps"] = GridWay(self.scorer.thresholds, smoothed, settings.maps.sigma)
        if settings.smoothing == "viterbi":
            ways["viterbi"] = PathWay(threshold, settings.viterbi)
        if settings.boxes == "all":
            ways["all"] = InstanceWay(threshold, settings.instances)
        if len(ways) == 1 and self.not_steady:
            return self.scorer.score(model, maps)
        cut = settings.cut if settings.smoothing != "none" else 0.0
        found = score_ways(self.scorer, model, maps, ways, self.frames_F, cut=cut)
        self._found[name] = {way: (ways[way], found[way]) for way in ways}
        return found[""].scores

    def entries(self, name: str, result: CorLoc, seconds_per_frame: float) -> list[Entry]:
        """The method itself, then its ways.

        Args:
            name: of a method that was scored.
            result: its figures.
            seconds_per_frame: of the method itself.
        """
        if name not in self._found:
            return [Entry(name, "", result, True, None, self.not_steady or "", {}, seconds_per_frame)]
        itself = self._found[name][""][1].scores
        found = []
        for kind, (way, answers) in self._found[name].items():
            single = len(way.thresholds_S) > 0
            figures = result if not kind else self._corloc(answers.scores, way.threshold) if single else None
            found.append(
                Entry(
                    name,
                    kind,
                    figures,
                    oracles=len(way.thresholds_S) > 1,
                    gain=None if not kind or figures is None else self._gain(answers.scores, figures, itself, result),
                    steadiness=self._steadiness(answers) if single else "several boxes per frame are not followed",
                    instances=self._instances(answers) if self.settings.boxes == "all" else {},
                    seconds_per_frame=seconds_per_frame + answers.extra_seconds,
                )
            )
        return found

    def _corloc(self, scores: FrameScores, threshold: float) -> CorLoc:
        settings = self.settings
        return corloc(scores, self.classes, threshold, iou=settings.iou, resamples=settings.bootstrap, seed=self.seed)

    def _gain(
        self, scores: FrameScores, figures: CorLoc, itself: FrameScores, result: CorLoc
    ) -> tuple[float, tuple[float, float] | None]:
        """Frames are compared one by one, so the interval is that of the difference."""
        right_L = [
            _at(table, result_of.thresholds["validation"]) >= self.settings.iou
            for table, result_of in ((scores, figures), (itself, result))
        ]
        change_L1 = (right_L[0].astype(np.float64) - right_L[1])[:, None]
        interval = None
        if self.settings.bootstrap:
            interval = bootstrap_intervals(
                change_L1, scores.labels_F, scores.videos_F, 0, resamples=self.settings.bootstrap, seed=self.seed
            ).get("validation")
        return figures.corloc["validation"] - result.corloc["validation"], interval

    def _steadiness(self, answers: WayScores) -> Consistency | str:
        if self.not_steady:
            return self.not_steady
        index = self.scorer.index
        frames = answers.frames_F[self._compared_F]
        shots = [index.shots[shot] for shot in index.frame_shot[frames].tolist()]
        return consistency(
            answers.boxes_F4[self._compared_F],
            [self.scorer.truth(frame) for frame in frames.tolist()],
            self.pairs,
            np.array([shot.key for shot in shots], np.str_),
            np.array([f"{shot.cls}/{shot.video}" for shot in shots], np.str_),
            resamples=self.settings.bootstrap,
            seed=self.seed,
        )

    def _instances(self, answers: WayScores) -> dict[str, InstanceScores]:
        return instance_scores(
            answers.counts, answers.scores.videos_F, resamples=self.settings.bootstrap, seed=self.seed
        )


def smoothed_thresholds(
    sources: Sequence[MapSource],
    own: Config,
    settings: Evaluation,
    folder: RunFolder,
    workers: Workers,
    classes: Sequence[str],
) -> dict[str, float]:
    """tau of each method's smoothed maps on the run's own validation split (collective); kept in ``validation.json``.

    Frames of that split are as far apart as they are; where they are far, smoothing leaves their maps as they were.

    Args:
        sources: the methods.
        own: settings of the run, which say what its validation is.
        settings: of this evaluation.
        folder: of the run, which knows the thresholds of frames by themselves already.
        workers: this rank.
        classes: those of the run.

    Returns:
        Empty unless ``evaluation.smoothing=maps``.
    """
    if settings.smoothing != "maps":
        return {}
    facts: dict[str, Any] = workers.from_main(folder.read_json("validation.json"))
    wanted = _smoothing_facts(own, settings)
    missing = [
        source
        for source in sources
        if known_smoothed_threshold(facts, source.name, source.identity, own, settings) is None
    ]
    if missing:
        index = open_split(own.data, own.data.validation_split)
        scorer = Scorer(index, own, workers, own.evaluation.thresholds, classes=classes)
        frames_F = frames_of_shots(index, scorer.frames)
        way = GridWay(scorer.thresholds, 0.0, settings.maps.sigma)
        for source in missing:
            found = score_ways(scorer, source.model, source.maps, {"": way}, frames_F, cut=settings.cut)
            threshold, value = best_threshold(found[""].scores, own.evaluation.iou)
            fact = {"threshold": threshold, "corloc": value, "method": source.identity, **wanted}
            facts[f"{source.name}+maps"] = fact
        if workers.is_main:
            folder.write_json("validation.json", facts)
    return {source.name: facts[f"{source.name}+maps"]["threshold"] for source in sources}


def known_smoothed_threshold(
    facts: Mapping[str, Any], name: str, identity: str, own: Config, settings: Evaluation
) -> float | None:
    """tau of a method's smoothed maps if validation has chosen it for this smoothing; else None.

    Args:
        facts: of the run's ``validation.json``.
        name: of the method.
        identity: see :class:`MapSource`.
        own: settings of the run.
        settings: say how maps are smoothed.
    """
    fact: Mapping[str, Any] = facts.get(f"{name}+maps", {})
    known = {**_smoothing_facts(own, settings), "method": identity}.items() <= fact.items()
    return float(fact["threshold"]) if known else None


def _smoothing_facts(own: Config, settings: Evaluation) -> dict[str, float]:
    """What a threshold of smoothed maps depends on beside the maps."""
    return {"thresholds": own.evaluation.thresholds, "sigma": settings.maps.sigma, "cut": settings.cut}


def _at(scores: FrameScores, threshold: float) -> NDArray[np.float32]:
    """IoU of each frame at one threshold."""
    place = int(np.abs(scores.thresholds_T - threshold).argmin())
    chosen: NDArray[np.float32] = scores.iou_FT[:, place]
    return chosen
