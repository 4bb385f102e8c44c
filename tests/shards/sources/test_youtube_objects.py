from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from colocam_dist.errors import DataError
from shards.images import PictureRule
from shards.sources.base import Box, Inputs
from shards.sources.youtube_folds import read_folds
from shards.sources.youtube_objects import (
    CLASSES,
    Counts,
    Key,
    OtherLayout,
    RawFrame,
    Selection,
    YoutubeObjectsOptions,
    check_classes,
    inputs_of,
)
from shards.sources.youtube_objects_v1 import PUBLISHED as PUBLISHED_V1
from shards.sources.youtube_objects_v2 import PUBLISHED as PUBLISHED_V2

AS_IT_IS = PictureRule(0, 0, 95)
WIDTH, HEIGHT = 61, 45
BOX: Box = (3.0, 4.0, 30.0, 40.0)
TRAIN, VAL, TEST = ("bird", "1", "1"), ("cow", "2", "1"), ("train", "3", "1")
EXPECTED = {
    "train": Counts(1, 1, 1, 0, (0, 1, *[0] * 8)),
    "val": Counts(1, 1, 1, 1, (*[0] * 5, 1, *[0] * 4)),
    "test": Counts(2, 1, 1, 3, (*[0] * 9, 2)),
}
"""What the fixture ``raw`` has, counted by hand."""


class Raw:
    """Three shots of four frames below a folder, and what the splits have of them."""

    def __init__(self, root: Path, picture: bytes) -> None:
        self.root = root
        for key in (TRAIN, VAL, TEST):
            root.joinpath(*key).mkdir(parents=True)
            for name in "abcd":
                root.joinpath(*key, f"{name}.jpg").write_bytes(picture)
        self.selection = Selection()
        self.selection.shots["train"][TRAIN] = {}
        self.selection.shots["val"][VAL] = {"b.jpg": [BOX]}
        self.selection.shots["test"][TEST] = {"a.jpg": [BOX], "d.jpg": [BOX, (1.0, 2.0, 9.0, 8.0)]}

    def frames(self, key: Key) -> tuple[list[RawFrame], list[str]]:
        paths = sorted(self.root.joinpath(*key).glob("*.jpg"))
        return [RawFrame(path, path.stat().st_size, path.stat().st_mtime_ns) for path in paths], []

    def read(
        self, options: YoutubeObjectsOptions | None = None, rule: PictureRule = AS_IT_IS, expected: object = None
    ) -> Inputs:
        wanted = expected if isinstance(expected, dict) else EXPECTED
        chosen = options or YoutubeObjectsOptions()
        return inputs_of("a release", self.root, self.selection, self.frames, wanted, rule, chosen)


@pytest.fixture
def raw(tmp_path: Path, small_jpeg: Callable[[int, int], bytes]) -> Raw:
    return Raw(tmp_path / "raw", small_jpeg(WIDTH, HEIGHT))


def names(inputs: Inputs) -> dict[Key, list[str]]:
    return {
        (unit.cls, unit.video, unit.shot): [file.path.name for file in unit.files]  # type: ignore[attr-defined]
        for unit in inputs.units
    }


def test_units_counts_and_receipt(raw: Raw) -> None:
    inputs = raw.read()
    assert names(inputs) == {
        TRAIN: ["a.jpg", "b.jpg", "c.jpg", "d.jpg"],
        VAL: ["b.jpg"],
        TEST: ["a.jpg", "d.jpg"],
    }
    assert inputs.warnings == ()
    assert inputs.receipt["left_out"] == []
    assert "test boxes: found 3, published 3" in inputs.receipt["counts"]
    assert "test ids of train: found 2, published 2" in inputs.receipt["counts"]


def test_all_frames_do_not_change_the_counts(raw: Raw) -> None:
    inputs = raw.read(YoutubeObjectsOptions(evaluation_frames="all"))
    assert {len(frames) for frames in names(inputs).values()} == {4}
    assert inputs.receipt["counts"] == raw.read().receipt["counts"]


def test_one_error_has_all_counts_that_differ(raw: Raw) -> None:
    expected = {**EXPECTED, "val": Counts(1, 2, 1, 7, (1, *[0] * 9))}
    with pytest.raises(DataError) as caught:
        raw.read(expected=expected)
    differing = [line.strip() for line in str(caught.value).splitlines() if line.endswith(": differs")]
    assert differing == [
        "val videos: found 1, published 2: differs",
        "val boxes: found 1, published 7: differs",
        "val ids of aeroplane: found 0, published 1: differs",
        "val ids of cow: found 1, published 0: differs",
    ]
    inputs = raw.read(YoutubeObjectsOptions(allow_partial=True), expected=expected)
    assert [row for row in inputs.receipt["counts"] if row.endswith(": differs")] == differing
    (warning,) = inputs.warnings
    assert [line.strip() for line in warning.splitlines()[1:]] == differing  # the whole table is logged anyway
    assert "train ids: found 1, published 1" in str(caught.value)


def test_videos_and_boxes_per_class_are_compared_where_they_are_published(raw: Raw) -> None:
    videos, boxes = (*[0] * 4, 1, *[0] * 5), (*[0] * 8, 1, 2)
    expected = {
        **EXPECTED,
        "val": Counts(1, 1, 1, 1, EXPECTED["val"].per_class, videos_per_class=videos),
        "test": Counts(2, 1, 1, 3, EXPECTED["test"].per_class, boxes_per_class=boxes),
    }
    with pytest.raises(DataError) as caught:
        raw.read(expected=expected)
    assert [line.strip() for line in str(caught.value).splitlines() if line.endswith(": differs")] == [
        "val videos of cat: found 0, published 1: differs",
        "val videos of cow: found 1, published 0: differs",
        "test boxes of motorbike: found 0, published 1: differs",
        "test boxes of train: found 3, published 2: differs",
    ]


def test_headers_are_read_only_where_they_are_needed(raw: Raw) -> None:
    # Neither of these is the first frame of its video, and neither has boxes: what is in them is the builder's matter.
    for path in (raw.root.joinpath(*TRAIN, "b.jpg"), raw.root.joinpath(*VAL, "d.jpg")):
        path.write_bytes(b"no picture")
    assert TRAIN in names(raw.read(YoutubeObjectsOptions(evaluation_frames="all")))
    raw.root.joinpath(*TRAIN, "a.jpg").write_bytes(b"no picture")
    raw.root.joinpath(*TEST, "d.jpg").write_bytes(b"no picture")
    # Without a size from its first frame, the video is asked for that of the next.
    with pytest.raises(DataError, match="3 problems") as caught:
        raw.read()
    assert str(raw.root.joinpath(*TRAIN, "a.jpg")) in str(caught.value)
    assert str(raw.root.joinpath(*TEST, "d.jpg")) in str(caught.value)


def test_estimated_bytes_follow_the_rule(raw: Raw) -> None:
    size = raw.root.joinpath(*TRAIN, "a.jpg").stat().st_size
    (as_it_is,) = (unit for unit in raw.read().units if unit.split == "train")
    assert as_it_is.estimated_bytes == 4 * size
    # 45 pixels become 15, and 61 become 20 (of 20.33).
    (small,) = (unit for unit in raw.read(rule=PictureRule(15, 15, 95)).units if unit.split == "train")
    assert small.estimated_bytes == 4 * (size * 20 * 15 // (WIDTH * HEIGHT))


def test_boxes_are_clipped_and_counted(raw: Raw) -> None:
    raw.selection.shots["val"][VAL]["b.jpg"] = [(50.0, 5.0, WIDTH + 0.5, 40.0)]  # half a pixel is no matter
    raw.selection.shots["test"][TEST]["d.jpg"] = [(50.0, 5.0, WIDTH + 9.0, HEIGHT + 3.0), BOX]
    inputs = raw.read()
    files = {(unit.split, file.path.name): file for unit in inputs.units for file in unit.files}  # type: ignore[attr-defined]
    assert files["val", "b.jpg"].boxes == ((50.0, 5.0, 61.0, 40.0),)
    assert files["test", "d.jpg"].boxes == ((50.0, 5.0, 61.0, 45.0), BOX)
    assert inputs.receipt["clipped_boxes"] == 1
    assert any(warning.startswith("1 boxes") for warning in inputs.warnings)


def test_boxes_that_cannot_be_used_are_all_named(raw: Raw) -> None:
    raw.selection.shots["val"][VAL]["b.jpg"] = [(30.0, 4.0, 3.0, 40.0)]
    raw.selection.shots["test"][TEST]["a.jpg"] = [(70.0, 4.0, 80.0, 40.0)]
    for partial in (False, True):  # damage is not a missing part
        with pytest.raises(DataError, match="2 problems") as caught:
            raw.read(YoutubeObjectsOptions(allow_partial=partial))
        assert "is empty or inverted" in str(caught.value)
        assert "outside its picture of 61 x 45 pixels" in str(caught.value)


def test_a_labeled_frame_that_is_missing(raw: Raw) -> None:
    raw.root.joinpath(*TEST, "a.jpg").unlink()
    with pytest.raises(DataError, match=r"train/3/1/a\.jpg has boxes but no picture"):
        raw.read()


def test_a_labeled_frame_that_may_be_missing(raw: Raw) -> None:
    raw.root.joinpath(*TEST, "a.jpg").unlink()
    inputs = raw.read(YoutubeObjectsOptions(allow_partial=True))
    assert names(inputs)[TEST] == ["d.jpg"]
    assert inputs.receipt["left_out"] == ["train/3/1/a.jpg has boxes but no picture"]
    assert "test ids: found 1, published 2: differs" in inputs.receipt["counts"]


def test_a_split_without_frames(raw: Raw) -> None:
    raw.root.joinpath(*VAL, "b.jpg").unlink()
    raw.selection.places = {"val": "Somewhere/val.txt", "test": "Somewhere/test.txt"}
    with pytest.raises(DataError, match="split val of a release is empty") as caught:
        raw.read(YoutubeObjectsOptions(allow_partial=True))
    assert "wanted: Somewhere/val.txt\n" in str(caught.value)
    assert "cow/2/1/b.jpg has boxes but no picture" in str(caught.value)


def test_classes_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such folder"):
        check_classes(tmp_path / "absent", "R", "", True)
    with pytest.raises(DataError, match="10 of the ten class folders are missing"):
        check_classes(tmp_path, "R", "", True)
    for name in (*CLASSES, "vo-release", "code"):
        (tmp_path / name).mkdir()
    assert check_classes(tmp_path, "R", "", False) == (list(CLASSES), [])
    with pytest.raises(DataError, match=r"not the raw tree of R\n.*\n  got: this\n  wanted: that\n"):
        check_classes(tmp_path, "R", OtherLayout("this", "that"), True)
    (tmp_path / "dog").rmdir()
    assert check_classes(tmp_path, "R", "", True) == ([name for name in CLASSES if name != "dog"], ["dog"])
    with pytest.raises(DataError, match=r"1 of the ten class folders are missing(.|\n)*wanted: .*dog"):
        check_classes(tmp_path, "R", "", False)


@pytest.mark.parametrize(
    ("published", "split", "ids", "videos", "shots", "boxes"),
    [
        (PUBLISHED_V1, "train", 2768, 78, 2768, 0),
        (PUBLISHED_V1, "val", 325, 5 * 10, 325, 307 + 2 * 15 + 3 * 2 + 4),
        (PUBLISHED_V1, "test", 346, 27, 346, 308 + 2 * 27 + 3 * 10 + 4),
        (PUBLISHED_V2, "train", 1289, 76, 1289, 0),
        (PUBLISHED_V2, "val", 1177, 3 * 10, 177, 1177),
        (PUBLISHED_V2, "test", 1781, 49, 334, 180 + 162 + 233 + 605 + 165 + 315 + 173 + 463 + 213 + 158),
    ],
)
def test_published_counts(
    published: dict[str, Counts], split: str, ids: int, videos: int, shots: int, boxes: int
) -> None:
    counts = published[split]
    assert (counts.ids, counts.videos, counts.shots, counts.boxes) == (ids, videos, shots, boxes)
    assert (len(counts.per_class), sum(counts.per_class)) == (len(CLASSES), ids)
    for per_class, total in ((counts.videos_per_class, videos), (counts.boxes_per_class, boxes)):
        assert not per_class or (len(per_class), sum(per_class)) == (len(CLASSES), total)
    assert bool(counts.videos_per_class) == (split != "test")
    assert bool(counts.boxes_per_class) == (split == "test")


def cells(page: str, row: str) -> list[list[int]]:
    """Numbers in the cells of a table's row that begins with ``row``."""
    (line,) = re.findall(rf"^\| {re.escape(row)} \| (.*) \|$", page, re.MULTILINE)
    return [[int(number) for number in re.findall(r"\d+", cell)] for cell in line.split(" | ")]


def test_the_page_has_the_published_counts() -> None:
    page = (Path(__file__).parents[3] / "docs/data.md").read_text()
    releases = {"v1.0": PUBLISHED_V1, "v2.2": PUBLISHED_V2}
    plain = re.sub(r"(\d),(\d{3})\b", r"\1\2", page)  # 1,289 is one number
    for release, published in releases.items():
        train, val, test = (published[split] for split in ("train", "val", "test"))
        assert cells(plain, release) == [
            [train.ids, train.videos],
            [val.ids, val.videos, val.boxes],
            [test.ids, test.videos, test.boxes],
        ]
    for label, name in enumerate(CLASSES):
        wanted = []
        for published in releases.values():
            train, val, test = (published[split] for split in ("train", "val", "test"))
            wanted += [
                [train.per_class[label], train.videos_per_class[label]],
                [val.per_class[label], val.videos_per_class[label]],
                [test.per_class[label], test.boxes_per_class[label]],
            ]
        assert cells(plain, name) == wanted


def test_published_videos_are_those_of_both_releases() -> None:
    # Both have the same 155 videos, of which v2.2 has 106 for training (with validation) and 49 for testing.
    assert sum(counts.videos for counts in PUBLISHED_V1.values()) == 155
    assert sum(counts.videos for counts in PUBLISHED_V2.values()) == 106 + 49


def test_published_fold_files_give_no_warning(tmp_path: Path) -> None:
    (tmp_path / "class_id.yaml").write_text("".join(f"{name}: {label}\n" for label, name in enumerate(CLASSES)))
    folder, digests = tmp_path / "folds", {}
    for split in ("train", "val", "test"):
        (folder / split).mkdir(parents=True)
        (folder / split / "image_ids.txt").write_text(f"bird-{split}\n")
        (folder / split / "class_labels.txt").write_text(f"bird-{split},1\n")
        (folder / split / "localization.txt").write_text(f"bird-{split},-2.5,4,30,40\nbird-{split},1,2,9,8\n")
        digests[split] = hashlib.sha256(f"bird-{split}\n".encode()).hexdigest()[:16]

    def parse(name: str, is_shot: bool) -> tuple[Key, str]:
        return ("bird", name, "1"), "" if is_shot else "a.jpg"

    selection = read_folds(folder, digests, parse)
    assert selection.warnings == []
    assert selection.shots["train"] == {("bird", "bird-train", "1"): {}}
    assert selection.shots["val"] == {("bird", "bird-val", "1"): {"a.jpg": [(0.0, 4.0, 30.0, 40.0), (1, 2, 9, 8)]}}
    assert selection.facts["test_ids_sha256"] == digests["test"]
    (warning,) = read_folds(folder, {**digests, "val": "0" * 16}, parse).warnings
    assert f"{folder / 'val' / 'image_ids.txt'} is not the published list" in warning
