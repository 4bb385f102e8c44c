"""Miniature raw trees of YouTube-Objects in the exact layouts of the releases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

CLASSES = ("aeroplane", "bird", "boat", "car", "cat", "cow", "dog", "horse", "motorbike", "train")
Boxes = Sequence[Sequence[float]]


def savemat(path: Path, variables: dict[str, object]) -> None:
    """Write a MATLAB file, or skip the test where SciPy is absent."""
    pytest.importorskip("scipy.io", reason="MATLAB files need SciPy").savemat(path, variables)


@dataclass
class RawV1:
    """``<class>/data/<video>/shots/<shot>/frameNNNN.jpg`` and box files beside the frames."""

    root: Path
    picture: Callable[[int, int], bytes]
    sets: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def video(self, split: str, cls: str, video: str) -> None:
        """List a video in sets/."""
        self.sets.setdefault((cls, split), []).append(video)
        (self.root / cls / "data" / video / "shots").mkdir(parents=True, exist_ok=True)

    def shot(self, cls: str, video: str, shot: str, frames: int, boxes: dict[int, Boxes] | None = None) -> Path:
        """Add a shot of frames 1, 2, ...; boxes by frame number."""
        folder = self.root / cls / "data" / video / "shots" / shot
        folder.mkdir(parents=True)
        for number in range(1, frames + 1):
            (folder / f"frame{number:04d}.jpg").write_bytes(self.picture(61, 45))
        for number, of_frame in (boxes or {}).items():
            self.sticks(folder / f"frame{number:04d}.jpg", of_frame)
        return folder

    def sticks(self, frame: Path, boxes: Boxes) -> None:
        """Write a box file: a cell array of four numbers each."""
        cells = np.empty((1, len(boxes)), object)
        for number, box in enumerate(boxes):
            cells[0, number] = np.array([box], np.float64)
        savemat(frame.with_name(f"{frame.name}_sticks.mat"), {"coor": cells})

    def save(self) -> Path:
        """Write sets/; classes without one get empty lists."""
        for cls in CLASSES:
            (self.root / cls / "data").mkdir(parents=True, exist_ok=True)
            (self.root / cls / "sets").mkdir(exist_ok=True)
            for split in ("train", "test"):
                videos = self.sets.get((cls, split), [])
                (self.root / cls / "sets" / f"{split}.txt").write_text("".join(f"{video}\n" for video in videos))
        return self.root


@dataclass
class RawV2:
    """``<class>/NNNNNNNN.jpg``, ``Ranges/`` and ``GroundTruth/``."""

    root: Path
    picture: Callable[[int, int], bytes]
    ranges: dict[str, list[tuple[int, int, int]]] = field(default_factory=dict)
    truth: dict[tuple[str, str], list[tuple[str, Boxes]]] = field(default_factory=dict)

    def shot(self, cls: str, first: int, last: int, video: int) -> None:
        """Add a shot with its frames."""
        self.ranges.setdefault(cls, []).append((first, last, video))
        (self.root / cls).mkdir(parents=True, exist_ok=True)
        for frame in range(first, last + 1):
            path = self.root / cls / f"{frame:08d}.jpg"
            if not path.exists():
                path.write_bytes(self.picture(61, 45))

    def label(self, kind: str, cls: str, frame: int, boxes: Boxes) -> None:
        """Add boxes to the ground truth "Training" or "Test"."""
        self.truth.setdefault((cls, kind), []).append((f"{cls}{frame:08d}", boxes))

    def save(self) -> Path:
        """Write Ranges/ and GroundTruth/ of all ten classes."""
        for cls in CLASSES:
            (self.root / cls).mkdir(parents=True, exist_ok=True)
            columns = np.array(self.ranges.get(cls, []), np.float64).reshape(-1, 3).T
            (self.root / "Ranges").mkdir(exist_ok=True)
            savemat(self.root / "Ranges" / f"ranges_{cls}.mat", {"ranges": columns})
            folder = self.root / "GroundTruth" / cls
            folder.mkdir(parents=True, exist_ok=True)
            for kind in ("Training", "Test"):
                entries = self.truth.get((cls, kind), [])
                table = np.empty((1, len(entries)), [("id", object), ("bb", object)])
                for number, (name, boxes) in enumerate(entries):
                    table[0, number] = (name, np.array(boxes, np.float64))
                savemat(folder / f"bb_gt{kind}_{cls}.mat", {f"bb_gt{kind}": table})
        return self.root


@pytest.fixture(scope="session")
def small_jpeg(
    picture: Callable[[int, int, int], np.ndarray], jpeg: Callable[..., bytes]
) -> Callable[[int, int], bytes]:
    """small_jpeg(width, height): another picture at every call."""
    made = iter(range(10**9))
    return lambda width, height: jpeg(picture(next(made), width, height))


@pytest.fixture
def raw_v1(tmp_path: Path, small_jpeg: Callable[[int, int], bytes]) -> RawV1:
    """An empty RawV1."""
    return RawV1(tmp_path / "v1", small_jpeg)


@pytest.fixture
def raw_v2(tmp_path: Path, small_jpeg: Callable[[int, int], bytes]) -> RawV2:
    """An empty RawV2."""
    return RawV2(tmp_path / "v2", small_jpeg)


def _box(data: bytes, path: Sequence[bytes], start: int = 0, stop: int | None = None) -> list[int]:
    """Where the nested boxes of an MP4 begin, outermost first."""
    at = start
    while at < (len(data) if stop is None else stop):
        size = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == path[0]:
            return [at, *(_box(data, path[1:], at + 8, at + size) if len(path) > 1 else [])]
        at += size
    raise KeyError(path[0])


def _replace(data: bytes, path: Sequence[bytes], box: bytes, *, insert: bool = False) -> bytes:
    """Replace a nested box, or put another one in front of it; the sizes of those around it follow."""
    places = _box(data, path)
    at = places[-1]
    size = 0 if insert else int.from_bytes(data[at : at + 4], "big")
    changed = bytearray(data[:at] + box + data[at + size :])
    for place in places[:-1]:
        old = int.from_bytes(data[place : place + 4], "big")
        changed[place : place + 4] = (old + len(box) - size).to_bytes(4, "big")
    return bytes(changed)


def _full_box(kind: bytes, *words: int) -> bytes:
    body = b"".join((word & 0xFFFFFFFF).to_bytes(4, "big") for word in words)
    return (8 + len(body)).to_bytes(4, "big") + kind + body


@pytest.fixture
def edit_mp4() -> Callable[..., None]:
    """edit_mp4(path, durations=..., start=..., quarter_turns=...): change the headers of an MP4 of OpenCV's writer.

    Durations of the frames in seconds; seconds that an edit list cuts off at the start; clockwise turns of 90 degrees.
    """

    def edit(
        path: Path, *, durations: Sequence[float] = (), start: float | None = None, quarter_turns: int = 0
    ) -> None:
        data = path.read_bytes()
        media = (b"moov", b"trak", b"mdia")
        scale = int.from_bytes(data[(at := _box(data, (*media, b"mdhd"))[-1]) + 20 : at + 24], "big")
        if durations:
            words = [word for duration in durations for word in (1, round(duration * scale))]
            stts = _full_box(b"stts", 0, len(durations), *words)
            data = _replace(data, (*media, b"minf", b"stbl", b"stts"), stts)
            start = start or 0.0  # the writer's own edit list has the old length
        if start is not None:
            movie = int.from_bytes(data[(at := _box(data, (b"moov", b"mvhd"))[-1]) + 20 : at + 24], "big")
            elst = _full_box(b"elst", 0, 1, 10 * movie, round(start * scale), 0x00010000)
            edts = (8 + len(elst)).to_bytes(4, "big") + b"edts" + elst
            try:
                data = _replace(data, (b"moov", b"trak", b"edts"), edts)
            except KeyError:
                data = _replace(data, media, edts, insert=True)
        if quarter_turns:
            at = _box(data, (b"moov", b"trak", b"tkhd"))[-1] + 8 + 40  # the matrix of a version 0 header
            cos, sin = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarter_turns % 4]
            words = [cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 0x40000000]
            matrix = b"".join((word & 0xFFFFFFFF).to_bytes(4, "big") for word in words)
            data = data[:at] + matrix + data[at + 36 :]
        path.write_bytes(data)

    return edit
