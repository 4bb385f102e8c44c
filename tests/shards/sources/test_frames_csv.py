from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from colocam_dist.data.index import ShotIndex
from colocam_dist.errors import DataError
from shards.dataset import BuildOptions, build_dataset
from shards.images import PictureRule
from shards.sources.frames_csv import read_frames_csv

KEEP = PictureRule(0, 0, 95)


@pytest.fixture
def folder(frame_folder: Any) -> Any:
    """Two shots of 2 and 3 frames of 53 x 41 pixels, a box in each of the first two."""
    frame_folder.add_shot("val", "cat/v1/s0", 2, boxes_per_frame=1)
    frame_folder.add_shot("train", "dog/v2/s0", 3)
    return frame_folder


def problems_of(folder: Any) -> str:
    with pytest.raises(DataError) as caught:
        read_frames_csv(folder.save(), KEEP)
    return str(caught.value)


def test_units_are_the_shots(folder: Any) -> None:
    inputs = read_frames_csv(folder.save(), KEEP)
    assert inputs.classes == ("cat", "dog")
    assert [(unit.split, unit.cls, unit.video, unit.shot) for unit in inputs.units] == [
        ("val", "cat", "v1", "s0"),
        ("train", "dog", "v2", "s0"),
    ]
    size = sum(path.stat().st_size for path in folder.root.glob("dog/v2/s0/*"))
    assert inputs.units[1].estimated_bytes == size
    assert not inputs.warnings


def test_frames_are_sorted_by_number_whatever_the_order_of_the_table(frame_folder: Any) -> None:
    frame_folder.add_shot("train", "cat/v/s", 3)
    shot = frame_folder.root / "cat/v/s"
    for old, new in (("00000", "frame10"), ("00001", "frame9"), ("00002", "frame1")):
        (shot / f"{old}.jpg").rename(shot / f"{new}.jpg")
    frame_folder.frames = [("train", f"cat/v/s/frame{n}.jpg", "cat", 53, 41) for n in (10, 1, 9)]
    (unit,) = read_frames_csv(frame_folder.save(), KEEP).units
    assert [frame.name for frame in unit.frames(KEEP, print)] == ["frame1.jpg", "frame9.jpg", "frame10.jpg"]


def test_all_problems_come_in_one_error(folder: Any, tmp_path: Path, jpeg: Callable[..., bytes]) -> None:
    root = folder.root
    (root / "cat/v1/s0/00001.jpg").unlink()
    (root / "dog/v2/s0/00000.jpg").write_bytes(b"GIF89a")
    (root / "dog/v2/s0/00001.jpg").write_bytes(jpeg(np.zeros((40, 53, 3), np.uint8)))
    folder.frames += [
        ("train", "dog/v2/s0/00002.jpg", "dog", 53, 41),
        ("train", "dog/v2/s0/deep/0.jpg", "dog", 53, 41),
        ("train", "../v2/s0/0.jpg", "..", 53, 41),
        ("train", "dog/v2/s1/0.jpg", "cat", 53, 41),
        ("valid", "dog/v2/s2/0.jpg", "dog", 53, 41),
    ]
    path = "cat/v1/s0/00000.jpg"
    folder.boxes += [
        ("val", path, 53, 1, 60, 9),
        ("val", path, 9, 1, 3, 9),
        ("val", path, "x", 1, 3, 9),
        ("val", path, "nan", 1, 3, 9),
        ("train", path, 1, 1, 3, 9),
        ("val", "cat/v1/s0/7.jpg", 1, 1, 3, 9),
        folder.boxes[0],
    ]
    message = problems_of(folder)
    for text in (
        "15 problems",
        "frames.csv line 3: cat/v1/s0/00001.jpg: No such file or directory",
        "frames.csv line 4: dog/v2/s0/00000.jpg: not a JPEG picture",
        "frames.csv line 5: dog/v2/s0/00001.jpg is 53 x 40 pixels, not 53 x 41",
        "frames.csv line 7: dog/v2/s0/00002.jpg is listed twice",
        "frames.csv line 8: path 'dog/v2/s0/deep/0.jpg' is not class/video/shot/frame.jpg",
        "frames.csv line 9: path '../v2/s0/0.jpg'",
        "frames.csv line 10: class 'cat' does not match path 'dog/v2/s1/0.jpg'",
        "frames.csv line 11: split 'valid' is none of train, val, test",
        "boxes.csv line 4: box 53,1,60,9 lies outside its picture of 53 x 41 pixels",
        "boxes.csv line 5: box 9,1,3,9 is empty or inverted",
        "boxes.csv line 6: the corners of a box are not four numbers",
        "boxes.csv line 7: the corners of a box are not four numbers",
        f"boxes.csv line 8: {path} is not in frames.csv under split 'train'",
        "boxes.csv line 9: cat/v1/s0/7.jpg is not in frames.csv",
        f"boxes.csv line 10: the same box of {path} stands there twice",
    ):
        assert text in message


def test_only_the_first_twenty_problems_are_shown(folder: Any) -> None:
    folder.frames += [("train", f"dog/v3/s/{number}.jpg", "dog", 5, 5) for number in range(33)]
    message = problems_of(folder)
    assert "33 problems" in message
    assert message.count("No such file") == 20
    assert "... and 13 more" in message


def test_a_shot_in_two_splits_is_refused(folder: Any) -> None:
    first = folder.frames[0]
    folder.frames[0] = ("test", *first[1:])
    folder.boxes.clear()
    assert "shot cat/v1/s0 is in several splits: test, val" in problems_of(folder)


def test_a_video_in_two_splits_is_a_warning(frame_folder: Any) -> None:
    frame_folder.add_shot("train", "cat/v/s0", 1)
    frame_folder.add_shot("test", "cat/v/s1", 1)
    (warning,) = read_frames_csv(frame_folder.save(), KEEP).warnings
    assert "1 videos are in several splits" in warning
    assert "cat/v" in warning


def test_boxes_that_exceed_the_picture_are_clipped(folder: Any) -> None:
    folder.boxes = [
        ("val", "cat/v1/s0/00000.jpg", -0.5, 2, 53.75, 41.5),  # within a pixel: silently
        ("val", "cat/v1/s0/00001.jpg", -7, 2, 20, 44),
    ]
    inputs = read_frames_csv(folder.save(), KEEP)
    assert inputs.warnings == ("1 boxes reached more than a pixel beyond their picture and were clipped to it",)
    assert inputs.receipt["clipped_boxes"] == 1
    first, second = inputs.units[0].frames(KEEP, print)
    assert first.boxes == ((0, 2, 53, 41),)
    assert second.boxes == ((0, 2, 20, 41),)


def test_boxes_shrink_with_their_frame(folder: Any) -> None:
    folder.boxes = [("val", "cat/v1/s0/00000.jpg", 10.6, 4.1, 53, 41)]
    rule = PictureRule(20, 20, 95)
    first, second = read_frames_csv(folder.save(), rule).units[0].frames(rule, print)
    assert (first.width, first.height) == (26, 20)
    np.testing.assert_allclose(first.boxes, [[5.2, 2.0, 26, 20]], atol=1e-9)
    assert second.boxes == ()


def test_a_missing_column_is_named(folder: Any) -> None:
    path = folder.save() / "frames.csv"
    path.write_text(path.read_text().replace("width", "w"))
    with pytest.raises(DataError, match=r"lacks the column width(?s:.*)got: split,path,class,w,height"):
        read_frames_csv(folder.root, KEEP)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "lacks the columns split, path"),
        (b"split,path,class,width,height\ntrain,a/b/c/d.jpg\n", "row of a table is too short"),
        (b"split,path,class,width,height\n", "frames.csv has no rows"),
        (b"split,path,class,width,height\ntrain,\xff\xfe/b/c/d.jpg,a,1,1\n", "not CSV in UTF-8"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "frames.csv").write_bytes(text)
    with pytest.raises(DataError, match=message):
        read_frames_csv(tmp_path, KEEP)


def test_no_table_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read a table(?s:.*)frames.csv"):
        read_frames_csv(tmp_path, KEEP)


def test_odd_names_survive(frame_folder: Any, tmp_path: Path) -> None:
    frame_folder.add_shot("test", "Żółw & co/v1.0 [HD]__x/shot 1", 2, boxes_per_frame=1)
    root = frame_folder.save()
    build_dataset(read_frames_csv(root, KEEP), tmp_path / "out", BuildOptions(KEEP))
    index = ShotIndex.open(tmp_path / "out", "test")
    (shot,) = index.shots
    assert (shot.key, shot.cls, shot.video) == (
        "Żółw & co/v1.0 [HD]__x/shot 1",
        "Żółw & co",
        "v1.0 [HD]__x",
    )
    assert index.frame_name.tolist() == ["00000.jpg", "00001.jpg"]


@pytest.mark.shared
def test_real_thumbnails(shared: Path) -> None:
    folder = shared / "data" / "yto22-thumbs"
    inputs = read_frames_csv(folder, KEEP)
    with (folder / "frames.csv").open() as stream:
        shots = {row["path"].rpartition("/")[0] for row in csv.DictReader(stream)}
    assert {f"{unit.cls}/{unit.video}/{unit.shot}" for unit in inputs.units} == shots
    assert [sum(unit.split == split for unit in inputs.units) for split in ("train", "val", "test")] == [1112, 177, 334]
    assert len(inputs.classes) == 10
