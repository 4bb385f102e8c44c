"""Frames to predict on: a video file, a folder of pictures (one clip), or a folder tree of both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from colocam_dist.data.containers import truncation
from colocam_dist.errors import DataError
from colocam_dist.files import VIDEO_SUFFIXES

__all__ = ["Clip", "find_clips"]

PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


@dataclass(frozen=True)
class Clip:
    """One video or one folder of pictures.

    Attributes:
        name: path relative to the input, without suffix, with ``/`` replaced by ``__``: unique, fit for a file name.
        files: the video alone, or the pictures in name order.
    """

    name: str
    files: tuple[Path, ...]

    @property
    def is_video(self) -> bool:
        """A video file, not pictures."""
        return self.files[0].suffix.lower() in VIDEO_SUFFIXES

    def rate(self) -> float:
        """Frames per second: the video's own, 10 for pictures or when the file does not say."""
        if not self.is_video:
            return 10.0
        capture = cv2.VideoCapture(str(self.files[0]))
        rate = float(capture.get(cv2.CAP_PROP_FPS))
        capture.release()
        return rate if 0.1 <= rate <= 240.0 else 10.0

    def stamp(self) -> str:
        """Digest over the files' names, sizes and times of change: another one when the input has changed.

        Raises:
            DataError: a file is not there any more.
        """
        digest = sha256()
        for path in self.files:
            try:
                facts = path.stat()
            except OSError as error:
                raise DataError("an input is gone", where=path, got=error.strerror) from None
            digest.update(f"{path.name}\0{facts.st_size}\0{facts.st_mtime_ns}\0".encode())
        return digest.hexdigest()

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """uint8 RGB ``[H, W, 3]`` frames in order, decoded in sequence; all of the first one's size.

        Raises:
            DataError: a video is cut off, nothing can be decoded, a picture is damaged, or pictures differ in size.
        """
        pictures = self._decode_video() if self.is_video else self._decode_pictures()
        size: tuple[int, ...] | None = None
        for number, picture in enumerate(pictures):
            if size is not None and picture.shape != size:
                raise DataError(
                    "the frames of a clip differ in size",
                    where=f"{self.files[0].parent if not self.is_video else self.files[0]}, frame {number}",
                    got=picture.shape[1::-1],
                    wanted=size[1::-1],
                    fix="put pictures of different sizes into folders of their own",
                )
            size = picture.shape
            yield cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
        if size is None:
            raise DataError("no frame can be decoded", where=self.files[0], fix="check that the file plays elsewhere")

    def _decode_video(self) -> Iterator[NDArray[np.uint8]]:
        (path,) = self.files
        try:
            missing = truncation(path)  # of which a decoder says nothing: it gives the frames that are left
        except OSError as error:
            raise DataError("video cannot be read", where=path, got=error.strerror) from None
        if missing:
            raise DataError("video is damaged", where=path, got=missing, fix="get the whole file, or remove this one")
        capture = cv2.VideoCapture(str(path))
        try:
            while True:
                good, picture = capture.read()
                if not good:
                    return
                yield np.asarray(picture, np.uint8)
        finally:
            capture.release()

    def _decode_pictures(self) -> Iterator[NDArray[np.uint8]]:
        for path in self.files:
            picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if picture is None:
                raise DataError("picture cannot be decoded", where=path, fix="remove or replace it")
            yield np.asarray(picture, np.uint8)


def find_clips(source: Path) -> list[Clip]:
    """The clips of `source`, sorted by name: itself if it is a video, else every video and every folder of pictures.

    Raises:
        DataError: there is nothing to read, or two clips would have the same name.
    """
    if not source.exists():
        raise DataError("input does not exist", where=source)
    if source.is_file():
        if source.suffix.lower() not in {*VIDEO_SUFFIXES, *PICTURES}:
            raise DataError("input is no video", where=source, wanted=f"one of {', '.join(VIDEO_SUFFIXES)}")
        return [Clip(source.stem, (source,))]
    clips = []
    for folder in [source, *sorted(path for path in source.rglob("*") if path.is_dir())]:
        files = sorted(path for path in folder.iterdir() if path.is_file())
        pictures = tuple(path for path in files if path.suffix.lower() in PICTURES)
        if pictures:
            clips.append(Clip(_name(folder, source) or source.resolve().name, pictures))
        videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
        clips += [Clip(_name(path.with_suffix(""), source), (path,)) for path in videos]
    if not clips:
        wanted = f"videos ({', '.join(VIDEO_SUFFIXES)}) or pictures ({', '.join(sorted(PICTURES))})"
        raise DataError("no video and no picture in the input", where=source, wanted=wanted)
    names = [clip.name for clip in clips]
    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        raise DataError("two inputs have the same name", where=source, got=", ".join(double), fix="rename one of them")
    return clips


def _name(path: Path, root: Path) -> str:
    return "__".join(path.relative_to(root).parts)
