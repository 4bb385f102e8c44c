"""Fills the report page of a run with figures, curves and pictures."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from colocam_dist.config import Config, dump
from colocam_dist.config.locations import location_name
from colocam_dist.data.frames import FrameReader, eval_frame
from colocam_dist.data.opening import caveats_of
from colocam_dist.evaluation.boxes import box_at
from colocam_dist.evaluation.corloc import RULES
from colocam_dist.inference.method import Method
from colocam_dist.inference.score import Scorer
from colocam_dist.report.curves import training_curves
from colocam_dist.report.overlays import METHOD_COLORS, TRUTH_COLOR, contact_sheet, draw_box, heat
from colocam_dist.report.page import ClassRow, Example, MethodScores, ReportData, Table, VideoRow, write_report
from colocam_dist.runs.folder import RunFolder

__all__ = ["write_summary"]

DESCRIPTIONS = {
    "cam": "CAM of the stage 1 classifier, for the true class",
    "gradcam": "Grad-CAM of the stage 1 classifier, for the true class",
    "gradcam++": "Grad-CAM++ of the stage 1 classifier, for the true class",
    "smoothgradcam++": "Smooth Grad-CAM++ of the stage 1 classifier, for the true class",
    "xgradcam": "XGrad-CAM of the stage 1 classifier, for the true class",
    "layercam": "LayerCAM of the stage 1 classifier, for the true class",
    "localizer": "foreground map of the stage 2 localizer, no class given",
}
EXAMPLES = 6
STRIPS = 3
STRIP_FRAMES = 6
COLUMNS = 4  # pictures of one frame beside each other, one per method
SIDE = 224  # pixels of a picture in the report


def write_summary(
    path: Path,
    methods: Sequence[Method],
    scorer: Scorer,
    config: Config,
    folder: RunFolder,
    tables: Sequence[Table] = (),
) -> None:
    """Write ``report.html`` with `tables` in it (rank 0 only).

    Pictures: frames with the largest gain and loss of IoU from the first method to the last, at validation thresholds,
    at most one per video; and frames across a few shots.
    """
    pictures = _Pictures(methods, scorer)
    best, worst = pictures.examples()
    metrics = folder.file("metrics.jsonl")
    rows = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.is_file() else []
    main = methods[-1].result
    data = ReportData(
        title=config.run.name,
        subtitle=f"{location_name(config.data.shards)}, split {config.data.split}: {main.frames} labeled frames of "
        f"{main.videos} videos",
        facts=[
            ("encoder", f"{config.model.encoder}, {config.data.crop} px"),
            ("window", f"{config.data.n_frames} frames, {config.data.sampling}"),
            ("seed", str(config.run.seed)),
            ("device", str(scorer.workers.device)),
            ("ranks", str(scorer.workers.world)),
        ],
        caveats=caveats_of(scorer.index.caveats, config.data),
        methods=[_scores(method) for method in methods],
        classes=_classes(methods),
        videos=_videos(methods),
        curves=training_curves(rows),
        examples_best=best,
        examples_worst=worst,
        strips=pictures.strips(),
        config_yaml=dump(config),
        versions=_versions(),
        tables=tables,
    )
    write_report(path, data)


def _scores(method: Method) -> MethodScores:
    result = method.result
    return MethodScores(
        name=method.name,
        description=DESCRIPTIONS[method.name],
        corloc=result.corloc,
        intervals=result.intervals,
        top1=result.top1,
        classification=result.classification,
        frames=result.frames,
        seconds_per_frame=method.seconds_per_frame,
    )


def _classes(methods: Sequence[Method]) -> list[ClassRow]:
    return [
        ClassRow(
            name=name,
            frames=scores.frames,
            corloc={m.name: {rule: getattr(m.result.per_class[name], rule) for rule in RULES} for m in methods},
        )
        for name, scores in methods[0].result.per_class.items()
    ]


def _videos(methods: Sequence[Method]) -> list[VideoRow]:
    rows = []
    scores = methods[0].scores
    for video in np.unique(scores.videos_F).tolist():
        mine_F = scores.videos_F == video
        rates = {m.name: 100.0 * float(_right(m)[mine_F].mean()) for m in methods}
        cls, name = video.split("/", 1)
        rows.append(VideoRow(name=name, cls=cls, frames=int(mine_F.sum()), corloc=rates))
    return rows


def _iou(method: Method) -> NDArray[np.float32]:
    """IoU of each frame at the validation threshold."""
    place = int(np.abs(method.scores.thresholds_T - method.result.thresholds["validation"]).argmin())
    chosen: NDArray[np.float32] = method.scores.iou_FT[:, place]
    return chosen


def _right(method: Method) -> NDArray[np.bool_]:
    right: NDArray[np.bool_] = _iou(method) >= method.result.iou
    return right


class _Pictures:
    """Frames with boxes and maps of every method."""

    def __init__(self, methods: Sequence[Method], scorer: Scorer) -> None:
        self.methods = methods
        self.scorer = scorer
        self.index = scorer.index

    def examples(self) -> tuple[list[Example], list[Example]]:
        """(best, worst): largest gain and loss from the first to the last method, at most one frame per video."""
        last = _iou(self.methods[-1])
        gain_F = last - _iou(self.methods[0]) if len(self.methods) > 1 else last
        scores = self.methods[0].scores
        chosen: list[list[int]] = []
        for order in (np.argsort(-gain_F, kind="stable"), np.argsort(gain_F, kind="stable")):
            _, first = np.unique(scores.videos_F[order], return_index=True)
            chosen.append(order[np.sort(first)][:EXAMPLES].tolist())
        return [self._example(place) for place in chosen[0]], [self._example(place) for place in chosen[1]]

    def strips(self) -> list[Example]:
        """Frames spread over a few shots, with the last method's map and box."""
        method = self.methods[-1]
        labeled = np.unique(self.index.frame_shot[method.scores.frames_F])
        length = np.array([self.index.shots[shot].n_frames for shot in labeled.tolist()])
        long_enough = labeled[length >= min(STRIP_FRAMES, int(length.max()))]
        wanted = long_enough[:: max(1, len(long_enough) // STRIPS)][:STRIPS]
        found = []
        for shot in (self.index.shots[number] for number in wanted.tolist()):
            count = min(STRIP_FRAMES, shot.n_frames)
            frames = np.linspace(shot.first_frame, shot.first_frame + shot.n_frames - 1, count).astype(int).tolist()
            tiles = [self._panel(frame, method) for frame in frames]
            found.append(_row(tiles, f"{shot.key}, {count} of {shot.n_frames} frames"))
        return found

    def _example(self, place: int) -> Example:
        scores = self.methods[0].scores
        frame = int(scores.frames_F[place])
        shot = self.index.shots[self.index.frame_shot[frame]]
        tiles = [self._picture(frame)] + [self._panel(frame, method) for method in self.methods]
        values = ", ".join(f"{m.name} IoU {_iou(m)[place]:.2f}" for m in self.methods)
        return Example(
            _encode(contact_sheet(tiles, COLUMNS)), f"{shot.key}, frame {self.index.frame_name[frame]}: {values}"
        )

    def _read(self, frame: int) -> NDArray[np.uint8]:
        reader = FrameReader(self.index)
        try:
            return eval_frame(reader.read(frame), self.scorer.config.data.crop)
        finally:
            reader.close()

    def _picture(self, frame: int) -> NDArray[np.uint8]:
        return self._with_truth(_square(self._read(frame).transpose(1, 2, 0)), frame)

    def _panel(self, frame: int, method: Method) -> NDArray[np.uint8]:
        """The frame with one method's heat and box, and the true boxes."""
        image_CHW = self._read(frame)
        label = self.index.shots[self.index.frame_shot[frame]].label
        with torch.inference_mode():
            images_BCHW = torch.from_numpy(image_CHW)[None].to(self.scorer.workers.device)
            map_HW = method.maps(images_BCHW, self.scorer.model_labels(torch.tensor([label])))[0][0].cpu().numpy()
        picture = heat(_square(image_CHW.transpose(1, 2, 0)), map_HW)
        box = box_at(map_HW, method.result.thresholds["validation"]) * (SIDE / self.scorer.config.data.crop)
        return draw_box(self._with_truth(picture, frame), box, METHOD_COLORS[method.name])

    def _with_truth(self, picture: NDArray[np.uint8], frame: int) -> NDArray[np.uint8]:
        scale = np.array([SIDE / self.index.frame_width[frame], SIDE / self.index.frame_height[frame]] * 2)
        for box in self.index.boxes(frame) * scale:
            picture = draw_box(picture, box, TRUTH_COLOR)
        return picture


def _square(image_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(
        cv2.resize(np.ascontiguousarray(image_HWC), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR), np.uint8
    )


def _row(tiles: Sequence[NDArray[np.uint8]], caption: str) -> Example:
    return Example(_encode(contact_sheet(tiles, len(tiles))), caption)


def _encode(image_HWC: NDArray[np.uint8]) -> bytes:
    good, data = cv2.imencode(".jpg", cv2.cvtColor(image_HWC, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    if not good:
        raise RuntimeError("OpenCV could not encode a picture of the report")
    return bytes(data)


def _versions() -> list[tuple[str, str]]:
    names = ("colocam-dist", "torch", "deepspeed", "webdataset", "opencv-python-headless", "numpy")
    found = [("python", platform.python_version())]
    for name in names:
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            found.append((name, "not installed as a package"))
    return found
