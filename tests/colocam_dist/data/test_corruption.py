"""Two hundred random corruptions of a dataset, with fixed seeds: each is noticed, none changes a pixel in silence."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from colocam_dist.data.index import ShotIndex
from colocam_dist.data.order import uniform
from colocam_dist.data.plan import Plan
from colocam_dist.data.stream import WindowSettings, WindowStream
from colocam_dist.errors import DataError
from shards.verify import verify

BLOCK = 512
SETTINGS = WindowSettings(3, "interval", 1.0, 26, 20, True, max_bad=1.0)


def truncated_at_a_boundary(path: Path, rng: np.random.Generator) -> None:
    os.truncate(path, int(rng.integers(path.stat().st_size // BLOCK)) * BLOCK)


def truncated_in_a_header(path: Path, rng: np.random.Generator) -> None:
    offsets = headers(path)
    os.truncate(path, int(rng.choice(offsets)) + int(rng.integers(1, BLOCK)))


def truncated_in_a_payload(path: Path, rng: np.random.Generator) -> None:
    at = headers(path)
    place = int(rng.integers(len(at) - 1))
    os.truncate(path, int(rng.integers(at[place] + BLOCK + 1, at[place + 1])))


def flipped_byte(path: Path, rng: np.random.Generator) -> None:
    data = bytearray(path.read_bytes())
    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)


def zeroed_run(path: Path, rng: np.random.Generator) -> None:
    data = bytearray(path.read_bytes())
    start = int(rng.integers(len(data)))
    filled = bytes(0xFF if byte == 0 else 0 for byte in data[start : start + 64])
    data[start : start + 64] = filled
    path.write_bytes(data)


def deleted(path: Path, rng: np.random.Generator) -> None:
    path.unlink()


def emptied(path: Path, rng: np.random.Generator) -> None:
    os.truncate(path, 0)


def member_taken_out(path: Path, rng: np.random.Generator) -> None:
    members = pieces(path)
    del members[int(rng.integers(len(members) - 1))]
    path.write_bytes(b"".join(members))


def members_swapped(path: Path, rng: np.random.Generator) -> None:
    members = pieces(path)
    first, second = rng.choice(len(members) - 1, 2, replace=False)
    members[first], members[second] = members[second], members[first]
    path.write_bytes(b"".join(members))


def other_shard(path: Path, rng: np.random.Generator) -> None:
    """Another one of the dataset under this name."""
    others = sorted(other for other in path.parent.glob("*.tar") if other != path)
    shutil.copy(others[int(rng.integers(len(others)))], path)


def headers(path: Path) -> list[int]:
    """Where the members begin, and the end mark."""
    data, at, found = path.read_bytes(), 0, []
    while data[at] != 0:
        found.append(at)
        size = int(data[at + 124 : at + 135], 8)
        at += BLOCK + -(-size // BLOCK) * BLOCK
    return [*found, at]


def pieces(path: Path) -> list[bytes]:
    """The bytes of every member, and of the end."""
    data, at = path.read_bytes(), headers(path)
    return [*(data[start:stop] for start, stop in pairwise(at)), data[at[-1] :]]


OF_TARS: list[Callable[[Path, np.random.Generator], None]] = [
    truncated_at_a_boundary,
    truncated_in_a_header,
    truncated_in_a_payload,
    flipped_byte,
    zeroed_run,
    deleted,
    emptied,
    member_taken_out,
    members_swapped,
    other_shard,
]
OF_OTHERS: list[Callable[[Path, np.random.Generator], None]] = [flipped_byte, zeroed_run, deleted, emptied]


def read_epoch(folder: Path) -> tuple[list[tuple[bytes, bytes]], int]:
    """Mask and visible pixels of every window of an epoch, and the number of frames that the receipt calls damaged."""
    index = ShotIndex.open(folder, "train")
    with closing(WindowStream(index, Plan(uniform(len(index.shots), 0), 7), SETTINGS)) as stream:
        windows = [
            (mask.numpy().tobytes(), images[mask].numpy().tobytes())
            for batch in stream
            for mask, images in zip(batch.mask_WN, batch.images_WNCHW, strict=True)
        ]
        receipt = stream.receipt.as_dict()
    return windows, receipt["frames_replaced"] + receipt["frames_skipped"]


@pytest.mark.parametrize("part", range(4))
def test_two_hundred_random_corruptions_are_noticed(tiny_shards: Path, tmp_path: Path, part: int) -> None:
    whole, damaged = read_epoch(tiny_shards)
    assert damaged == 0
    unnoticed = []
    for seed in range(50 * part, 50 * (part + 1)):
        rng = np.random.default_rng(seed)
        folder = tmp_path / str(seed)
        shutil.copytree(tiny_shards, folder)
        kind = OF_TARS[seed % 10] if seed % 4 else OF_OTHERS[seed // 4 % 4]
        names = sorted(folder.glob("train-*.tar" if seed % 4 else "train[-.]*[nz]"))
        path = names[int(rng.integers(len(names)))]
        before = path.read_bytes()
        kind(path, rng)
        assert not path.exists() or path.read_bytes() != before
        what = f"seed {seed}: {kind.__name__} of {path.name}"
        if not seen_by_verify(folder):
            unnoticed.append(what)
        # The stream looks at frames only, so a changed header goes by: but then no pixel is another.
        try:
            windows, damaged = read_epoch(folder)
        except DataError:
            continue
        if windows != whole and not damaged:
            unnoticed.append(f"{what}, by the stream")
        shutil.rmtree(folder)
    assert unnoticed == []


def seen_by_verify(folder: Path) -> bool:
    try:
        return bool(verify(folder).problems)
    except DataError:
        return True
