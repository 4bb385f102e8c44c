from __future__ import annotations

import gc
import io
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import webdataset

from colocam_dist.data.index import ShotIndex
from colocam_dist.errors import DataError
from shards.dataset import BuildOptions, build_dataset
from shards.images import PictureRule
from shards.output import LocalOutput
from shards.sources.frames_csv import read_frames_csv
from shards.writer import ShardJob, finished_shard, piece_key, slug


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves its files to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_stock_webdataset_reads_it(tiny_shards: Path) -> None:
    index = ShotIndex.open(tiny_shards, "val")
    urls = [str(path) for path in index.shard_paths]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    frames = 0
    for sample in samples:
        facts = json.loads(sample["json"])
        pictures = sorted(key for key in sample if key.endswith("jpg"))
        assert len(pictures) == len(facts["frames"]) == len(facts["sizes"]) <= 4
        assert pictures[0] == f"{facts['start']:04d}.jpg"
        for position, key in enumerate(pictures):
            image = cv2.imdecode(np.frombuffer(sample[key], np.uint8), cv2.IMREAD_COLOR)
            assert [image.shape[1], image.shape[0]] == facts["sizes"][position]
            assert facts["boxes"][str(position)] == [
                pytest.approx(box, abs=1e-3) for box in index.boxes(frames).tolist()
            ]
            frames += 1
    gc.collect()
    assert frames == index.n_frames
    assert len(samples) == sum(-(-shot.n_frames // 4) for shot in index.shots)


def test_tar_unpacks_it(tiny_shards: Path, tmp_path: Path) -> None:
    index = ShotIndex.open(tiny_shards, "test")
    subprocess.run(["tar", "xf", index.shard_paths[0], "-C", tmp_path], check=True)
    frames = int((index.frame_shard == 0).sum())
    assert len(list(tmp_path.glob("*.jpg"))) == frames
    name = index.shots[0].key.replace("/", "__") + "__0000.0000.jpg"
    with index.shard_paths[0].open("rb") as stream:
        stream.seek(int(index.frame_offset[0]))
        assert (tmp_path / name).read_bytes() == stream.read(int(index.frame_size[0]))


def test_headers_hold_nothing_of_the_machine(tiny_shards: Path) -> None:
    data = (tiny_shards / "val-000000.tar").read_bytes()
    assert data[257:265] == b"ustar\x0000"
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            facts = (member.mtime, member.uid, member.gid, member.uname, member.gname, member.mode, member.type)
            assert facts == (0, 0, 0, "", "", 0o444, tarfile.REGTYPE)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "list": lambda data: b"[]",
    "nothing": lambda data: b"{}",
    "no inputs": lambda data: data.replace(b'"inputs"', b'"output"'),
    "no checksum": lambda data: data.replace(b'"checksum"', b'"checksun"'),
    "no shard": lambda data: data.replace(b'"shard"', b'"shart"'),
    "text": lambda data: data.replace(b'"warnings": []', b'"warnings": 7'),
    "another sha256": lambda data: re.sub(rb'("sha256": ")(.)', lambda m: m[1] + b"%x" % (int(m[2], 16) ^ 1), data),
    "another number": lambda data: re.sub(rb'("frames": )\d+', rb"\g<1>7777", data),
    "nested": lambda data: b"[" * 200_000,
    "large": lambda data: b" " * (16 << 20) + data,
    "no text": lambda data: b"\xff" + data,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_note_vouches_for_nothing(tiny_frames: Path, tiny_shards: Path, tmp_path: Path, kind: str) -> None:
    folder = Path(shutil.copytree(tiny_shards, tmp_path / "copy"))
    note = folder / "train-000002.done"
    whole = note.read_bytes()
    note.write_bytes(DAMAGE[kind](whole))
    assert note.read_bytes() != whole
    inputs = read_frames_csv(tiny_frames, PictureRule(0, 0, 95))
    options = BuildOptions(PictureRule(0, 0, 95), frames_per_piece=4, shard_mb=0.04, splits=("train",))
    with pytest.raises(
        DataError, match=r"1 shards of split 'train' (.|\n)*damaged since(.|\n)*got: train-000002\.done"
    ):
        build_dataset(inputs, folder, options)
    (train,) = build_dataset(inputs, folder, replace(options, overwrite=True))
    assert (train.kept, train.shards) == (5, 6)
    assert note.read_bytes() == whole


def test_a_note_that_cannot_be_fetched_is_not_taken_for_a_damaged_one() -> None:
    class Unreachable(LocalOutput):
        def read(self, name: str, limit: int) -> bytes:
            raise DataError("no way to it")

    job = ShardJob(Unreachable(Path("x")), "train-000000.tar", (), PictureRule(0, 0, 95), 4, {})
    with pytest.raises(DataError, match="no way to it"):
        finished_shard(job)


def test_slugs() -> None:
    assert slug("video-0012_b", 32) == "video-0012_b"
    names = ["v1.0", "v1-0", "v1 0", "v1__0", "v1_0", "_v1_0", "v1_0_", "Żaba", "ż", "", "x" * 40, "x" * 41, "../v"]
    slugs = [slug(name, 32) for name in names]
    assert len(set(slugs)) == len(names)
    for text in slugs:
        assert len(text) <= 32
        assert text.isascii()
        assert text.replace("-", "").replace("_", "").isalnum()
        assert "__" not in text
    assert len(piece_key("c" * 99, "v" * 99, "s" * 99, 123456) + ".123456.jpg") <= 100
