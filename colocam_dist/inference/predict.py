"""A run's localizer on new videos: class, score and box per frame, and an overlay video."""

from __future__ import annotations

import csv
import io
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from colocam_dist.config import Config, load
from colocam_dist.config.machine import Engine
from colocam_dist.data.frames import eval_frame
from colocam_dist.distributed import resolve_device
from colocam_dist.errors import RunError
from colocam_dist.evaluation.boxes import box_at
from colocam_dist.files import write_atomically
from colocam_dist.inference.evaluate import run_classes
from colocam_dist.inference.load import load_localizer
from colocam_dist.inference.sources import Clip, find_clips
from colocam_dist.models.localizer import Localizer
from colocam_dist.report.overlays import draw_prediction
from colocam_dist.report.video import VideoFile
from colocam_dist.runs.folder import RunFolder

__all__ = ["FramePrediction", "Summary", "predict", "predict_clip"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FramePrediction:
    """One frame's result.

    Attributes:
        clip: name of the clip.
        frame: number within the clip, from 0, in decoding order.
        cls: most probable class of this frame.
        score: its softmax probability, in [0, 1].
        x0, y0, x1, y1: box in pixels of the input frame; all 0 when the map has no region above the threshold.
    """

    clip: str
    frame: int
    cls: str
    score: float
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True)
class Summary:
    """What :func:`predict` did; seconds cover decoding, the network and boxes, not the overlay video."""

    clips: int
    frames: int
    seconds_per_frame: float


def predict(
    run: Path,
    source: Path,
    output: Path,
    *,
    threshold: float | None = None,
    device: str = "auto",
    overlays: bool = True,
) -> Summary:
    """Write ``predictions.json``, ``predictions.csv`` and one ``<clip>.mp4`` overlay per clip into `output`.

    Args:
        run: folder of a finished run.
        source: a video, a folder of pictures, or a folder tree of both.
        output: made if absent; files of these names in it are replaced.
        threshold: map threshold tau in (0, 1), relative to each map's maximum; None takes the one that the run's
            evaluation fixed on validation.
        device: "auto", "cpu" or "cuda".
        overlays: write the videos.

    Raises:
        RunError: no such run, no trained localizer in it, no validation threshold, or `output` cannot be written.
        DataError: nothing to read, or a damaged input.
    """
    folder = RunFolder.open(run)
    config = load(folder.config_path)
    classes = run_classes(folder)
    tau = _threshold(threshold, folder)
    clips = find_clips(source)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError("output folder cannot be made", where=output, got=error.strerror) from None
    where = resolve_device(Engine.model_validate({"device": device}), 0)
    model = load_localizer(config, folder, len(classes)).to(where)
    rows: list[FramePrediction] = []
    seconds = 0.0
    for clip in tqdm(clips, desc="predict", unit="clip", disable=None):
        video = VideoFile(output / f"{clip.name}.mp4", clip.rate()) if overlays else None
        try:
            results = predict_clip(model, clip, config, classes, tau)
            while True:
                started = time.perf_counter()
                result = next(results, None)
                seconds += time.perf_counter() - started
                if result is None:
                    break
                picture_HWC, map_HW, row = result
                rows.append(row)
                if video is not None:
                    video.write(draw_prediction(picture_HWC, map_HW, _box(row), f"{row.cls} {row.score:.2f}"))
            if video is not None:
                video.close()
        except BaseException:
            if video is not None:
                video.discard()
            raise
    _write_rows(output, rows, {"run": str(run), "threshold": tau, "classes": classes})
    return Summary(len(clips), len(rows), seconds / max(1, len(rows)))


@torch.inference_mode()
def predict_clip(
    model: Localizer, clip: Clip, config: Config, classes: Sequence[str], tau: float
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32], FramePrediction]]:
    """Frame by frame: the uint8 RGB picture ``[H, W, 3]``, its foreground map ``[crop, crop]``, and the prediction."""
    device = next(model.parameters()).device
    crop = config.data.crop
    frames = enumerate(clip.frames())
    while chunk := list(islice(frames, config.evaluation.batch)):
        images_BCHW = torch.from_numpy(np.stack([eval_frame(picture, crop) for _, picture in chunk])).to(device)
        output = model(images_BCHW)
        maps_BHW = output.map_logits_B2HW.float().softmax(1)[:, 1].cpu().numpy()
        scores_B, labels_B = output.class_logits_BK.float().softmax(1).max(1)
        for (number, picture), map_HW, score, label in zip(
            chunk, maps_BHW, scores_B.tolist(), labels_B.tolist(), strict=True
        ):
            scale = np.array(picture.shape[1::-1] * 2, np.float64) / crop
            box = np.round(box_at(map_HW, tau) * scale, 2).tolist()
            yield picture, map_HW, FramePrediction(clip.name, number, classes[label], round(score, 4), *box)


def _threshold(given: float | None, folder: RunFolder) -> float:
    if given is not None:
        if not 0.0 < given < 1.0:
            raise RunError("threshold is out of range", where="--threshold", got=given, wanted="a number in (0, 1)")
        return given
    facts: dict[str, Any] | None = folder.read_json("validation.json")
    if facts is None or "localizer" not in facts:
        raise RunError(
            "the run has not been evaluated, so its threshold is unknown",
            where=folder.path,
            fix=f"python launchers/evaluate.py --run {folder.path}, or give --threshold",
        )
    return float(facts["localizer"]["threshold"])


def _box(row: FramePrediction) -> tuple[float, float, float, float]:
    return row.x0, row.y0, row.x1, row.y1


def _write_rows(output: Path, rows: list[FramePrediction], facts: dict[str, Any]) -> None:
    table = io.StringIO()
    names = [*FramePrediction.__dataclass_fields__]
    writer = csv.DictWriter(table, fieldnames=names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_atomically(output / "predictions.csv", table.getvalue())
    write_atomically(
        output / "predictions.json", json.dumps({**facts, "frames": [asdict(row) for row in rows]}, indent=1)
    )
