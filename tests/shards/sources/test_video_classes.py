"""Which classes and splits a folder or a table of videos gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from colocam_dist.errors import DataError
from shards.sources.video_unit import VideoOptions
from shards.sources.videos import read_videos
from tests.shards.sources.drawn_videos import (
    NONE,
    RULE,
    stamped,
    write_video,
)


def test_splits_follow_the_sorted_names(tmp_path: Path) -> None:
    for cls, count in (("cat", 10), ("dog", 2)):
        for number in range(count):
            write_video(tmp_path / cls / f"clip{number + 5}.avi", stamped(2))
    inputs = read_videos(tmp_path, RULE, NONE)
    splits = {(unit.cls, unit.video): unit.split for unit in inputs.units}
    wanted = ["train"] * 7 + ["val"] + ["test"] * 2
    assert [splits["cat", f"clip{number + 5}"] for number in range(10)] == wanted
    assert [splits["dog", f"clip{number}"] for number in (5, 6)] == ["train", "val"]
    inputs = read_videos(tmp_path, RULE, VideoOptions(cuts="none", fractions={"train": 0.5, "test": 0.5}))
    assert [sum(unit.split == split for unit in inputs.units) for split in ("train", "val", "test")] == [6, 0, 6]


def test_a_table_may_say_the_splits(tmp_path: Path) -> None:
    for name in ("x/1.avi", "x/2.avi", "y/1.avi"):
        write_video(tmp_path / name, stamped(2))
    table = tmp_path / "list.csv"
    table.write_text("path,class,split\nx/2.avi,cat,train\nx/1.avi,cat,test\ny/1.avi,dog,val\n")
    inputs = read_videos(table, RULE, NONE)
    found = {(unit.split, unit.cls, unit.video) for unit in inputs.units}
    assert found == {("train", "cat", "2"), ("test", "cat", "1"), ("val", "dog", "1")}
    with pytest.raises(DataError, match="column split, and --splits"):
        read_videos(table, RULE, VideoOptions(fractions={"train": 1.0}))
    table.write_text("path,class,split\nx/2.avi,cat,train\n../1.avi,cat,test\nx/1.avi,dog,valid\nx/2.avi,cat,train\n")
    with pytest.raises(DataError) as caught:
        read_videos(table, RULE, NONE)
    for text in ("3 problems", "line 3: wanted a path below", "line 4: split 'valid'", "two videos called '2'"):
        assert text in str(caught.value)


def test_no_class_is_lost_in_silence(tmp_path: Path) -> None:
    write_video(tmp_path / "cat/good.mp4", stamped(3))
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog/a.mp4").touch()
    with pytest.raises(DataError, match=r"classes would be lost(.|\n)*got: dog"):
        read_videos(tmp_path, RULE, NONE)
    (tmp_path / "cat/good.mp4").unlink()
    with pytest.raises(DataError, match=r"no video can be decoded(.|\n)*dog/a.mp4: the file is empty"):
        read_videos(tmp_path, RULE, NONE)


def test_an_empty_folder_says_what_was_wanted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no videos(?s:.*)class/video") as caught:
        read_videos(tmp_path, RULE, NONE)
    assert "too high" not in str(caught.value)


def test_a_folder_of_videos_lies_one_level_too_low(tmp_path: Path) -> None:
    for name in ("clip10.mp4", "clip9.MP4"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"no videos in folders of classes") as caught:
        read_videos(tmp_path, RULE, NONE)
    assert "got: 2 videos in the folder itself, as clip9.MP4: one level too high" in str(caught.value)
    assert f"fix: move them to folders named after their classes, as {tmp_path}/class/clip9.MP4" in str(caught.value)


def test_a_split_without_its_share_is_named(tmp_path: Path) -> None:
    for name in "abc":
        write_video(tmp_path / f"cat/{name}.mp4", stamped(3))
    write_video(tmp_path / "dog/a.mp4", stamped(3))
    inputs = read_videos(tmp_path, RULE, NONE)  # of three videos, 0.7, 0.15 and 0.15 are 2, 1 and none
    assert {unit.split for unit in inputs.units} == {"train", "val"}
    (warning,) = inputs.warnings
    assert warning.startswith("split test is empty: of at most 3 videos of a class, its share of 0.15 rounds to none")
    with pytest.raises(DataError, match=r"splits lack videos: 1 problem(.|\n)*split test is empty(.|\n)*--splits"):
        read_videos(tmp_path, RULE, replace(NONE, strict=True))
    half = {"train": 0.5, "val": 0.5}
    assert read_videos(tmp_path, RULE, VideoOptions(cuts="none", strict=True, fractions=half)).warnings == ()


def test_a_folder_without_videos_is_named(tmp_path: Path) -> None:
    for name in "abcdef":
        write_video(tmp_path / f"cat/{name}.mp4", stamped(3))
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog/a.wmv").write_bytes(b"video")
    (warning,) = read_videos(tmp_path, RULE, NONE).warnings
    assert warning == "folder dog is no class: none of its files ends with one of .avi .m4v .mkv .mov .mp4 .webm"


def test_a_class_that_lost_its_training_videos_is_named(tmp_path: Path) -> None:
    for name in "abc":
        write_video(tmp_path / f"cat/{name}.mp4", stamped(3))
        write_video(tmp_path / f"dog/{name}.mp4", stamped(3))
    (tmp_path / "dog/a.mp4").write_bytes(b"")
    inputs = read_videos(tmp_path, RULE, VideoOptions(cuts="none", fractions={"train": 0.4, "test": 0.6}))
    assert {(unit.cls, unit.split) for unit in inputs.units} == {("cat", "train"), ("cat", "test"), ("dog", "test")}
    assert inputs.warnings[1:] == ("class dog has no training video left: those that it was to have cannot be used",)
    table = tmp_path / "list.csv"  # a table may mean a class for testing only
    table.write_text("path,class,split\ncat/a.mp4,cat,train\ndog/b.mp4,dog,test\n")
    assert read_videos(table, RULE, VideoOptions(cuts="none", strict=True)).warnings == ()
