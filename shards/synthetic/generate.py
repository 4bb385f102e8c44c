"""Write generated clips as video files with tables of their splits and boxes, as a user would bring them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path

import cv2
import numpy as np

from colocam_dist.data.rng import generator
from colocam_dist.errors import ConfigError, DataError
from colocam_dist.files import sha256_of
from shards.files import remove_leftovers, replaced, replaced_path
from shards.pool import run_jobs
from shards.sources.base import fingerprint_of, share_out
from shards.synthetic.backgrounds import load_photo, photo_files
from shards.synthetic.scene import Box, Scene, render
from shards.synthetic.sprites import KINDS

__all__ = ["SyntheticOptions", "generate_videos"]

_VERSION = 1  # to be raised whenever equal options give other clips than before
_FRAMES_PER_SECOND = 12
_NOTE = "generated.json"


@dataclass(frozen=True)
class SyntheticOptions:
    """What is generated.

    Attributes:
        classes: number of classes, 2..8.
        clips_per_class: clips of each class, all splits together.
        frames: frames of each clip.
        width: pixels, even.
        height: pixels, even.
        seed: another seed gives other clips.
        backgrounds: folder of photographs; None = those that scikit-image ships.
        fractions: shares of the splits.
    """

    classes: int
    clips_per_class: int
    frames: int
    width: int
    height: int
    seed: int
    backgrounds: Path | None
    fractions: dict[str, float]


@dataclass(frozen=True)
class _ClipJob:
    path: Path
    cls: str
    number: int
    photos: tuple[Path, ...]
    options: SyntheticOptions


def generate_videos(folder: Path, options: SyntheticOptions, *, workers: int, overwrite: bool) -> Path:
    """Write ``class/clip-000.mp4`` ..., ``boxes.csv`` and ``videos.csv``; do nothing if that was done before.

    Args:
        folder: where to.
        options: what to draw; equal options give equal bytes with the same OpenCV and NumPy.
        workers: number of processes; does not change the bytes.
        overwrite: whether clips of other options may be replaced.

    Returns:
        Path of ``videos.csv``.

    Raises:
        ConfigError: an option is out of range.
        DataError: no backgrounds; the folder holds clips of other options; OpenCV cannot write video.
    """
    _check(options)
    photos = photo_files(options.backgrounds)
    drawn = {**asdict(options), "backgrounds": [sha256_of(path) for path in photos]}
    note = {"fingerprint": fingerprint_of(_VERSION, cv2.__version__, np.__version__, drawn)}
    jobs = [
        _ClipJob(folder / cls / f"clip-{number:03d}.mp4", cls, number, photos, options)
        for cls in list(KINDS)[: options.classes]
        for number in range(options.clips_per_class)
    ]
    if (folder / _NOTE).is_file():
        if json.loads((folder / _NOTE).read_bytes()) == note and all(job.path.is_file() for job in jobs):
            return folder / "videos.csv"
        if not overwrite:
            raise DataError(
                "the folder holds generated clips of other options, or of another OpenCV or NumPy",
                where=folder,
                fix="write to another folder, or give --overwrite to replace them",
            )
        (folder / _NOTE).unlink()
    for cls in {job.cls for job in jobs}:
        (folder / cls).mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder / cls)
    boxes = run_jobs(_write_clip, jobs, workers=workers, title="clips", unit="clip")
    _write_tables(folder, jobs, boxes, options)
    with replaced(folder / _NOTE) as stream:
        stream.write(json.dumps(note).encode())
    return folder / "videos.csv"


def _check(options: SyntheticOptions) -> None:
    for name, value, low, high in (
        ("--classes", options.classes, 2, len(KINDS)),
        ("--clips-per-class", options.clips_per_class, 1, 100_000),
        ("--frames", options.frames, 1, 10_000),
        ("--size (width)", options.width, 32, 4096),
        ("--size (height)", options.height, 32, 4096),
    ):
        if not low <= value <= high:
            raise ConfigError(f"{name} is out of range", got=value, wanted=f"{low} to {high}")
    if options.width % 2 or options.height % 2:
        raise ConfigError(
            "video needs even sides", where="--size", got=f"{options.width}x{options.height}", wanted="even numbers"
        )


def _write_clip(job: _ClipJob) -> list[Box | None]:
    """Render one clip and write it; returns the box of each frame."""
    options = job.options
    rng = generator(options.seed, 0, job.number, f"synthetic clip of {job.cls}")
    photo, bar_photo = (load_photo(job.photos[i]) for i in rng.integers(len(job.photos), size=2))
    scene = Scene(KINDS[job.cls], photo, bar_photo, options.frames, options.width, options.height)
    images, boxes = render(scene, rng)
    with replaced_path(job.path) as temporary:
        writer = cv2.VideoWriter(
            str(temporary),
            cv2.CAP_FFMPEG,
            cv2.VideoWriter.fourcc(*"mp4v"),
            _FRAMES_PER_SECOND,
            (options.width, options.height),
        )
        if not writer.isOpened():
            raise DataError("this OpenCV cannot write MPEG-4 video", where=job.path, fix="install a build with FFmpeg")
        for image in images:
            writer.write(image)
        writer.release()
    return boxes


def _write_tables(
    folder: Path, jobs: Sequence[_ClipJob], boxes: Sequence[list[Box | None]], options: SyntheticOptions
) -> None:
    splits = share_out(options.clips_per_class, options.fractions)
    videos, rows = [], []
    for job, clip in zip(jobs, boxes, strict=True):
        path = job.path.relative_to(folder).as_posix()
        videos.append((path, job.cls, splits[job.number]))
        if splits[job.number] != "train":  # training has class tags only
            rows += [(path, number, *box) for number, box in enumerate(clip) if box is not None]
    _write_table(folder / "boxes.csv", ("path", "frame", "x0", "y0", "x1", "y1"), rows)
    _write_table(folder / "videos.csv", ("path", "class", "split"), videos)


def _write_table(path: Path, header: Iterable[object], rows: Iterable[Iterable[object]]) -> None:
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    with replaced(path) as stream:
        stream.write(text.getvalue().encode())
