from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from colocam_dist.data.index import ShotIndex
from colocam_dist.errors import DataError
from shards.dataset import BuildOptions, build_dataset
from shards.images import PictureRule
from shards.sources.base import Inputs
from shards.sources.youtube_objects import CLASSES, Counts, YoutubeObjectsOptions
from shards.sources.youtube_objects_v2 import PUBLISHED, read_youtube_objects_v2

AS_IT_IS = PictureRule(0, 0, 95)
BOX = [[3, 4, 30, 40]]


def read(root: Path, **options: Any) -> Inputs:
    return read_youtube_objects_v2(root, AS_IT_IS, YoutubeObjectsOptions(**{"allow_partial": True, **options}))


def shots(inputs: Inputs, split: str) -> dict[str, list[int]]:
    """Frame numbers by "class/video/shot"."""
    return {
        f"{unit.cls}/{unit.video}/{unit.shot}": [int(file.path.stem) for file in unit.files]  # type: ignore[attr-defined]
        for unit in inputs.units
        if unit.split == split
    }


def labeled(inputs: Inputs, split: str) -> dict[int, list[tuple[float, ...]]]:
    """Boxes by frame number."""
    files = [file for unit in inputs.units if unit.split == split for file in unit.files]  # type: ignore[attr-defined]
    return {int(file.path.stem): list(file.boxes) for file in files if file.boxes}


@pytest.fixture
def raw(raw_v2: Any) -> Any:
    """Every class: a labeled training video and a test video; horse: six training videos and one without labels."""
    for cls in CLASSES:
        if cls == "horse":
            continue
        raw_v2.shot(cls, 1, 3, 7)
        raw_v2.label("Training", cls, 2, BOX)
        raw_v2.shot(cls, 10, 11, 3)
        raw_v2.label("Test", cls, 11, [[1, 2, 20, 30], [5, 6, 40, 44]])
    # Videos in order of appearance: 30, 4 (twice, not in a row), 20, 8, 15, 2 and 9; 40 is for testing, 5 unlabeled.
    for first, last, video in [(1, 4, 30), (5, 6, 4), (7, 9, 20), (10, 12, 4), (13, 14, 8), (15, 17, 15), (18, 18, 2)]:
        raw_v2.shot("horse", first, last, video)
    for frame in (2, 5, 9, 14, 16, 18):
        raw_v2.label("Training", "horse", frame, BOX)
    raw_v2.shot("horse", 20, 22, 5)
    raw_v2.shot("horse", 23, 26, 40)
    raw_v2.label("Test", "horse", 24, BOX)
    return raw_v2


def test_videos_go_where_their_labels_are(raw: Any) -> None:
    inputs = read(raw.save())
    assert shots(inputs, "train") == {
        "horse/video-0008/shot-000004": [13, 14],
        "horse/video-0015/shot-000005": [15, 16, 17],
        "horse/video-0002/shot-000006": [18],
    }
    val = shots(inputs, "val")
    assert {key: frames for key, frames in val.items() if key.startswith("horse")} == {
        "horse/video-0030/shot-000000": [2],
        "horse/video-0004/shot-000001": [5],
        "horse/video-0020/shot-000002": [9],
    }
    assert val["cat/video-0007/shot-000000"] == [2]
    assert shots(inputs, "test")["horse/video-0040/shot-000008"] == [24]
    assert labeled(inputs, "test")[11] == [(1, 2, 20, 30), (5, 6, 40, 44)]
    assert not any("0005" in unit.video for unit in inputs.units)


def test_a_frame_of_two_shots_has_its_boxes_in_the_later_one(raw: Any) -> None:
    raw.shot("horse", 30, 33, 41)
    raw.shot("horse", 33, 35, 41)
    raw.label("Test", "horse", 33, BOX)
    raw.label("Test", "horse", 31, BOX)
    test = shots(read(raw.save()), "test")
    assert test["horse/video-0041/shot-000009"] == [31]
    assert test["horse/video-0041/shot-000010"] == [33]
    train = shots(read(raw.root, evaluation_frames="all"), "test")
    assert train["horse/video-0041/shot-000009"] == [30, 31, 32, 33]  # the frame itself is in both


def test_the_shared_frame_decides_about_both_videos(raw: Any) -> None:
    raw.shot("horse", 30, 33, 41)
    raw.shot("horse", 33, 35, 42)
    raw.label("Training", "horse", 33, BOX)
    train = shots(read(raw.save()), "train")
    assert {"horse/video-0041/shot-000009", "horse/video-0042/shot-000010"} <= train.keys()


def test_negative_corners_become_zero(raw: Any) -> None:
    raw.shot("cow", 50, 50, 9)
    raw.label("Test", "cow", 50, [[-4, -1, 20, 30]])
    assert labeled(read(raw.save()), "test")[50] == [(0, 0, 20, 30)]


def test_a_video_in_both_ground_truths(raw: Any) -> None:
    raw.label("Test", "cow", 3, BOX)
    with pytest.raises(DataError, match="cow: video 7 is in both ground truths"):
        read(raw.save())


def test_a_frame_in_both_ground_truths(raw: Any) -> None:
    raw.label("Test", "cow", 2, BOX)  # the very frame that makes the video one for training
    with pytest.raises(DataError, match="cow: video 7 is in both ground truths"):
        read(raw.save())


def test_a_frame_without_boxes_says_where_its_video_goes(raw: Any) -> None:
    raw.shot("horse", 50, 52, 60)
    raw.label("Training", "horse", 51, np.zeros((0, 4)))
    raw.label("Test", "horse", 25, np.zeros((0, 4)))
    inputs = read(raw.save())
    assert shots(inputs, "train")["horse/video-0060/shot-000009"] == [50, 51, 52]
    assert shots(inputs, "test")["horse/video-0040/shot-000008"] == [24]
    assert inputs.receipt["left_out"] == [
        "bb_gtTraining_horse.mat: frame 00000051 has no boxes",
        "bb_gtTest_horse.mat: frame 00000025 has no boxes",
    ]


def test_files_that_are_missing_are_all_named(raw: Any) -> None:
    root = raw.save()
    for cls in ("cat", "dog"):
        (root / f"GroundTruth/{cls}/bb_gtTest_{cls}.mat").unlink()
    with pytest.raises(DataError, match=r"bb_gtTest_cat\.mat(.|\n)*bb_gtTest_dog\.mat"):
        read(root)
    for cls in ("cat", "dog"):
        (root / f"Ranges/ranges_{cls}.mat").unlink()
    with pytest.raises(DataError, match=r"ranges_cat\.mat(.|\n)*ranges_dog\.mat"):
        read(root)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cow00000099", "frame 00000099 is in no shot"),
        ("cat00000002", "is not a frame of cow"),
        ("cow2", "not a frame"),
    ],
)
def test_ground_truth_that_makes_no_sense(raw: Any, name: str, text: str) -> None:
    raw.truth["cow", "Training"].append((name, BOX))
    with pytest.raises(DataError, match=text):
        read(raw.save())


def test_a_frame_labeled_twice_and_odd_boxes(raw: Any) -> None:
    raw.truth["cow", "Training"].append(("cow00000002", BOX))
    raw.truth["cow", "Test"].append(("cow00000010", [[1, 2, 3]]))
    with pytest.raises(DataError) as caught:
        read(raw.save())
    assert "'cow00000002' is there twice" in str(caught.value)
    assert "wanted boxes of four numbers, got an array of shape (1, 3)" in str(caught.value)


def test_counts(raw: Any) -> None:
    root = raw.save()
    with pytest.raises(DataError, match=r"train ids: found 3, published 1289: differs"):
        read(root, allow_partial=False)
    expected = {
        "train": Counts(3, 3, 3, 0, (0, 0, 0, 0, 0, 0, 0, 3, 0, 0)),
        "val": Counts(12, 12, 12, 12, (1, 1, 1, 1, 1, 1, 1, 3, 1, 1)),
        "test": Counts(10, 10, 10, 19, (1,) * 10),
    }
    assert read_youtube_objects_v2(root, AS_IT_IS, YoutubeObjectsOptions(), expected).warnings == ()
    for counts in PUBLISHED.values():
        assert sum(counts.per_class) == counts.ids


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda root: (root / "cat/data").mkdir(), "both releases in one folder"),
        (
            lambda root: shutil.rmtree(root / "Ranges"),
            r"got: no folder .*/Ranges\n  wanted: .*<class>/NNNNNNNN.jpg, .*/GroundTruth",
        ),
        (lambda root: (root / "Ranges/ranges_cow.mat").unlink(), r"ranges_cow.mat(.|\n)*No such file"),
        (lambda root: (root / "GroundTruth/cow/bb_gtTest_cow.mat").unlink(), r"bb_gtTest_cow.mat(.|\n)*No such file"),
        (lambda root: shutil.rmtree(root / "cow"), r"1 of the ten class folders are missing(.|\n)*cow"),
        (lambda root: (root / "horse/00000015.jpg").unlink(), r"00000015.jpg of shot horse/video-0015/shot-000005"),
        (lambda root: (root / "cow/00000002.jpg").unlink(), "has boxes but no picture"),
        (lambda root: (root / "cow/00000002.jpg").write_bytes(b"no picture"), "not a JPEG picture"),
    ],
)
def test_wrong_trees(raw: Any, change: Any, text: str) -> None:
    root = raw.save()
    change(root)
    with pytest.raises(DataError, match=text):
        read(root, allow_partial=False)


def test_an_empty_split_names_the_files_that_would_fill_it(raw: Any) -> None:
    root = raw.root
    raw.truth = {key: entries for key, entries in raw.truth.items() if key[1] == "Training"}
    with pytest.raises(DataError, match=rf"split test of (.|\n)*wanted: {root}/GroundTruth/<class>/bb_gtTest_<class>"):
        read(raw.save())


def test_partial_trees(raw: Any) -> None:
    root = raw.save()
    (root / "horse/00000015.jpg").unlink()
    shutil.rmtree(root / "cow")
    inputs = read(root)
    assert shots(inputs, "train")["horse/video-0015/shot-000005"] == [16, 17]
    assert any("00000015.jpg" in what for what in inputs.receipt["left_out"])
    assert "class cow" in inputs.receipt["left_out"]


def test_ranges_that_are_damaged(raw: Any) -> None:
    raw.ranges["cow"].append((9, 8, 1))
    with pytest.raises(DataError, match=r"ranges_cow.mat: a shot has no frames: shot 2: \[9.0, 8.0, 1.0\]"):
        read(raw.save())
    raw.ranges["cow"][-1] = (np.nan, 8, 1)
    with pytest.raises(DataError, match=r"ranges_cow.mat: the ranges of a class are damaged"):
        read(raw.save())


def test_a_tree_of_the_other_release_is_recognized(raw_v1: Any) -> None:
    raw_v1.video("train", "cat", "0001")
    with pytest.raises(DataError, match=r"not the raw tree of YouTube-Objects v2.2(.|\n)*as YouTube-Objects v1.0"):
        read(raw_v1.save())


def folds(folder: Path, inputs: Inputs) -> Path:
    """Fold files that say what these inputs have."""
    folder.mkdir()
    (folder / "class_id.yaml").write_text("".join(f"{name}: {label}\n" for label, name in enumerate(CLASSES)))
    for split in ("train", "val", "test"):
        (folder / split).mkdir()
        files: dict[str, list[str]] = {"image_ids": [], "class_labels": [], "localization": []}
        for unit in inputs.units:
            if unit.split != split:
                continue
            place = f"{unit.cls}/{unit.video}/{unit.shot}"
            for file in unit.files if split != "train" else unit.files[:1]:  # type: ignore[attr-defined]
                name = place if split == "train" else f"{place}/{file.path.name}"
                files["image_ids"].append(name)
                files["class_labels"].append(f"{name},{CLASSES.index(unit.cls)}")
                files["localization"] += [f"{name},{','.join(map(str, box))}" for box in file.boxes]
        for name, lines in files.items():
            (folder / split / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    return folder


def test_folds_give_the_same_as_the_rules(raw: Any, tmp_path: Path) -> None:
    root = raw.save()
    by_rules = read(root)
    files = folds(tmp_path / "folds", by_rules)
    shutil.rmtree(root / "GroundTruth")  # with folds, it is not needed
    inputs = read(root, folds=files)
    assert {unit.fingerprint for unit in inputs.units} == {unit.fingerprint for unit in by_rules.units}
    assert sum("is not the published list" in warning for warning in inputs.warnings) == 3


def test_folds_of_another_tree(raw: Any, tmp_path: Path) -> None:
    root = raw.save()
    files = folds(tmp_path / "folds", read(root))
    path = files / "train" / "image_ids.txt"
    for name in ("image_ids.txt", "class_labels.txt"):
        path = files / "train" / name
        path.write_text(path.read_text().replace("shot-000005", "shot-000099"))
    with pytest.raises(DataError, match=r"shot horse/video-0015/shot-000099 is not in Ranges/"):
        read(root, folds=files, allow_partial=False)


def test_from_the_tree_to_shards(raw: Any, tmp_path: Path) -> None:
    build_dataset(read(raw.save()), tmp_path / "out", BuildOptions(AS_IT_IS))
    index = ShotIndex.open(tmp_path / "out", "train")
    # The key of a shot is its official id.
    assert sorted(shot.key for shot in index.shots) == [
        "horse/video-0002/shot-000006",
        "horse/video-0008/shot-000004",
        "horse/video-0015/shot-000005",
    ]
    np.testing.assert_array_equal(index.labeled_frames(), [])
