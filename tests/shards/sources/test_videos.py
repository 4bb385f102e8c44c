from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import scenedetect

from colocam_dist.data.containers import truncation
from colocam_dist.data.index import ShotIndex
from colocam_dist.errors import ConfigError, DataError
from shards.dataset import BuildOptions, build_dataset
from shards.sources.video_unit import Cuts, VideoOptions
from shards.sources.videos import read_videos
from tests.shards.sources.drawn_videos import (
    HEIGHT,
    NONE,
    RULE,
    STRICT,
    WIDTH,
    frames_of,
    number_on,
    stamped,
    write_video,
)


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
    assert warnings == ["cat/a: 1 boxes lie on frames that are left out"]


def test_cuts_make_shots(tmp_path: Path, picture: Callable[..., np.ndarray]) -> None:
    scenes = [
        np.clip(picture(s, WIDTH, HEIGHT) * np.array(t), 0, 255).astype(np.uint8)
        for s, t in enumerate(((0.2, 0.5, 1.0), (1.0, 0.5, 0.2), (0.3, 1.0, 0.3)))
    ]
    write_video(tmp_path / "cat/a.mp4", [scenes[0]] * 9 + [scenes[1]] * 6 + [scenes[2]] * 12)
    frames, _ = frames_of(tmp_path, VideoOptions(cuts="histogram"))
    assert [frame.shot for frame in frames] == ["0000"] * 9 + ["0001"] * 6 + ["0002"] * 12
    frames, _ = frames_of(tmp_path, VideoOptions(cuts="histogram", every=5))
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


def test_bad_videos_are_left_out_or_named_all_at_once(tmp_path: Path) -> None:
    write_video(tmp_path / "cat/good.mp4", stamped(3))
    whole = write_video(tmp_path / "cat/whole.avi", stamped(40)).read_bytes()
    (tmp_path / "cat/cut.avi").write_bytes(whole[: len(whole) * 6 // 10])
    (tmp_path / "cat/empty.mp4").touch()
    (tmp_path / "cat/text.avi").write_text("this is no video " * 100)
    (tmp_path / "cat/short.mp4").write_bytes((tmp_path / "cat/good.mp4").read_bytes()[:300])
    (tmp_path / "cat/._hidden.mp4").write_text("not looked at")
    why = {
        "cat/cut.avi": f"it is cut off: {len(whole) * 6 // 10} of {len(whole)} bytes are there",
        "cat/short.mp4": "it is cut off: 300 of",
        "cat/empty.mp4": "the file is empty",
        "cat/text.avi": "it is not a video that can be decoded",
    }
    inputs = read_videos(tmp_path, RULE, replace(STRICT, strict=False))
    assert [unit.video for unit in inputs.units] == ["good", "whole"]
    skipped = {video["path"]: video["why"] for video in inputs.receipt["skipped_videos"]}
    assert skipped.keys() == why.keys()
    for path, text in why.items():
        assert skipped[path].startswith(text)
    assert len(inputs.warnings) == 4
    with pytest.raises(DataError) as caught:
        read_videos(tmp_path, RULE, STRICT)
    for text in ("4 problems", *(f"{path}: {text}" for path, text in why.items())):
        assert text in str(caught.value)


def test_what_cannot_be_read_is_reported_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("denied", "good"):
        write_video(tmp_path / f"cat/{name}.mp4", stamped(3))
    (tmp_path / "cat/folder.mp4").mkdir()
    (tmp_path / "cat/link.mp4").symlink_to(tmp_path / "gone.mp4")
    damaged = bytearray(write_video(tmp_path / "cat/damaged.mp4", stamped(3)).read_bytes())
    at = damaged.index(b"mdat") + 4
    size = int.from_bytes(damaged[at - 8 : at - 4], "big") - 8
    damaged[at : at + size] = bytes(size)
    (tmp_path / "cat/damaged.mp4").write_bytes(damaged)

    def check(path: Path) -> str | None:
        if path.stem == "denied":
            raise PermissionError(13, "Permission denied")
        return truncation(path)

    monkeypatch.setattr("shards.sources.video_files.truncation", check)
    inputs = read_videos(tmp_path, RULE, NONE)
    assert [unit.video for unit in inputs.units] == ["good"]
    assert {video["path"]: video["why"] for video in inputs.receipt["skipped_videos"]} == {
        "cat/damaged.mp4": "its first frame cannot be decoded (codec mp4v)",
        "cat/denied.mp4": "it cannot be read (Permission denied)",
        "cat/link.mp4": "no such file",
    }
    table = tmp_path / "list.csv"
    table.write_text("path,class\ncat/good.mp4,cat\ncat/folder.mp4,cat\n")
    assert read_videos(table, RULE, NONE).receipt["skipped_videos"] == [
        {"path": "cat/folder.mp4", "why": "it is not a file"}
    ]


def test_decoding_that_fails_in_the_middle_keeps_what_there_is(tmp_path: Path) -> None:
    path = write_video(tmp_path / "cat/a.avi", stamped(40))
    data = bytearray(path.read_bytes())
    movie, index = data.index(b"movi"), data.rindex(b"idx1")
    chunks = [movie + match.start() for match in re.finditer(b"00dc", data[movie:index])]
    assert len(chunks) == 40
    for at in chunks[25:]:
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        data[at + 8 : at + 8 + size] = bytes(size)
    path.write_bytes(data)
    frames, warnings = frames_of(tmp_path, STRICT)
    assert [number_on(frame.jpeg) for frame in frames] == list(range(25))
    assert warnings == ["cat/a: 25 frames, though its header promises 40"]


@pytest.mark.parametrize("cuts", ["histogram", "scenedetect", "none"])
def test_a_video_that_lost_all_its_frames_is_a_warning(tmp_path: Path, cuts: Cuts) -> None:
    for cls in ("cat", "dog"):
        write_video(tmp_path / "in" / cls / "a.mp4", stamped(3))
    inputs = read_videos(tmp_path / "in", RULE, VideoOptions(cuts=cuts))
    (tmp_path / "in/cat/a.mp4").write_bytes(b"")
    (summary,) = build_dataset(inputs, tmp_path / "out", BuildOptions(RULE))
    assert (summary.shots, summary.frames) == (1, 3)
    source = json.loads((tmp_path / "out/train.manifest.json").read_text())["source"]
    assert source["warnings"] == ["cat/a: none of its frames could be decoded, though its first one could before"]


def test_rotated_videos_are_stored_upright(tmp_path: Path, edit_mp4: Any) -> None:
    """Turned clockwise by 90 degrees, the bars lie; their number is read from the frame turned back."""
    edit_mp4(write_video(tmp_path / "cat/a.mp4", stamped(5)), quarter_turns=1)
    (tmp_path / "boxes.csv").write_text("path,frame,x0,y0,x1,y1\ncat/a.mp4,1,0,70,64,96\n")  # fits only upright
    frames, _ = frames_of(tmp_path, NONE)
    assert {(frame.width, frame.height) for frame in frames} == {(HEIGHT, WIDTH)}
    assert frames[1].boxes == ((0, 70, 64, 96),)
    for number, frame in enumerate(frames):
        image = cv2.imdecode(np.frombuffer(frame.jpeg, np.uint8), cv2.IMREAD_COLOR)
        back = cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE)
        assert number_on(cv2.imencode(".jpg", back)[1].tobytes()) == number


def test_a_header_that_promises_too_much_is_a_warning(tmp_path: Path) -> None:
    path = write_video(tmp_path / "cat/a.avi", stamped(40))
    data = bytearray(path.read_bytes())
    at = data.index(b"strh") + 8 + 32  # dwLength of the stream
    assert int.from_bytes(data[at : at + 4], "little") == 40
    data[at : at + 4] = (60).to_bytes(4, "little")
    path.write_bytes(data)
    frames, warnings = frames_of(tmp_path, NONE)
    assert len(frames) == 40
    assert warnings == ["cat/a: 40 frames, though its header promises 60"]


def cuts_csv(folder: Path, *rows: str) -> None:
    (folder / "cuts.csv").write_text("path,frame\n" + "".join(f"{row}\n" for row in rows))


def test_given_cuts_come_first(tmp_path: Path) -> None:
    write_video(tmp_path / "cat/a.mp4", stamped(9))
    write_video(tmp_path / "cat/b.mp4", stamped(5))
    cuts_csv(tmp_path, "cat/a.mp4,7", "cat/a.mp4,2")
    frames, _ = frames_of(tmp_path, VideoOptions(cuts="table"), video="a")
    assert [frame.shot for frame in frames] == ["0000"] * 2 + ["0001"] * 5 + ["0002"] * 2
    frames, _ = frames_of(tmp_path, VideoOptions(cuts="table"), video="b")  # a video without rows is one shot
    assert {frame.shot for frame in frames} == {"0000"}
    assert read_videos(tmp_path, RULE, VideoOptions(cuts="table")).settings["cuts"] == "table"
    auto = read_videos(tmp_path, RULE, VideoOptions())
    assert [unit.method for unit in auto.units] == ["table", "scenedetect"]  # type: ignore[attr-defined]
    assert auto.settings["cuts"] == f"table+scenedetect {scenedetect.__version__}"
    before = {unit.video: unit.fingerprint for unit in auto.units}
    cuts_csv(tmp_path, "cat/a.mp4,7")
    after = {unit.video: unit.fingerprint for unit in read_videos(tmp_path, RULE, VideoOptions()).units}
    assert {video for video in before if before[video] != after[video]} == {"a"}


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ("cat/b.mp4,3", "cat/b.mp4 is none of the videos"),
        ("cat/a.mp4,0", "'0' is not the number of a frame after the first"),
        ("cat/a.mp4,x", "'x' is not the number"),
        ("cat/a.mp4,3\ncat/a.mp4,3", "the cut at frame 3 stands there twice"),
    ],
)
def test_cuts_that_make_no_sense(tmp_path: Path, row: str, text: str) -> None:
    write_video(tmp_path / "cat/a.mp4", stamped(5))
    cuts_csv(tmp_path, row)
    with pytest.raises(DataError, match=text):
        read_videos(tmp_path, RULE, VideoOptions(cuts="table"))


def test_a_cut_beyond_the_end_and_a_missing_table(tmp_path: Path) -> None:
    write_video(tmp_path / "cat/a.mp4", stamped(5))
    with pytest.raises(DataError, match=r"no table of cuts(.|\n)*cuts.csv"):
        read_videos(tmp_path, RULE, VideoOptions(cuts="table"))
    cuts_csv(tmp_path, "cat/a.mp4,5")
    with pytest.raises(DataError, match=r"cuts.csv names frame 5(.|\n)*5 frames"):
        frames_of(tmp_path, VideoOptions(cuts="table"))


def test_the_detector_that_is_there_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_video(tmp_path / "cat/a.mp4", stamped(5))
    with caplog.at_level("INFO"):
        assert read_videos(tmp_path, RULE, VideoOptions()).settings["cuts"].startswith("scenedetect")
        assert [record.message for record in caplog.records] == [
            "shots of 0 videos are given by cuts.csv, those of 1 are found by scenedetect: it is installed "
            f"({scenedetect.__version__})"
        ]
        caplog.clear()
        cuts_csv(tmp_path, "cat/a.mp4,3")
        assert read_videos(tmp_path, RULE, VideoOptions()).settings["cuts"] == "table"
        assert "shots of 1 videos are given by cuts.csv, those of 0 are found" in caplog.text
        (tmp_path / "cuts.csv").unlink()
    monkeypatch.setitem(sys.modules, "scenedetect", None)
    assert read_videos(tmp_path, RULE, VideoOptions()).settings["cuts"] == "histogram"
    with pytest.raises(ConfigError, match=r'not installed(.|\n)*-e "\.\[shots\]" -c constraints\.txt'):
        read_videos(tmp_path, RULE, VideoOptions(cuts="scenedetect"))


@pytest.mark.parametrize(("fps", "kept"), [(10, range(11)), (5, range(0, 11, 2)), (3, [0, 4, 7, 10]), (50, range(11))])
def test_frames_per_second(tmp_path: Path, fps: float, kept: Sequence[int]) -> None:
    """At 10 frames per second, the first frames at or after 0, 1/3, 2/3, ... seconds are 0, 4, 7, 10."""
    write_video(tmp_path / "cat/a.mp4", stamped(11))
    frames, _ = frames_of(tmp_path, VideoOptions(cuts="none", fps=fps))
    assert [int(frame.name) for frame in frames] == list(kept)
    assert [number_on(frame.jpeg) for frame in frames] == list(kept)


def test_frames_per_second_of_a_variable_rate(tmp_path: Path, edit_mp4: Any) -> None:
    """Frames at 0, .1, .2, .3, .4, then every half second: one per half second are 0, 5, 6, 7, ... after 0.5 s."""
    path = write_video(tmp_path / "cat/a.mp4", stamped(10))
    edit_mp4(path, durations=[0.1] * 4 + [0.5] * 6)
    frames, _ = frames_of(tmp_path, VideoOptions(cuts="none", fps=2))
    assert [number_on(frame.jpeg) for frame in frames] == [0, 5, 6, 7, 8, 9]
    assert len(frames_of(tmp_path, NONE)[0]) == 10


def test_boxes_on_frames_that_a_rate_leaves_out_are_counted(tmp_path: Path) -> None:
    write_video(tmp_path / "cat/a.mp4", stamped(11))
    rows = [f"cat/a.mp4,{frame},1,2,30,40\n" for frame in (0, 3, 4, 5, 5)]
    (tmp_path / "boxes.csv").write_text("path,frame,x0,y0,x1,y1\n" + "".join(rows))
    frames, warnings = frames_of(tmp_path, VideoOptions(cuts="none", fps=3))
    assert [(frame.name, len(frame.boxes)) for frame in frames] == [
        ("000000", 1),
        ("000004", 1),
        ("000007", 0),
        ("000010", 0),
    ]
    assert warnings == ["cat/a: 3 boxes lie on frames that are left out"]


def test_videos_without_times_cannot_be_thinned_out_by_them(tmp_path: Path, edit_mp4: Any) -> None:
    write_video(tmp_path / "cat/good.mp4", stamped(5))
    edit_mp4(write_video(tmp_path / "cat/still.mp4", stamped(24)), durations=[0] * 23 + [0.1])
    rate = VideoOptions(cuts="none", fps=5)
    inputs = read_videos(tmp_path, RULE, rate)
    assert [unit.video for unit in inputs.units] == ["good"]
    (skipped,) = inputs.receipt["skipped_videos"]
    assert skipped == {"path": "cat/still.mp4", "why": "the times of its frames do not increase, and --fps needs them"}
    with pytest.raises(DataError, match=r"cat/still.mp4: the times of its frames do not increase"):
        read_videos(tmp_path, RULE, replace(rate, strict=True))
    frames, warnings = frames_of(tmp_path, NONE, video="still")  # all frames need no times
    assert [number_on(frame.jpeg) for frame in frames] == list(range(24))
    assert not warnings


def test_times_that_stop_in_the_middle(tmp_path: Path, edit_mp4: Any) -> None:
    edit_mp4(write_video(tmp_path / "cat/a.mp4", stamped(24)), durations=[0.1] * 20 + [0] * 4)
    frames, warnings = frames_of(tmp_path, VideoOptions(cuts="none", fps=10))
    assert [number_on(frame.jpeg) for frame in frames] == list(range(21))
    assert warnings == [
        "cat/a: 3 of 24 frames are left out because their times are not later than those of frames before them"
    ]
    with pytest.raises(DataError, match=r"times of a video's frames do not increase(.|\n)*a.mp4(.|\n)*3 of 24"):
        frames_of(tmp_path, replace(STRICT, fps=10))


def test_two_ways_to_thin_out_are_refused() -> None:
    with pytest.raises(ConfigError, match="thinned out in two ways"):
        VideoOptions(every=2, fps=5.0)


@pytest.mark.parametrize("options", [{"every": 0}, {"fps": 0.0}, {"fps": -2.0}, {"fps": float("nan")}])
def test_rates_that_keep_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="not above 0"):
        VideoOptions(**options)


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
