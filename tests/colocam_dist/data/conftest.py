"""Small splits with chosen shot lengths: frames end to end in shard files, and the index that describes them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from colocam_dist.data.index import ShotIndex
from colocam_dist.data.shots import Shots
from colocam_dist.data.storage import LocalFolder, ShardFile

MakeIndex = Callable[..., ShotIndex]


def _jpegs(count: int, size: tuple[int, int], rng: np.random.Generator) -> list[bytes]:
    """Frames of one shot, [height, width] = size: a smooth picture that moves, so all frames differ."""
    coarse = rng.integers(0, 255, (5, 7, 3), dtype=np.uint8)
    picture = cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
    return [cv2.imencode(".jpg", np.roll(picture, 3 * number, axis=1))[1].tobytes() for number in range(count)]


@pytest.fixture
def make_index(tmp_path: Path) -> MakeIndex:
    """make_index(lengths, size=(height, width), shards=3): a split with these shot lengths in a folder of its own."""

    def make(lengths: Sequence[int], *, size: tuple[int, int] = (45, 61), shards: int = 3) -> ShotIndex:
        rng = np.random.default_rng(len(lengths))
        paths = tuple(tmp_path / f"train-{number:06d}.tar" for number in range(shards))
        contents = [bytearray() for _ in paths]
        shots, rows = [], []
        for shot, length in enumerate(lengths):
            shard = shot * shards // len(lengths)
            label = shot % 3
            key = f"{'abc'[label]}/video é{shot // 2}/{shot}"
            shots.append((key.encode(), key.split("/")[1].encode(), label, len(rows), length, shard))
            for number, data in enumerate(_jpegs(length, size, rng)):
                contents[shard] += b"\0" * 512
                rows.append((shard, len(contents[shard]), len(data), zlib.crc32(data), f"frame{number:04d}.jpg", shot))
                contents[shard] += data
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
        shard_F, offset_F, size_F, crc_F, name_F, shot_F = zip(*rows, strict=True)
        kinds = (np.bytes_, np.bytes_, np.int32, np.int64, np.int32, np.int32)
        columns = [np.array(column, kind) for column, kind in zip(zip(*shots, strict=True), kinds, strict=True)]
        storage = LocalFolder(tmp_path)
        return ShotIndex(
            location=str(tmp_path),
            split="train",
            classes=("a", "b", "c"),
            caveats=(),
            shots=Shots(("a", "b", "c"), *columns, source=np.zeros(len(shots), np.int16)),
            fingerprint="0123456789abcdef" * 4,
            shards=tuple(ShardFile(storage, path.name, path.stat().st_size, "") for path in paths),
            skipped_shards=(),
            frame_shard=np.array(shard_F, np.int32),
            frame_offset=np.array(offset_F, np.int64),
            frame_size=np.array(size_F, np.int32),
            frame_crc32=np.array(crc_F, np.uint32),
            frame_width=np.full(len(rows), size[1], np.int32),
            frame_height=np.full(len(rows), size[0], np.int32),
            frame_name=np.array(name_F),
            frame_shot=np.array(shot_F, np.int32),
            box_frame=np.zeros(0, np.int64),
            box_xyxy=np.zeros((0, 4), np.float32),
        )

    return make


@pytest.fixture
def damage() -> Callable[[ShotIndex, Sequence[int]], None]:
    """damage(index, frames): flip one bit in the middle of each of these frames."""

    def flip(index: ShotIndex, frames: Sequence[int]) -> None:
        for frame in frames:
            with index.shard_paths[index.frame_shard[frame]].open("r+b") as shard:
                place = int(index.frame_offset[frame] + index.frame_size[frame] // 2)
                shard.seek(place)
                byte = shard.read(1)[0]
                shard.seek(place)
                shard.write(bytes([byte ^ 1]))

    return flip
