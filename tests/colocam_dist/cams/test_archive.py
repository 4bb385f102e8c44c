from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from colocam_dist.cams import ArchiveWriter, CamArchive, CamIdentity
from colocam_dist.cams.archive import publish
from colocam_dist.errors import DataError, RunError

IDENTITY = CamIdentity("layercam", "ab" * 32, 224, "cd" * 32)
SHAPE = (11, 3, 5)


@pytest.fixture
def cams() -> np.ndarray:
    return np.random.default_rng(0).random(SHAPE, dtype=np.float32)


def write(folder: Path, cams: np.ndarray, world: int, batch: int = 2) -> CamArchive:
    writers = [ArchiveWriter(folder, SHAPE, rank, world) for rank in range(world)]
    # The last rank finishes first: nothing may depend on the order of ranks.
    for writer, rows in reversed(list(zip(writers, np.array_split(np.arange(SHAPE[0]), world), strict=True))):
        for start in range(0, len(rows), batch):
            some = rows[start : start + batch]
            writer.write(int(some[0]), torch.from_numpy(cams[some]))
        writer.close()
    return writers[0].finish(IDENTITY)


@pytest.mark.parametrize("world", [1, 3, 13])
def test_same_bytes_for_any_number_of_ranks(tmp_path, cams, world):
    folder = CamArchive.locate(tmp_path, "train", IDENTITY)
    archive = write(folder, cams, world)
    reopened = CamArchive.open(folder, CamArchive.key(IDENTITY))
    assert reopened == archive
    reopened.verify()
    rows = np.load(reopened.path, mmap_mode="r")
    assert rows.dtype == np.float16
    assert reopened.shape == SHAPE == rows.shape
    np.testing.assert_array_equal(rows, cams.astype(np.float16))
    assert sorted(path.name for path in folder.iterdir()) == ["archive.json", "cams.npy"]
    whole = tmp_path / "whole.npy"
    np.save(whole, cams.astype(np.float16))
    assert reopened.sha256 == hashlib.sha256(whole.read_bytes()).hexdigest()


def test_description_and_place(tmp_path, cams):
    folder = CamArchive.locate(tmp_path, "train", IDENTITY)
    key = CamArchive.key(IDENTITY)
    assert folder == tmp_path / f"train-{key[:12]}"
    write(folder, cams, 2)
    facts = json.loads((folder / "archive.json").read_text())
    assert facts["identity"] == dataclasses.asdict(IDENTITY)
    assert facts["n_frames"] == 11
    assert facts["created_by"].startswith("colocam_dist ")


@pytest.mark.parametrize(
    "change", [{"method": "cam"}, {"weights_sha256": "0" * 64}, {"image_size": 225}, {"fingerprint": "1" * 64}]
)
def test_key_depends_on_every_field(tmp_path, cams, change):
    write(tmp_path / "a", cams, 1)
    other = CamArchive.key(dataclasses.replace(IDENTITY, **change))
    assert other != CamArchive.key(IDENTITY)
    with pytest.raises(DataError, match="another classifier, method, image size or data set"):
        CamArchive.open(tmp_path / "a", other)


def test_unfinished_archive_is_never_opened(tmp_path, cams):
    key = CamArchive.key(IDENTITY)
    with pytest.raises(DataError, match="no finished CAM archive"):
        CamArchive.open(tmp_path / "absent", key)
    writer = ArchiveWriter(tmp_path / "a", SHAPE, 0, 1)
    writer.write(0, cams)
    with pytest.raises(DataError, match="no finished CAM archive"):
        CamArchive.open(tmp_path / "a", key)
    writer.close()
    with pytest.raises(DataError, match="no finished CAM archive"):
        CamArchive.open(tmp_path / "a", key)
    writer.finish(IDENTITY)
    assert CamArchive.open(tmp_path / "a", key).shape == SHAPE


def test_rank_that_did_not_close_or_left_a_gap(tmp_path, cams):
    writers = [ArchiveWriter(tmp_path / "a", SHAPE, rank, 2) for rank in range(2)]
    writers[0].write(0, cams[:5])
    writers[1].write(6, cams[6:])
    with pytest.raises(RunError, match="do not cover every frame"):
        writers[0].finish(IDENTITY)
    writers[1].close()
    with pytest.raises(RunError, match="do not cover every frame"):
        writers[0].finish(IDENTITY)
    assert not (tmp_path / "a" / "archive.json").exists()


def test_empty_part_must_be_closed_too(tmp_path, cams):
    writers = [ArchiveWriter(tmp_path / "a", SHAPE, rank, 2) for rank in range(2)]
    writers[0].write(0, cams)
    with pytest.raises(RunError, match="wanted: 2 parts"):
        writers[0].finish(IDENTITY)
    writers[1].close()
    writers[0].finish(IDENTITY).verify()


def test_death_between_maps_and_description_leaves_no_archive(tmp_path, cams, monkeypatch):
    write(tmp_path / "a", cams, 1)

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ArchiveWriter, "_describe", die)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a", 1.0 - cams, 1)
    with pytest.raises(DataError, match="no finished CAM archive"):
        CamArchive.open(tmp_path / "a", CamArchive.key(IDENTITY))


def test_part_cut_short_is_refused(tmp_path, cams):
    writers = [ArchiveWriter(tmp_path / "a", SHAPE, rank, 2) for rank in range(2)]
    writers[0].write(0, cams[:6])
    writers[1].write(6, cams[6:])
    writers[1].close()
    (part,) = (tmp_path / "a").glob("part-00001*")
    part.write_bytes(part.read_bytes()[:-2])
    with pytest.raises(RunError, match="do not cover every frame"):
        writers[0].finish(IDENTITY)


def test_parts_of_a_dead_run_are_replaced(tmp_path, cams):
    folder = tmp_path / "a"
    for rank, (first, last) in enumerate([(0, 4), (4, 8)]):
        dead = ArchiveWriter(folder, SHAPE, rank, 2)
        dead.write(first, np.zeros_like(cams[first:last]))
        dead.close()
    other_world = ArchiveWriter(folder, SHAPE, 2, 3)
    other_world.write(8, np.zeros_like(cams[8:]))
    other_world.close()
    archive = write(folder, cams, 2)
    np.testing.assert_array_equal(np.load(archive.path), cams.astype(np.float16))
    assert sorted(path.name for path in folder.iterdir()) == ["archive.json", "cams.npy"]


def test_rewriting_replaces_the_old_archive(tmp_path, cams):
    write(tmp_path / "a", cams, 1)
    archive = write(tmp_path / "a", 1.0 - cams, 2)
    archive.verify()
    np.testing.assert_array_equal(np.load(archive.path), (1.0 - cams).astype(np.float16))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "without its maps"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "cut short or grown"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "cut short or grown"),
        (lambda path: path.write_bytes(b"nothing like npy"), "unreadable CAM archive"),
        (lambda path: np.save(path, np.zeros((11, 5, 3), np.float16)), "another shape"),
        (lambda path: np.save(path, np.zeros(SHAPE, np.float32)), "another shape"),
    ],
)
def test_damaged_maps(tmp_path, cams, damage, message):
    archive = write(tmp_path / "a", cams, 1)
    damage(archive.path)
    with pytest.raises(DataError, match=message):
        CamArchive.open(archive.folder, CamArchive.key(IDENTITY))


@pytest.mark.parametrize("text", ["{", "[]", '{"key": "x"}'])
def test_damaged_description(tmp_path, cams, text):
    archive = write(tmp_path / "a", cams, 1)
    (archive.folder / "archive.json").write_text(text)
    with pytest.raises(DataError, match="unreadable CAM archive"):
        CamArchive.open(archive.folder, CamArchive.key(IDENTITY))


def test_description_of_another_identity_under_the_wanted_key(tmp_path, cams):
    archive = write(tmp_path / "a", cams, 1)
    path = archive.folder / "archive.json"
    facts = json.loads(path.read_text())
    facts["identity"]["image_size"] = 96
    path.write_text(json.dumps(facts))
    with pytest.raises(DataError, match="made from another classifier"):
        CamArchive.open(archive.folder, CamArchive.key(IDENTITY))


def test_changed_values_are_found_by_verify(tmp_path, cams):
    archive = write(tmp_path / "a", cams, 1)
    content = bytearray(archive.path.read_bytes())
    content[-1] ^= 1
    archive.path.write_bytes(content)
    same_size = CamArchive.open(archive.folder, CamArchive.key(IDENTITY))
    with pytest.raises(DataError, match="damaged"):
        same_size.verify()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.1, 1.5])
def test_values_outside_zero_to_one_are_refused(tmp_path, cams, bad):
    writer = ArchiveWriter(tmp_path / "a", SHAPE, 0, 1)
    cams[2, 1, 1] = bad
    with pytest.raises(DataError, match=r"frames 0\.\.10"):
        writer.write(0, cams)
    writer.close()


def test_misplaced_rows_are_refused(tmp_path, cams):
    writer = ArchiveWriter(tmp_path / "a", SHAPE, 0, 1)
    writer.write(2, cams[2:4])
    with pytest.raises(ValueError, match="wanted them to start at 4"):
        writer.write(5, cams[5:6])
    with pytest.raises(ValueError, match="end below 11"):
        writer.write(4, cams[:8])
    with pytest.raises(ValueError, match=r"\[k, 3, 5\]"):
        writer.write(4, cams[:, :2])
    writer.close()


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot write the CAM archive"):
        ArchiveWriter(tmp_path / "file" / "a", SHAPE, 0, 1)


def test_of_two_runs_that_build_the_same_archive_the_first_one_gives_its_name(tmp_path, cams):
    final = CamArchive.locate(tmp_path, "train", IDENTITY)
    built = [tmp_path / name for name in ("one", "two")]
    writers = [ArchiveWriter(folder, cams.shape, 0, 1) for folder in built]
    for writer in writers:  # in turns, as two runs at the same time
        writer.write(0, cams)
    for writer in writers:
        writer.finish(IDENTITY)
    for folder in built:
        publish(folder, final)
        opened = CamArchive.open(final, CamArchive.key(IDENTITY))
        np.testing.assert_array_equal(np.load(opened.path), cams.astype(np.float16))
    assert [path.name for path in tmp_path.rglob("*") if path.name in ("one", "two")] == []


def test_a_folder_without_a_finished_archive_does_not_stand_in_the_way(tmp_path, cams):
    final = CamArchive.locate(tmp_path, "train", IDENTITY)
    final.mkdir(parents=True)
    (final / "part-00000.tmp-1").touch()
    writer = ArchiveWriter(tmp_path / "built", cams.shape, 0, 1)
    writer.write(0, cams)
    writer.finish(IDENTITY)
    publish(tmp_path / "built", final)
    CamArchive.open(final, CamArchive.key(IDENTITY)).verify()
    assert [path.name for path in final.iterdir() if path.name.startswith("part-")] == []
