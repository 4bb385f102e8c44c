from __future__ import annotations

import csv
import json
import logging
import pickle
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np
import pytest

from colocam_dist.data.frames import FrameReader
from colocam_dist.data.index import ShotIndex, check_same_classes
from colocam_dist.data.manifest import INDEX_DTYPES, index_name, manifest_name, seal_manifest
from colocam_dist.errors import DataError


@pytest.fixture
def copy(tiny_shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_shards, tmp_path / "copy"))


def edit_manifest(folder: Path, of: str, **changes: object) -> None:
    path = folder / manifest_name(of)
    path.write_bytes(seal_manifest({**json.loads(path.read_text()), **changes}))


def edit_index(folder: Path, shard: str, **changes: np.ndarray) -> None:
    """Change arrays of an index, and vouch for it in the manifest."""
    path = folder / index_name(shard)
    with np.load(path) as stored:
        tables = {key: stored[key] for key in INDEX_DTYPES}
    np.savez(path, **{**tables, **changes})
    split = shard.partition("-")[0]
    entries = json.loads((folder / manifest_name(split)).read_text())["shards"]
    for entry in entries:
        if entry["name"] == shard:
            entry["index_bytes"] = path.stat().st_size
            entry["index_sha256"] = sha256(path.read_bytes()).hexdigest()
    edit_manifest(folder, split, shards=entries)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_frames_lie_where_the_index_says(tiny_shards: Path, tiny_frames: Path, split: str) -> None:
    index = ShotIndex.open(tiny_shards, split)
    with (tiny_frames / "frames.csv").open() as stream:
        rows = {row["path"]: row for row in csv.DictReader(stream) if row["split"] == split}
    seen = set()
    for shot in index.shots:
        for frame in range(shot.first_frame, shot.first_frame + shot.n_frames):
            path = f"{shot.key}/{index.frame_name[frame]}"
            seen.add(path)
            data = index.shard_paths[index.frame_shard[frame]].read_bytes()
            start = int(index.frame_offset[frame])
            assert data[start : start + int(index.frame_size[frame])] == (tiny_frames / path).read_bytes()
            assert (index.frame_width[frame], index.frame_height[frame]) == (
                int(rows[path]["width"]),
                int(rows[path]["height"]),
            )
            assert index.frame_shot[frame] == shot.id
            assert index.frame_shard[frame] == shot.shard
    assert seen == set(rows)
    assert index.n_frames == len(rows) == len(index.frame_crc32)
    assert len(index.shard_paths) > 1


def test_shots_are_numbered_and_labeled(tiny_shards: Path) -> None:
    index = ShotIndex.open(tiny_shards, "train")
    assert index.classes == ("bird", "cat", "train")
    assert [shot.id for shot in index.shots] == list(range(21))
    for shot in index.shots:
        assert shot.key == f"{shot.cls}/{shot.video}/{shot.key.split('/')[2]}"
        assert index.classes[shot.label] == shot.cls
    ends = np.cumsum([shot.n_frames for shot in index.shots])
    assert [shot.first_frame for shot in index.shots] == [0, *ends[:-1]]


def test_boxes_are_those_of_the_table(tiny_shards: Path, tiny_frames: Path) -> None:
    index = ShotIndex.open(tiny_shards, "test")
    expected: dict[str, list[list[float]]] = {}
    with (tiny_frames / "boxes.csv").open() as stream:
        for row in csv.DictReader(stream):
            if row["split"] == "test":
                expected.setdefault(row["path"], []).append([float(row[key]) for key in ("x0", "y0", "x1", "y1")])
    assert max(map(len, expected.values())) == 2
    for shot in index.shots:
        for frame in range(shot.first_frame, shot.first_frame + shot.n_frames):
            wanted = np.array(expected[f"{shot.key}/{index.frame_name[frame]}"])
            size = index.frame_width[frame], index.frame_height[frame]
            np.testing.assert_allclose(index.boxes(frame), np.minimum(wanted, [*size, *size]), atol=1e-3)
            assert index.boxes(frame).dtype == np.float32
    np.testing.assert_array_equal(index.labeled_frames(), np.arange(index.n_frames))


def test_a_split_without_boxes(tiny_shards: Path) -> None:
    index = ShotIndex.open(tiny_shards, "train")
    assert index.boxes(3).shape == (0, 4)
    assert index.labeled_frames().dtype == np.int64
    assert len(index.labeled_frames()) == 0


def test_it_can_be_sent_to_another_process(tiny_shards: Path) -> None:
    index = ShotIndex.open(tiny_shards, "val")
    twin = pickle.loads(pickle.dumps(index))
    assert list(twin.shots) == list(index.shots)
    assert twin.fingerprint == index.fingerprint
    np.testing.assert_array_equal(twin.frame_name, index.frame_name)


def test_one_error_lists_every_unusable_shard(copy: Path) -> None:
    (copy / "train-000000.tar").unlink()
    with (copy / "train-000002.tar").open("r+b") as stream:
        stream.truncate(7000)
    (copy / "train-000003.idx.npz").unlink()
    (copy / "train-000004.idx.npz").write_bytes(b"PK nonsense")
    with pytest.raises(DataError) as caught:
        ShotIndex.open(copy, "train")
    message = str(caught.value)
    assert "4 of 6 shards" in message
    assert "train-000000.tar: missing" in message
    assert "train-000002.tar: truncated: 7000 of" in message
    assert "train-000003.tar: its index train-000003.idx.npz is missing" in message
    assert "train-000004.tar: its index train-000004.idx.npz is damaged" in message
    assert "train-000001" not in message


def test_skip_goes_on_without_them(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = ShotIndex.open(copy, "train")
    (copy / "train-000001.tar").unlink()
    with caplog.at_level(logging.WARNING):
        index = ShotIndex.open(copy, "train", missing="skip")
    assert "without 1 of 6 shards" in caplog.text
    assert index.skipped_shards == ("train-000001.tar",)
    assert len(index.shard_paths) == 5
    assert index.fingerprint != whole.fingerprint
    kept = [shot for shot in whole.shots if shot.shard != 1]
    assert [(shot.key, shot.n_frames) for shot in index.shots] == [(shot.key, shot.n_frames) for shot in kept]
    assert [shot.id for shot in index.shots] == list(range(len(kept)))
    old = np.concatenate([np.arange(shot.first_frame, shot.first_frame + shot.n_frames) for shot in kept])
    np.testing.assert_array_equal(index.frame_crc32, whole.frame_crc32[old])
    np.testing.assert_array_equal(index.frame_offset, whole.frame_offset[old])


def test_skip_needs_something_to_go_on_with(copy: Path) -> None:
    for path in copy.glob("val-*.tar"):
        path.unlink()
    with pytest.raises(DataError, match="2 of 2 shards of split 'val' cannot be used"):
        ShotIndex.open(copy, "val", missing="skip")


@pytest.mark.parametrize(
    "changes",
    [
        {"frame_offset": np.zeros(3, np.int64)},
        {"frame_width": np.full(6, 1 << 20, np.int32)},
        {"shot_class": np.array(["dragon"])},
        {"box_xyxy": np.zeros((1, 4), np.float32)},
        {"frame_crc32": np.zeros(1, np.float64)},
    ],
)
def test_an_index_that_does_not_fit_is_refused(copy: Path, changes: dict[str, np.ndarray]) -> None:
    edit_index(copy, "val-000001.tar", **changes)
    with pytest.raises(
        DataError, match=r"val-000001.tar: its index val-000001.idx.npz cannot be used: it does not fit"
    ):
        ShotIndex.open(copy, "val")


def test_offsets_beyond_the_shard_are_refused(copy: Path) -> None:
    with np.load(copy / "val-000000.idx.npz") as stored:
        offsets = stored["frame_offset"].copy()
    offsets[-1] = (copy / "val-000000.tar").stat().st_size - 5
    edit_index(copy, "val-000000.tar", frame_offset=offsets)
    with pytest.raises(DataError, match="does not fit"):
        ShotIndex.open(copy, "val")


def test_an_unknown_split_names_the_others(tiny_shards: Path) -> None:
    with pytest.raises(DataError, match="finished splits: test, train, val"):
        ShotIndex.open(tiny_shards, "validation")


def test_a_folder_without_shards(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)no finished shards.*no manifest at all.*shards.build"):
        ShotIndex.open(tmp_path, "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 1}, "version 1"),
        ({"split": "test"}, "split 'test'"),
        ({"shards": []}, "it lists no shards"),
        ({"shards": [{"name": "val-000000.tar", "bytes": 3}]}, "without frames, index_bytes, index_sha256, sha256"),
        ({"classes": None}, "it lists no shards"),
    ],
)
def test_manifests_of_another_kind(copy: Path, change: dict[str, object], message: str) -> None:
    edit_manifest(copy, "val", **change)
    with pytest.raises(DataError, match=message):
        ShotIndex.open(copy, "val")


def test_a_manifest_that_is_not_json(copy: Path) -> None:
    (copy / manifest_name("val")).write_text('{"version": 1,')
    with pytest.raises(DataError, match="manifest is damaged"):
        ShotIndex.open(copy, "val")


def test_an_unknown_policy_is_a_programming_error(tiny_shards: Path) -> None:
    with pytest.raises(ValueError, match="'ignore'"):
        ShotIndex.open(tiny_shards, "val", missing="ignore")  # type: ignore[arg-type]


def test_splits_must_agree_on_classes(tiny_shards: Path, copy: Path) -> None:
    train, test = ShotIndex.open(tiny_shards, "train"), ShotIndex.open(tiny_shards, "test")
    check_same_classes(train, test)
    edit_manifest(copy, "test", classes=["airplane", *test.classes])
    with pytest.raises(DataError, match="different class lists"):
        check_same_classes(train, ShotIndex.open(copy, "test"))


def test_a_class_without_training_shots_is_refused(copy: Path) -> None:
    train_shards = ShotIndex.open(copy, "train")
    first_cat = min(shot.shard for shot in train_shards.shots if shot.cls == "cat")
    edit_manifest(copy, "train", shards=json.loads((copy / manifest_name("train")).read_text())["shards"][:first_cat])
    train = ShotIndex.open(copy, "train")
    assert {shot.cls for shot in train.shots} == {"bird"}
    with pytest.raises(DataError, match=r"(?s)no shot of.*got: cat, train.*wanted: bird"):
        check_same_classes(train, ShotIndex.open(copy, "test"))


def test_the_fingerprint_is_that_of_the_data(tiny_shards: Path, copy: Path) -> None:
    val = ShotIndex.open(tiny_shards, "val")
    assert len(val.fingerprint) == 64
    assert ShotIndex.open(copy, "val").fingerprint == val.fingerprint
    assert ShotIndex.open(copy, "test").fingerprint != val.fingerprint
    entries = json.loads((copy / manifest_name("val")).read_text())["shards"]
    edit_manifest(copy, "val", shards=[{**entry, "sha256": "0" * 64} for entry in entries])
    assert ShotIndex.open(copy, "val").fingerprint != val.fingerprint


def test_stored_frames_are_pictures(tiny_shards: Path) -> None:
    index = ShotIndex.open(tiny_shards, "train")
    frame = index.n_frames - 1
    with index.shard_paths[-1].open("rb") as stream:
        stream.seek(int(index.frame_offset[frame]))
        image = cv2.imdecode(np.frombuffer(stream.read(int(index.frame_size[frame])), np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (index.frame_height[frame], index.frame_width[frame], 3)


def test_data_sets_are_joined(tiny_shards: Path, copy: Path) -> None:
    first, second = ShotIndex.open(tiny_shards, "val"), ShotIndex.open(copy, "train")
    both = ShotIndex.join([first, second])
    assert both.n_frames == first.n_frames + second.n_frames
    assert both.shots.source.tolist() == [0] * len(first.shots) + [1] * len(second.shots)
    assert [shot.key for shot in both.shots] == [shot.key for part in (first, second) for shot in part.shots]
    assert both.fingerprint not in (first.fingerprint, second.fingerprint)
    reader, mine = FrameReader(both), FrameReader(second)
    for number in (0, len(second.shots) - 1):
        old, new = second.shots[number], both.shots[len(first.shots) + number]
        assert (new.cls, new.video, new.n_frames) == (old.cls, old.video, old.n_frames)
        assert (reader.read(new.first_frame) == mine.read(old.first_frame)).all()
        assert both.frame_shot[new.first_frame] == new.id
    for frame in (0, first.n_frames - 1):
        np.testing.assert_array_equal(both.boxes(frame), first.boxes(frame))
    assert ShotIndex.join([first]) is first


def test_caveats_of_joined_data_sets_are_said_once(tiny_shards: Path) -> None:
    index = ShotIndex.open(tiny_shards, "train")
    parts = [replace(index, caveats=caveats) for caveats in (("Few.",), (), ("Drawn.", "Few."))]
    assert index.caveats == ()
    assert ShotIndex.join(parts).caveats == ("Few.", "Drawn.")


def test_joined_labels_follow_names(tiny_shards: Path, copy: Path) -> None:
    edit_manifest(copy, "train", classes=["ant", "bird", "cat", "train"])
    main, other = ShotIndex.open(copy, "train"), ShotIndex.open(tiny_shards, "val")
    both = ShotIndex.join([main, other])
    assert [shot.cls for shot in both.shots[len(main.shots) :]] == [shot.cls for shot in other.shots]
    assert both.shots[len(main.shots)].label == 1
    with pytest.raises(DataError, match=r"classes that the main one does not have(.|\n)*got: ant"):
        ShotIndex.join([other, main])
