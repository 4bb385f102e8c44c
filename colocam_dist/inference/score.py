"""Runs a map-making network over the labeled frames of a split."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from colocam_dist.cams.method import CamMethod
from colocam_dist.config import Config
from colocam_dist.data.frame_stream import FrameStream
from colocam_dist.data.index import ShotIndex, check_boxes
from colocam_dist.distributed import Workers
from colocam_dist.errors import DataError
from colocam_dist.evaluation.boxes import boxes_over_thresholds, threshold_grid
from colocam_dist.evaluation.corloc import FrameScores, best_threshold
from colocam_dist.evaluation.iou import iou_inclusive, scale_boxes
from colocam_dist.models.localizer import Classifier, Localizer

__all__ = ["ManyMaps", "MapMaker", "Scorer", "cam_maps", "localizer_maps"]

MapMaker = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(uint8 images [B, 3, H, W], true labels [B]) -> (maps [B, H, W] in [0, 1], class logits [B, K])."""
ManyMaps = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""The same with M maps of each frame, [M, B, H, W]."""


def cam_maps(model: Classifier, method: CamMethod) -> MapMaker:
    """A CAM of the true class, min-max normalized at low resolution, then bilinear to the image (published)."""

    def make(images_BCHW: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        cams_Bhw, logits_BK = method(model, images_BCHW, labels_B)
        size = list(images_BCHW.shape[-2:])
        maps_BHW = functional.interpolate(cams_Bhw[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
        return maps_BHW.clamp(0.0, 1.0), logits_BK

    return make


def localizer_maps(model: Localizer) -> MapMaker:
    """The localizer's foreground probability, not normalized (published)."""

    def make(images_BCHW: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        output = model(images_BCHW)
        return output.map_logits_B2HW.float().softmax(1)[:, 1].clamp(0.0, 1.0), output.class_logits_BK

    return make


class Scorer:
    """Scores map makers on one split; work is divided over ranks and every rank gets the whole result.

    Args:
        index: the split.
        config: image size, IoU, batch and workers.
        workers: this rank.
        thresholds: number of thresholds; None takes ``evaluation.validation_thresholds``.
        classes: the model's classes in label order; None = those of the index.

    Raises:
        DataError: no frame of the split has a box, or it has classes that the model does not know.
    """

    def __init__(
        self,
        index: ShotIndex,
        config: Config,
        workers: Workers,
        thresholds: int | None = None,
        *,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.index = index
        self.config = config
        self.workers = workers
        self.thresholds = threshold_grid(thresholds or config.evaluation.validation_thresholds)
        self.labels = _labels_by_name(index, classes or index.classes)  # of the data -> of the model
        check_boxes(index)
        self.frames = index.labeled_frames()

    def score(self, model: torch.nn.Module, maps: MapMaker) -> FrameScores:
        """IoU of every labeled frame at every threshold (collective). `model` is put in eval mode on the device.

        Raises:
            PreemptedError: on all ranks, because one of them was asked to stop.
        """

        def one(images_BCHW: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
            maps_BHW, logits_BK = maps(images_BCHW, labels_B)
            return maps_BHW[None], logits_BK

        return self.score_each(model, one, 1)[0]

    def score_each(self, model: torch.nn.Module, maps: ManyMaps, count: int) -> list[FrameScores]:
        """:meth:`score` of `count` maps of each frame, from one pass over the frames; one table for each of them."""
        workers, size = self.workers, self.config.data.crop
        model.to(workers.device).eval()
        stream = FrameStream(
            self.index,
            self.frames,
            crop=size,
            batch=self.config.evaluation.batch,
            rank=workers.rank,
            world=workers.world,
            workers=min(1, self.config.data.workers),
        )
        rows: list[NDArray[np.float32]] = []
        predicted: list[int] = []
        with torch.inference_mode():
            hidden = None if workers.is_main else True
            for batch in tqdm(stream, desc=f"score {self.index.split}", unit="batch", leave=False, disable=hidden):
                workers.progress.tick()
                if workers.progress.stop_reason() is not None:
                    break
                images_BCHW = batch.images_NCHW.to(workers.device)
                maps_MBHW, logits_BK = maps(images_BCHW, self.model_labels(batch.labels_N))
                predicted += logits_BK.argmax(1).tolist()
                pairs = zip(maps_MBHW.float().cpu().numpy().swapaxes(0, 1), batch.frame_ids_N.tolist(), strict=True)
                rows += [
                    np.array([self._iou(map_HW, frame) for map_HW in maps_MHW], np.float32) for maps_MHW, frame in pairs
                ]
        workers.agree_to_go_on(f"scoring of split {self.index.split}")
        mine = np.array_split(self.frames, workers.world)[workers.rank]
        shots = [self.index.shots[shot] for shot in self.index.frame_shot[mine].tolist()]
        facts = (
            self.labels[[shot.label for shot in shots]],
            np.array(predicted, np.int64),
            np.array([f"{shot.cls}/{shot.video}" for shot in shots], np.str_),
            mine,
            self.thresholds,
        )
        iou_FMT = np.array(rows, np.float32).reshape(len(mine), count, len(self.thresholds))
        return [FrameScores.merge(workers.gather(FrameScores(iou_FMT[:, m], *facts))) for m in range(count)]

    def model_labels(self, labels_B: Tensor) -> Tensor:
        """The model's labels for labels of the data, on the device."""
        return torch.from_numpy(self.labels)[labels_B].to(self.workers.device)

    def cam(self, model: Classifier, method: CamMethod) -> FrameScores:
        """Score a CAM of a classifier (collective)."""
        return self.score(model, cam_maps(model, method))

    def localizer(self, model: Localizer) -> FrameScores:
        """Score a localizer (collective)."""
        return self.score(model, localizer_maps(model))

    def summary(self, scores: FrameScores) -> dict[str, float]:
        """What model selection looks at: CorLoc with the best single threshold, that threshold, and accuracy."""
        threshold, value = best_threshold(scores, self.config.evaluation.iou)
        right = 100.0 * float((scores.predicted_F == scores.labels_F).mean())
        return {"corloc": value, "classification": right, "threshold": threshold}

    def truth(self, frame: int) -> NDArray[np.int64]:
        """True boxes of a frame, ``[k, 4]``, in pixels of the maps."""
        width, height = int(self.index.frame_width[frame]), int(self.index.frame_height[frame])
        return scale_boxes(self.index.boxes(frame), width, height, self.config.data.crop)

    def _iou(self, map_HW: NDArray[np.float32], frame: int) -> NDArray[np.float64]:
        boxes_T4 = boxes_over_thresholds(map_HW, self.thresholds)
        best: NDArray[np.float64] = iou_inclusive(boxes_T4, self.truth(frame)).max(1)
        return best


def _labels_by_name(index: ShotIndex, classes: Sequence[str]) -> NDArray[np.int64]:
    """int64 table from the labels of `index` to those of the run.

    Raises:
        DataError: the data has shots of a class that the run does not know.
    """
    strange = sorted({shot.cls for shot in index.shots} - set(classes))
    if strange:
        raise DataError(
            "the data has classes that the run does not know",
            where=index.location,
            got=", ".join(strange),
            wanted=", ".join(classes),
            fix="evaluate on data of the run's classes",
        )
    place = {name: number for number, name in enumerate(classes)}
    return np.array([place.get(name, -1) for name in index.classes], np.int64)
