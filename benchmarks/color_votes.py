"""Whether colors of other frames say more about an object than those of its own frame, on labeled frames of a split::

    python benchmarks/color_votes.py --run RUN data.shards=DIR data.split=val

The co-localization term pulls the map of a window of n frames toward color votes: every pixel takes the mean of the map
over all pixels of the window, weighted by the color kernel of Eq. 4, ``W S / W 1``. Here a window is a frame with the
n - 1 nearest labeled frames of its shot (fewer, where the shot has fewer), and maps and frames are reduced to 28 x 28.
Prints CorLoc by n, in percent, each at the threshold that is best for it on this very split:

- of the localizer's maps, of the mean of map and votes, and of votes alone. If these do not grow with n, other frames
  tell a finished localizer nothing that its own frame has not told;
- of votes of the true boxes of the other frames alone, which bounds what color can carry over from frame to frame, and,
  to compare, of the mean of those boxes where they are, without any color. Frames alone in their shot are left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from colocam_dist.config import load  # noqa: E402
from colocam_dist.config.locations import location_name  # noqa: E402
from colocam_dist.data.frame_stream import FrameStream  # noqa: E402
from colocam_dist.data.opening import caveats_of, open_split  # noqa: E402
from colocam_dist.distributed import Workers  # noqa: E402
from colocam_dist.evaluation.boxes import boxes_over_thresholds  # noqa: E402
from colocam_dist.evaluation.corloc import FrameScores, best_threshold  # noqa: E402
from colocam_dist.evaluation.iou import iou_inclusive  # noqa: E402
from colocam_dist.inference.evaluate import run_classes  # noqa: E402
from colocam_dist.inference.load import load_localizer  # noqa: E402
from colocam_dist.inference.score import Scorer, localizer_maps  # noqa: E402
from colocam_dist.models.localizer import Localizer  # noqa: E402
from colocam_dist.runs.folder import RunFolder  # noqa: E402

SIDE = 28
MAPS, BOTH, VOTES = "localizer's maps", "mean of map and votes", "votes"
TRUE_VOTES, TRUE_BOXES = "votes of the others' true boxes", "the others' true boxes in place"


@dataclass(frozen=True)
class Frames:
    """All labeled frames of a split; P = SIDE * SIDE.

    Attributes:
        colors_FP3: float32 in 0..255.
        maps_FP: float32 in [0, 1].
        boxes_FP: float32, share of a place that true boxes cover.
        shots_F: number of each frame's shot, ascending.
    """

    colors_FP3: Tensor
    maps_FP: Tensor
    boxes_FP: Tensor
    shots_F: NDArray[np.int32]

    def window(self, frame: int, n: int) -> list[int]:
        """The frame and the n - 1 nearest of its shot, itself first."""
        first, end = np.searchsorted(self.shots_F, [self.shots_F[frame], self.shots_F[frame] + 1]).tolist()
        return sorted(range(first, end), key=lambda other: (abs(other - frame), other))[:n]


def shares(colors_NP3: Tensor, values_NPV: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """What each frame of a window adds to the votes of its first frame: sums of values ``[N, P, V]`` weighted by
    nearness in color to each of its pixels, and sums of the weights ``[N, P, 1]``."""
    distances_NPP = torch.cdist(colors_NP3[:1], colors_NP3)
    weights_NPP = torch.exp(-0.5 * (distances_NPP / sigma).square())
    return weights_NPP @ values_NPV, weights_NPP.sum(2, keepdim=True)


def votes(sums_NPV: Tensor, weights_NP1: Tensor, values_NPV: Tensor) -> Tensor:
    """Weighted means over frames ``[P, V]``; the plain mean where a pixel is so far from all that weights are zero."""
    weight_P1 = weights_NP1.sum(0)
    mean_PV = sums_NPV.sum(0) / weight_P1.clamp_min(torch.finfo(torch.float32).tiny)
    return torch.where(weight_P1 > 0, mean_PV, values_NPV.mean((0, 1)))


def see(scorer: Scorer, model: Localizer) -> Frames:
    """The labeled frames with the model's maps."""
    config = scorer.config
    size = config.data.crop
    maps = localizer_maps(model.to(scorer.workers.device).eval())
    colors, found = [], []
    with torch.inference_mode():
        for batch in FrameStream(scorer.index, scorer.frames, crop=size, batch=config.evaluation.batch):
            images = batch.images_NCHW.to(scorer.workers.device)
            colors.append(functional.interpolate(images.float(), (SIDE, SIDE), mode="area").flatten(2).mT.cpu())
            maps_BHW = maps(images, scorer.model_labels(batch.labels_N))[0]
            found.append(functional.interpolate(maps_BHW[:, None], (SIDE, SIDE), mode="area").flatten(1).cpu())
    boxes = torch.zeros(len(scorer.frames), 1, size, size)
    for mask_1HW, frame in zip(boxes, scorer.frames.tolist(), strict=True):
        for x0, y0, x1, y1 in scorer.truth(frame).tolist():
            mask_1HW[:, y0 : y1 + 1, x0 : x1 + 1] = 1.0
    boxes_FP = functional.interpolate(boxes, (SIDE, SIDE), mode="area").flatten(1)
    return Frames(torch.cat(colors), torch.cat(found), boxes_FP, scorer.index.frame_shot[scorer.frames])


def corloc(scorer: Scorer, frames_F: Sequence[int], maps: Iterable[Tensor]) -> float:
    """CorLoc in percent, mean over classes, of maps ``[P]`` of some of the labeled frames, at their best threshold."""
    size = scorer.config.data.crop
    ids_F = scorer.frames[list(frames_F)]
    rows = []
    for map_P, frame in zip(maps, ids_F.tolist(), strict=True):
        small_HW = map_P.reshape(SIDE, SIDE).clamp(0.0, 1.0).numpy()
        map_HW = cv2.resize(small_HW, (size, size), interpolation=cv2.INTER_LINEAR)
        rows.append(iou_inclusive(boxes_over_thresholds(map_HW, scorer.thresholds), scorer.truth(frame)).max(1))
    shots = [scorer.index.shots[shot] for shot in scorer.index.frame_shot[ids_F].tolist()]
    labels_F = np.array([shot.label for shot in shots])
    videos_F = np.array([f"{shot.cls}/{shot.video}" for shot in shots])
    scores = FrameScores(np.array(rows, np.float32), labels_F, labels_F, videos_F, ids_F, scorer.thresholds)
    return best_threshold(scores, scorer.config.evaluation.iou)[1]


def compare(scorer: Scorer, frames: Frames, ns: Sequence[int], sigma: float) -> dict[str, list[float | None]]:
    """CorLoc of each kind of map by n; None where there is nothing of that kind."""
    every = range(len(frames.shots_F))
    values_FP2 = torch.stack([frames.maps_FP, frames.boxes_FP], 2)
    votes_nFP, carried_nFP, in_place_nFP = ({n: [] for n in ns} for _ in range(3))
    for frame in tqdm(every, desc="votes", unit="frame", leave=False):
        window = frames.window(frame, max(ns))
        values = values_FP2[window]
        sums, weights = shares(frames.colors_FP3[window], values, sigma)
        for n in ns:
            votes_nFP[n].append(votes(sums[:n], weights[:n], values[:n])[:, 0])
            if len(window[1:n]):
                carried_nFP[n].append(votes(sums[1:n], weights[1:n], values[1:n])[:, 1])
                in_place_nFP[n].append(values[1:n, :, 1].mean(0))
    accompanied = [frame for frame in every if len(frames.window(frame, 2)) == 2]
    plain = corloc(scorer, every, frames.maps_FP)
    return {
        MAPS: [plain for _ in ns],
        BOTH: [corloc(scorer, every, (frames.maps_FP + torch.stack(votes_nFP[n])) / 2) for n in ns],
        VOTES: [corloc(scorer, every, votes_nFP[n]) for n in ns],
        TRUE_VOTES: [corloc(scorer, accompanied, carried_nFP[n]) if carried_nFP[n] else None for n in ns],
        TRUE_BOXES: [corloc(scorer, accompanied, in_place_nFP[n]) if in_place_nFP[n] else None for n in ns],
    }


def numbers(text: str) -> list[int]:
    """Whole numbers from 1 up out of a list with commas.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(
            f"got {text!r}, wanted whole numbers from 1 up with commas between, as 1,2,4,8"
        )
    return [int(part) for part in parts]


def main() -> None:
    """Look at the split, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a run with a trained localizer")
    parser.add_argument("--frames", type=numbers, default=[1, 2, 4, 8], metavar="1,2,4,8", help="the numbers n")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    given = parser.parse_intermixed_args()
    folder = RunFolder.open(given.run)
    own, config = load(folder.config_path), load(folder.config_path, given.overrides)
    classes = run_classes(folder)
    workers = Workers(0, 0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    index = open_split(config.data, config.data.split)
    scorer = Scorer(index, config, workers, classes=classes)
    frames = see(scorer, load_localizer(own, folder, len(classes)))
    sigma = config.localizer.loss.colocalization.sigma_rgb
    found = compare(scorer, frames, given.frames, sigma)
    print("\n".join(f"> {text}" for text in caveats_of(index.caveats, config.data)))
    print(f"\n{len(frames.shots_F)} frames of {location_name(index.location)}, {config.data.split}, sigma {sigma}\n")
    print("| CorLoc | " + " | ".join(f"n = {n}" for n in given.frames) + " |")
    print("|---" * (1 + len(given.frames)) + "|")
    for name, values in found.items():
        print(f"| {name} | " + " | ".join("" if value is None else f"{value:.1f}" for value in values) + " |")


if __name__ == "__main__":
    main()
