"""Chooses the weights of smoothing over time on half of the videos of a split, and scores them on the other half::

    python benchmarks/smoothing.py --run RUN data.shards=DIR data.split=train [--grid small]

The split needs a box in every frame. Shots are sorted by the names of their videos; the first half is for choosing.
Thresholds are those of the run's validation (which `launchers/evaluate.py` has written), also for smoothed maps;
methods without one (`evaluation.cams=[]`) are left out. Among the settings of a grid whose CorLoc is at most one point
below that of frame by frame, the one is taken whose boxes are nearest to the true ones in steadiness. Prints a table of
the half for choosing and one of the other half for each method: frame by frame, the defaults, and what was chosen. Maps
and candidates are made once, so the grid costs little.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from colocam_dist.cams import build_cam_method  # noqa: E402
from colocam_dist.config import Config, load  # noqa: E402
from colocam_dist.config.evaluation import Viterbi  # noqa: E402
from colocam_dist.data.opening import open_split  # noqa: E402
from colocam_dist.distributed import Workers  # noqa: E402
from colocam_dist.evaluation.boxes import box_at  # noqa: E402
from colocam_dist.evaluation.consistency import Consistency, consecutive_pairs, consistency  # noqa: E402
from colocam_dist.evaluation.corloc import FrameScores, corloc  # noqa: E402
from colocam_dist.evaluation.iou import iou_inclusive  # noqa: E402
from colocam_dist.inference.evaluate import run_classes  # noqa: E402
from colocam_dist.inference.load import load_classifier, load_localizer  # noqa: E402
from colocam_dist.inference.score import Scorer, cam_maps, localizer_maps  # noqa: E402
from colocam_dist.inference.shots import ShotMaps, each_shot  # noqa: E402
from colocam_dist.inference.smoothing import smooth_maps  # noqa: E402
from colocam_dist.inference.viterbi import box_fit, cheapest_path, find_candidates, transitions  # noqa: E402
from colocam_dist.models.localizer import Classifier, Localizer  # noqa: E402
from colocam_dist.runs.folder import RunFolder  # noqa: E402

ALLOWED_LOSS = 1.0  # points of CorLoc
SIGMAS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
GRIDS = {
    "full": ((0.1, 0.3, 1.0, 3.0, 10.0), (1.0, 2.0, 4.0, 8.0, 16.0, 32.0), (0.0, 1.0, 2.0), (0.0, 0.5)),
    "small": ((1.0,), (8.0,), (0.0, 1.0), (0.0,)),
}

Boxes = NDArray[np.int16]


@dataclass(frozen=True)
class Half:
    """The shots of some videos, with their true boxes."""

    scorer: Scorer
    shots: Sequence[ShotMaps]

    def score(self, boxes: Iterable[Boxes]) -> tuple[float, Consistency]:
        """CorLoc in percent, and steadiness, of one box per frame."""
        boxes_F4 = np.concatenate(list(boxes))
        frames_F = np.concatenate([shot.frames_T for shot in self.shots])
        index = self.scorer.index
        shots = [index.shots[shot] for shot in index.frame_shot[frames_F].tolist()]
        truth = [self.scorer.truth(frame) for frame in frames_F.tolist()]
        iou_F = np.array([iou_inclusive(box[None], true).max() for box, true in zip(boxes_F4, truth, strict=True)])
        labels_F = np.array([shot.label for shot in shots])
        videos_F = np.array([f"{shot.cls}/{shot.video}" for shot in shots])
        scores = FrameScores(iou_F[:, None].astype(np.float32), labels_F, labels_F, videos_F, frames_F, np.zeros(1))
        iou = self.scorer.config.evaluation.iou
        value = corloc(scores, index.classes, 0.0, iou=iou, resamples=0).corloc["validation"]
        numbers_F = np.concatenate([shot.timeline.numbers_T for shot in self.shots])
        pairs = consecutive_pairs(numbers_F, index.frame_shot[frames_F])
        keys_F = np.array([shot.key for shot in shots])
        return value, consistency(boxes_F4, truth, pairs, keys_F, videos_F, resamples=0)


def smoothed(shots: Sequence[ShotMaps], sigma: float, tau: float) -> list[Boxes]:
    """Boxes of smoothed maps."""
    maps = (smooth_maps(shot.maps_THW, shot.timeline, sigma) for shot in shots)
    return [np.array([box_at(map_HW, tau) for map_HW in maps_THW]) for maps_THW in maps]


class Paths:
    """Paths of many energies through the same candidates, which are found once; none is left out for its cost."""

    def __init__(self, shots: Sequence[ShotMaps], tau: float) -> None:
        self.shots = shots
        rule = Viterbi(prior=1.0, candidates=1000)
        self.frames = [[find_candidates(map_HW, tau, rule) for map_HW in shot.maps_THW] for shot in shots]
        pairs = zip(shots, self.frames, strict=True)
        self.misfits = [
            [1.0 - box_fit(map_HW, frame.boxes_k4) for map_HW, frame in zip(shot.maps_THW, frames, strict=True)]
            for shot, frames in pairs
        ]

    def __call__(self, rule: Viterbi) -> list[Boxes]:
        """The cheapest path of each shot, which must have no empty maps, gaps or cuts."""
        found = []
        for frames, misfits in zip(self.frames, self.misfits, strict=True):
            boxes = [frame.boxes_k4 for frame in frames]
            costs = [
                misfit_k + rule.prior * (frame.costs_k - misfit_k)
                for frame, misfit_k in zip(frames, misfits, strict=True)
            ]
            moves = [transitions(before, after, rule) for before, after in itertools.pairwise(boxes)]
            chosen = cheapest_path(costs, moves).tolist()
            found.append(np.array([some[k] for some, k in zip(boxes, chosen, strict=True)]))
        return found


def choose(results: dict[str, tuple[float, Consistency]], plain: float) -> str:
    """The steadiest of those that are right often enough."""
    good = {name: steady.difference for name, (value, steady) in results.items() if value >= plain - ALLOWED_LOSS}
    return min(good, key=lambda name: good[name] or 0.0) if good else "none"


def row(name: str, value: float, steady: Consistency) -> str:
    """A line of the table."""
    return f"| {name} | {value:.1f} | {steady.iou:.1f} | {steady.jumps:.1f} | {steady.difference:.1f} |"


def compare(name: str, scorer: Scorer, shots: Sequence[ShotMaps], tau: float, grid: str) -> None:
    """Choose on the first half of the shots, and print what is scored on both."""
    config = scorer.config.evaluation
    halves = [Half(scorer, shots[: len(shots) // 2]), Half(scorer, shots[len(shots) // 2 :])]
    weights = itertools.product(*GRIDS[grid])
    rules = [Viterbi(pairwise=a, prior=b, center=c, scale=d) for a, b, c, d in weights]
    first, path = halves[0], Paths(halves[0].shots, tau)
    plain = first.score(smoothed(first.shots, 0.0, tau))
    sigma = choose({str(sigma): first.score(smoothed(first.shots, sigma, tau)) for sigma in SIGMAS}, plain[0])
    by_rule = {str(place): first.score(path(rule)) for place, rule in enumerate(rules)}
    place = choose(by_rule, plain[0])
    for half, title in zip(halves, ("the half for choosing", "the other half"), strict=True):
        videos = ", ".join(scorer.index.shots[scorer.index.frame_shot[shot.frames_T[0]]].video for shot in half.shots)
        print(f"\n{name}, tau {tau}, {title}: {videos}\n")
        print("| boxes | CorLoc | mean IoU of consecutive boxes | jumps | distance from the true ones |")
        print("|---|---|---|---|---|")
        print(row("frame by frame", *half.score(smoothed(half.shots, 0.0, tau))))
        default = config.maps.sigma
        print(row(f"maps, sigma {default} (default)", *half.score(smoothed(half.shots, default, tau))))
        if sigma != "none":
            print(row(f"maps, sigma {sigma} (chosen)", *half.score(smoothed(half.shots, float(sigma), tau))))
        print(row(f"path, {config.viterbi} (default)", *half.score(Paths(half.shots, tau)(config.viterbi))))
        if place != "none":
            chosen = rules[int(place)]
            print(row(f"path, {chosen} (chosen)", *half.score(Paths(half.shots, tau)(chosen))))


def main() -> None:
    """Compare for each method of the run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--grid", choices=GRIDS, default="full")
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_intermixed_args()
    folder = RunFolder.open(given.run)
    own, config = load(folder.config_path), load(folder.config_path, given.overrides)
    classes, thresholds = run_classes(folder), folder.read_json("validation.json")
    workers = Workers(0, 0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    scorer = Scorer(open_split(config.data, config.data.split), config, workers, classes=classes)
    classifier, localizer = load_models(own, folder, len(classes))
    for name, model, maps in (
        ("layercam", classifier, cam_maps(classifier, build_cam_method("layercam"))),
        ("localizer", localizer, localizer_maps(localizer)),
    ):
        if name not in thresholds:
            continue
        shots = sorted(each_shot(scorer, model, maps, scorer.frames), key=lambda shot: video_of(scorer, shot))
        compare(name, scorer, shots, float(thresholds[name]["threshold"]), given.grid)


def load_models(own: Config, folder: RunFolder, classes: int) -> tuple[Classifier, Localizer]:
    """Both networks of a run."""
    return load_classifier(own, folder, classes, "best-localization"), load_localizer(own, folder, classes)


def video_of(scorer: Scorer, shot: ShotMaps) -> str:
    """Name of a shot's video."""
    return scorer.index.shots[int(scorer.index.frame_shot[shot.frames_T[0]])].video


if __name__ == "__main__":
    main()
