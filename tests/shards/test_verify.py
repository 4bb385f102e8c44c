from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from colocam_dist.data.index import ShotIndex
from colocam_dist.data.manifest import INDEX_DTYPES, seal_manifest
from colocam_dist.errors import ConfigError, DataError
from shards.verify import main, verify


@pytest.fixture
def copy(tiny_shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_shards, tmp_path / "copy"))


def lines(folder: Path) -> list[str]:
    return [" ".join(filter(None, (p.file, p.part, p.what))) for p in verify(folder).problems]


def flip(path: Path, position: int, bit: int = 0x10) -> None:
    with path.open("r+b") as stream:
        stream.seek(position)
        (byte,) = stream.read(1)
        stream.seek(position)
        stream.write(bytes([byte ^ bit]))


def test_a_sound_dataset(tiny_shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = verify(tiny_shards)
    assert (report.shards, report.frames, report.problems) == (10, 153, ())
    assert main([str(tiny_shards)]) == 0
    assert "10 shards with 153 frames" in capsys.readouterr().out


def test_files_that_are_cut_off_or_gone(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = (copy / "train-000002.tar").stat().st_size
    with (copy / "train-000002.tar").open("r+b") as stream:
        stream.truncate(size - 10240)
    (copy / "val-000000.tar").unlink()
    (copy / "test-000001.idx.npz").unlink()
    shutil.copy(copy / "train-000000.tar", copy / "train-000077.tar")
    assert lines(copy) == [
        "train-000077.tar not in the manifest of its split",
        f"train-000002.tar {size - 10240} bytes long instead of {size}",
        "val-000000.tar missing",
        "test-000001.tar its index test-000001.idx.npz is missing",
    ]
    assert main([str(copy)]) == 1
    assert "4 problems in 10 shards" in capsys.readouterr().out


def test_manifests_that_cannot_be_read_are_problems_with_many_processes_too(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for manifest in copy.glob("*.manifest.json"):
        manifest.write_text("{")
    assert main([str(copy), "--workers", "4"]) == 1
    out = capsys.readouterr().out
    assert "train.manifest.json" in out
    assert "in 0 shards" in out


def test_a_flipped_byte_in_a_picture(copy: Path) -> None:
    index = ShotIndex.open(copy, "val")
    frame = 7
    assert index.frame_shard[frame] == 0
    flip(copy / "val-000000.tar", int(index.frame_offset[frame] + index.frame_size[frame] - 40))
    shot = index.shots[index.frame_shot[frame]].key
    found = lines(copy)
    assert found[0] == "val-000000.tar its sha256 is not that of the manifest"
    assert (
        f"val-000000.tar {shot} frame {index.frame_name[frame]} frame_crc32 differs between index and tar" in found[1:]
    )


def test_a_flipped_byte_in_the_size_of_a_picture(copy: Path) -> None:
    index = ShotIndex.open(copy, "val")
    data = (copy / "val-000000.tar").read_bytes()
    flip(copy / "val-000000.tar", data.index(b"\xff\xc0", int(index.frame_offset[0])) + 6)
    assert any("__0000.0000.jpg" in line and "pixels instead of" in line for line in lines(copy))


def test_a_flipped_byte_in_a_header(copy: Path) -> None:
    index = ShotIndex.open(copy, "val")
    flip(copy / "val-000000.tar", int(index.frame_offset[3]) - 512 + 5)
    found = lines(copy)
    assert found[0].endswith("its sha256 is not that of the manifest")
    assert "val-000000.tar not a tar of pieces, after 3 frames: the header at byte" in found[1]


def test_a_flipped_byte_in_the_facts(copy: Path) -> None:
    data = (copy / "val-000000.tar").read_bytes()
    flip(copy / "val-000000.tar", data.index(b'"boxes":{"0":[[') + 15, bit=1)  # a digit stays one
    found = lines(copy)
    assert len(found) == 2
    assert "box_xyxy differs between index and tar" in found[1]


@pytest.mark.parametrize("key", [key for key in INDEX_DTYPES if key != "box_frame"])
def test_an_index_that_is_not_that_of_the_tar(copy: Path, key: str) -> None:
    path = copy / "test-000000.idx.npz"
    with np.load(path) as stored:
        tables = {name: stored[name].copy() for name in INDEX_DTYPES}
    tables[key] = np.char.add(tables[key], "x") if tables[key].dtype.kind == "U" else tables[key] + 1
    np.savez(path, **tables)
    first, *found = lines(copy)
    assert first == "test-000000.tar the sha256 of its index test-000000.idx.npz is not that of the manifest"
    assert found
    assert all(f" {key} differs " in line for line in found)
    assert len(found) <= 6


def test_an_index_with_missing_rows(copy: Path) -> None:
    path = copy / "test-000000.idx.npz"
    with np.load(path) as stored:
        tables = {name: stored[name] for name in INDEX_DTYPES}
    np.savez(path, **{**tables, "box_frame": tables["box_frame"][1:]})
    _, line = lines(copy)
    assert f"box_frame has {len(tables['box_frame']) - 1} entries in the index" in line
    path.write_bytes(b"PK\x03\x04")
    _, line = lines(copy)
    assert "test-000000.idx.npz cannot be used" in line


def test_counts_of_the_manifest(copy: Path) -> None:
    path = copy / "val.manifest.json"
    manifest = json.loads(path.read_text())
    manifest["shards"][0]["frames"] += 1
    path.write_bytes(seal_manifest(manifest))
    assert any("unlike the manifest" in line for line in lines(copy))
    path.write_text(path.read_text().replace('"opencv": "', '"opencv": "1', 1))
    assert "its checksum is not that of its content" in lines(copy)[0]
    path.write_text("{}")
    assert lines(copy)[0].startswith("val.manifest.json the manifest is damaged")


def test_a_dataset_at_a_url_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"datasets of this machine only\n  where: s3://b/x\n(.|\n)*fix: copy the dataset"
    ):
        main(["s3://b/x"])


def test_a_folder_as_a_url_is_none(tiny_shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"file://{tiny_shards}"]) == 0
    for workers in ("0", "-5"):
        with pytest.raises(SystemExit):
            main([str(tiny_shards), "--workers", workers])
        assert "argument --workers" in capsys.readouterr().err


def test_a_folder_without_shards(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finished shards"):
        verify(tmp_path)
