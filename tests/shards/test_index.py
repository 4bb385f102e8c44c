from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from colocam_dist.data.index import ShotIndex
from colocam_dist.data.manifest import seal_manifest
from colocam_dist.errors import ConfigError, DataError
from shards.dataset import BuildOptions, build_dataset
from shards.images import PictureRule
from shards.index import main, rebuild_indexes
from shards.sources.frames_csv import read_frames_csv
from shards.verify import verify


@pytest.fixture
def copy(tiny_shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_shards, tmp_path / "copy"))


@pytest.mark.parametrize("workers", [1, 2])
def test_lost_and_damaged_indexes_are_made_again(copy: Path, tiny_shards: Path, workers: int) -> None:
    (copy / "train-000001.idx.npz").unlink()
    (copy / "train-000003.idx.npz").write_bytes(b"PK")
    (copy / "val-000000.idx.npz").unlink()
    with pytest.raises(DataError, match="2 of 6 shards"):
        ShotIndex.open(copy, "train")
    written = rebuild_indexes(copy, workers=workers)
    assert written == ["train-000001.idx.npz", "train-000003.idx.npz", "val-000000.idx.npz"]
    for name in written:
        assert (copy / name).read_bytes() == (tiny_shards / name).read_bytes()
    assert verify(copy).problems == ()
    assert rebuild_indexes(copy) == []


def test_a_manifest_that_knows_another_layout_is_brought_up_to_date(copy: Path) -> None:
    path = copy / "val.manifest.json"
    manifest = json.loads(path.read_text())
    manifest["shards"][1]["index_sha256"] = "0" * 64
    path.write_bytes(seal_manifest(manifest))
    with pytest.raises(DataError, match="not those which were written"):
        ShotIndex.open(copy, "val")
    assert rebuild_indexes(copy) == ["val-000001.idx.npz"]
    assert verify(copy).problems == ()


def test_a_damaged_shard_gives_no_index(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train-000001", "train-000002"):
        (copy / f"{name}.idx.npz").unlink()
    data = bytearray((copy / "train-000002.tar").read_bytes())
    data[2000] ^= 1
    (copy / "train-000002.tar").write_bytes(data)
    with pytest.raises(DataError, match=r"index cannot be made(.|\n)*train-000002.tar(.|\n)*another sha256"):
        main([str(copy)])
    assert not (copy / "train-000002.idx.npz").exists()


def test_a_folder_without_shards(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finished shards"):
        rebuild_indexes(tmp_path)


def test_a_dataset_at_a_url_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"datasets of this machine only\n  where: s3://b/x\n"):
        main(["s3://b/x"])


@pytest.mark.slow
def test_five_thousand_members_per_second(frame_folder: Any, tmp_path: Path) -> None:
    for shot in range(10):
        frame_folder.add_shot("train", f"cat/v{shot}/s", 128, size=(320, 240), seed=shot)
    rule = PictureRule(0, 0, 95)
    build_dataset(read_frames_csv(frame_folder.save(), rule), tmp_path / "out", BuildOptions(rule))
    members = 10 * (128 + 2)
    times = []
    for _ in range(3):
        (tmp_path / "out/train-000000.idx.npz").unlink()
        began = time.process_time()
        assert rebuild_indexes(tmp_path / "out") == ["train-000000.idx.npz"]
        times.append(time.process_time() - began)
    assert members / min(times) > 5000


def test_it_says_what_it_did(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "val-000000.idx.npz").unlink()
    assert main([str(copy)]) == 0
    assert capsys.readouterr().out == "1 index files were written: val-000000.idx.npz\n"
