from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from colocam_dist.data.index import ShotIndex
from colocam_dist.errors import DataError
from shards.dataset import BuildOptions, build_dataset
from shards.images import PictureRule
from shards.sources.videos import VideoOptions, read_videos

RULE = PictureRule(360, 320, 95)
WIDTH, HEIGHT = 96, 64


def write_video(path: Path, images: Sequence[np.ndarray]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = images[0].shape[:2]
    codec = {".mp4": "mp4v", ".avi": "MJPG", ".mkv": "mp4v"}[path.suffix]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), 10, (width, height))
    for image in images:
        writer.write(image)
    writer.release()
    return path


def stamped(count: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> list[np.ndarray]:
    """Gray frames on which their number stands as 8 black or white bars."""
    images = []
    for number in range(count):
        image = np.full((size[1], size[0], 3), 128, np.uint8)
        for bit in range(8):
            image[:, bit * size[0] // 8 : (bit + 1) * size[0] // 8 - 2] = 235 if number >> bit & 1 else 20
        images.append(image)
    return images


def number_on(jpeg: bytes) -> int:
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE)
    width = image.shape[1]
    bars = [image[:, bit * width // 8 + 2 : (bit + 1) * width // 8 - 4].mean() > 128 for bit in range(8)]
    return sum(int(bar) << bit for bit, bar in enumerate(bars))


def frames_of(place: Path, options: VideoOptions, **facts: str) -> list[Any]:
    (unit,) = (u for u in read_videos(place, RULE, options).units if all(getattr(u, k) == v for k, v in facts.items()))
    warnings: list[str] = []
    frames = list(unit.frames(RULE, warnings.append))
    return [frames, warnings]


NONE = VideoOptions(cuts="none")


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_frame_numbers_are_positions_in_decoding_order(tmp_path: Path, suffix: str) -> None:
    write_video(tmp_path / "cat" / f"a{suffix}", stamped(37))
    frames, warnings = frames_of(tmp_path, NONE)
    assert [number_on(frame.jpeg) for frame in frames] == list(range(37))
    assert [frame.name for frame in frames] == [f"{number:06d}" for number in range(37)]
    assert {frame.shot for frame in frames} == {"0000"}
    assert not warnings


def test_every_keeps_the_numbers(tmp_path: Path) -> None:
    write_video(tmp_path / "cat/a.mp4", stamped(11))
    (tmp_path / "boxes.csv").write_text("path,frame,x0,y0,x1,y1\ncat/a.mp4,8,1,2,30,40\ncat/a.mp4,9,1,2,30,40\n")
    frames, warnings = frames_of(tmp_path, VideoOptions(cuts="none", every=4))
    assert [frame.name for frame in frames] == ["000000", "000004", "000008"]
    assert [number_on(frame.jpeg) for frame in frames] == [0, 4, 8]
    assert [frame.boxes for frame in frames] == [(), (), ((1, 2, 30, 40),)]
    assert warnings == ["cat/a: 1 boxes lie on frames that --every 4 leaves out"]


def test_cuts_make_shots(tmp_path: Path, picture: Callable[..., np.ndarray]) -> None:
    scenes = [
        np.clip(picture(s, WIDTH, HEIGHT) * np.array(t), 0, 255).astype(np.uint8)
        for s, t in enumerate(((0.2, 0.5, 1.0), (1.0, 0.5, 0.2), (0.3, 1.0, 0.3)))
    ]
    write_video(tmp_path / "cat/a.mp4", [scenes[0]] * 9 + [scenes[1]] * 6 + [scenes[2]] * 12)
    frames, _ = frames_of(tmp_path, VideoOptions())
    assert [frame.shot for frame in frames] == ["0000"] * 9 + ["0001"] * 6 + ["0002"] * 12
    frames, _ = frames_of(tmp_path, VideoOptions(every=5))
    assert [(frame.shot, frame.name) for frame in frames] == [
        ("0000", "000000"),
        ("0000", "000005"),
        ("0001", "000010"),
        ("0002", "000015"),
        ("0002", "000020"),
        ("0002", "000025"),
    ]


def test_boxes_by_frame_number(tmp_path: Path) -> None:
    write_video(tmp_path / "cat/a.mp4", stamped(5, (480, 400)))
    (tmp_path / "boxes.csv").write_text(
        "path,frame,x0,y0,x1,y1\ncat/a.mp4,4,100,200,300,400.5\ncat/a.mp4,2,0,0,48,40\ncat/a.mp4,2,48,40,96,80\n"
    )
    frames, _ = frames_of(tmp_path, VideoOptions(cuts="none", box_offset=-1))
    assert {(frame.width, frame.height) for frame in frames} == {(384, 320)}
    assert [len(frame.boxes) for frame in frames] == [0, 2, 0, 1, 0]
    np.testing.assert_allclose(frames[1].boxes, [[0, 0, 38.4, 32], [38.4, 32, 76.8, 64]])
    np.testing.assert_allclose(frames[3].boxes, [[80, 160, 240, 320]])


def test_a_box_on_a_frame_that_is_not_there(tmp_path: Path) -> None:
    write_video(tmp_path / "cat/a.mp4", stamped(5))
    (tmp_path / "boxes.csv").write_text("path,frame,x0,y0,x1,y1\ncat/a.mp4,5,1,2,3,4\n")
    with pytest.raises(DataError, match=r"names frame 5(?s:.*)a.mp4(?s:.*)5 frames, counted from 0"):
        frames_of(tmp_path, NONE)


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


def test_bad_videos_are_named_all_at_once_or_left_out(tmp_path: Path) -> None:
    write_video(tmp_path / "cat/good.mp4", stamped(3))
    (tmp_path / "cat/empty.mp4").touch()
    (tmp_path / "cat/text.avi").write_text("this is no video " * 100)
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog/cut.mp4").write_bytes((tmp_path / "cat/good.mp4").read_bytes()[:300])
    (tmp_path / "dog/._hidden.mp4").write_text("not looked at")
    with pytest.raises(DataError) as caught:
        read_videos(tmp_path, RULE, NONE)
    for text in (
        "3 problems",
        "cat/empty.mp4: the file is empty",
        "cat/text.avi: no frame can be decoded",
        "dog/cut.mp4: no frame can be decoded",
    ):
        assert text in str(caught.value)
    inputs = read_videos(tmp_path, RULE, VideoOptions(cuts="none", skip_bad=True))
    assert [unit.video for unit in inputs.units] == ["good"]
    assert [video["path"] for video in inputs.receipt["skipped_videos"]] == [
        "cat/empty.mp4",
        "cat/text.avi",
        "dog/cut.mp4",
    ]
    assert len(inputs.warnings) == 3
    (tmp_path / "cat/good.mp4").unlink()
    with pytest.raises(DataError, match="no video can be decoded"):
        read_videos(tmp_path, RULE, VideoOptions(cuts="none", skip_bad=True))


def test_a_video_that_ends_early_is_a_warning(tmp_path: Path) -> None:
    path = write_video(tmp_path / "cat/a.avi", stamped(40))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    frames, warnings = frames_of(tmp_path, NONE)
    assert 5 < len(frames) < 36
    assert warnings == [f"cat/a: {len(frames)} frames, though its header promises 40"]


def test_an_empty_folder_says_what_was_wanted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no videos(?s:.*)class/video"):
        read_videos(tmp_path, RULE, NONE)


def test_boxes_are_checked(tmp_path: Path) -> None:
    write_video(tmp_path / "cat/a.avi", stamped(3))
    (tmp_path / "boxes.csv").write_text(
        "path,frame,x0,y0,x1,y1\ncat/b.avi,0,1,2,3,4\ncat/a.avi,first,1,2,3,4\ncat/a.avi,0,1,2,1,4\ncat/a.avi,0,96,2,99,4\n"
    )
    with pytest.raises(DataError) as caught:
        read_videos(tmp_path, RULE, NONE)
    for text in (
        "4 problems",
        "cat/b.avi is none of the videos",
        "'first' is not the number of a frame",
        "box 1,2,1,4 is empty or inverted",
        "box 96,2,99,4 lies outside its picture of 96 x 64 pixels",
    ):
        assert text in str(caught.value)


def test_from_video_to_index(tmp_path: Path) -> None:
    for cls, count in (("cat", 70), ("dog", 9)):
        write_video(tmp_path / "in" / cls / "a.mp4", stamped(count))
    inputs = read_videos(tmp_path / "in", RULE, NONE)
    (summary,) = build_dataset(inputs, tmp_path / "out", BuildOptions(RULE))
    assert (summary.split, summary.shots, summary.frames) == ("train", 2, 79)
    index = ShotIndex.open(tmp_path / "out", "train")
    assert [(shot.key, shot.n_frames) for shot in index.shots] == [("cat/a/0000", 70), ("dog/a/0000", 9)]
    data = index.shard_paths[0].read_bytes()
    for frame in range(79):
        start, size = int(index.frame_offset[frame]), int(index.frame_size[frame])
        assert number_on(data[start : start + size]) == int(index.frame_name[frame]) == frame - 70 * (frame >= 70)
