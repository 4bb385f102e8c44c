from __future__ import annotations

import dataclasses
import os
import pickle
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from colocam_dist.data import frames as frames_module
from colocam_dist.data.frames import BadFrame, Crop, FrameReader, augment, eval_frame, resize
from colocam_dist.data.index import ShotIndex
from colocam_dist.data.rng import generator

MakeIndex = Callable[..., ShotIndex]
Damage = Callable[[ShotIndex, Sequence[int]], None]


def stored(index: ShotIndex, frame: int) -> bytes:
    data = index.shard_paths[index.frame_shard[frame]].read_bytes()
    return data[index.frame_offset[frame] :][: index.frame_size[frame]]


def with_bytes(index: ShotIndex, frame: int, data: bytes) -> ShotIndex:
    """The index with other bytes for one frame, correctly described."""
    shard = index.shard_paths[index.frame_shard[frame]]
    changed = {"frame_offset": shard.stat().st_size, "frame_size": len(data), "frame_crc32": zlib.crc32(data)}
    with shard.open("ab") as file:
        file.write(data)
    columns = {}
    for name, value in changed.items():
        columns[name] = getattr(index, name).copy()
        columns[name][frame] = value
    return dataclasses.replace(index, **columns)


def test_pixels_are_those_of_an_independent_decoder(make_index: MakeIndex, tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is only needed for this check")
    index = make_index([3, 4, 2])
    reader = FrameReader(index)
    for frame in range(index.n_frames):
        (tmp_path / "one.jpg").write_bytes(stored(index, frame))
        with image_module.open(tmp_path / "one.jpg") as image:
            expected = np.asarray(image.convert("RGB")).astype(int)
        image = reader.read(frame)
        assert (image.dtype, image.shape) == (np.uint8, (45, 61, 3))
        # Two JPEG libraries round differently; swapped color channels would differ by tens.
        assert abs(image - expected).mean() < 1
    reader.close()


@pytest.mark.parametrize(
    ("target", "shape"),
    [(0, (96, 136)), (54, (96, 136)), (53, (48, 68)), (27, (48, 68)), (26, (24, 34)), (13, (12, 17)), (1, (12, 17))],
)
def test_decode_is_reduced_while_the_short_side_suffices(
    make_index: MakeIndex, target: int, shape: tuple[int, int]
) -> None:
    reader = FrameReader(make_index([1], size=(96, 136), shards=1))
    image = reader.read(0, short_side=target)
    assert image.shape == (*shape, 3)
    full = reader.read(0)
    # A picture shifted by a pixel, or with swapped channels, is off by far more.
    assert abs(image.astype(int) - cv2.resize(full, shape[::-1], interpolation=cv2.INTER_AREA)).mean() < 4
    reader.close()


def test_orientation_tag_is_ignored(make_index: MakeIndex) -> None:
    index = make_index([1], shards=1)
    tag = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    plain = stored(index, 0)
    tagged = plain[:2] + b"\xff\xe1" + (len(tag) + 2).to_bytes(2, "big") + tag + plain[2:]
    assert cv2.imdecode(np.frombuffer(tagged, np.uint8), cv2.IMREAD_COLOR).shape == (61, 45, 3)  # the tag is understood
    reader = FrameReader(with_bytes(index, 0, tagged))
    assert (reader.read(0) == FrameReader(index).read(0)).all()
    reader.close()


def test_changed_byte_is_reported_with_shard_shot_and_frame(make_index: MakeIndex, damage: Damage) -> None:
    index = make_index([3, 4, 2])
    damage(index, [5])
    reader = FrameReader(index)
    with pytest.raises(BadFrame, match=r"crc32 (.|\n)*train-000001\.tar, shot b/video é0/1, frame frame0002\.jpg"):
        reader.read(5)
    reader.read(4)
    reader.close()


def test_shard_cut_off_after_opening(make_index: MakeIndex) -> None:
    index = make_index([3, 4], shards=1)
    reader = FrameReader(index)
    reader.read(6)
    os.truncate(index.shard_paths[0], int(index.frame_offset[6]) + 10)
    with pytest.raises(BadFrame, match=f"cut off: 10 of {index.frame_size[6]} bytes"):
        reader.read(6)
    reader.read(5)
    reader.close()


def test_shard_that_vanished(make_index: MakeIndex) -> None:
    index = make_index([3, 4], shards=2)
    index.shard_paths[1].unlink()
    with pytest.raises(BadFrame, match="No such file"):
        FrameReader(index).read(3)


def test_a_header_without_a_picture(make_index: MakeIndex) -> None:
    index = make_index([1], shards=1)
    data = stored(index, 0)
    reader = FrameReader(with_bytes(index, 0, data[: data.index(b"\xff\xc0") + 19]))
    with pytest.raises(BadFrame, match="decode"):
        reader.read(0)


def test_a_picture_of_another_size_is_not_decoded(make_index: MakeIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    index = make_index([1], shards=1)
    data = bytearray(stored(index, 0))
    size = data.index(b"\xff\xc0") + 5
    data[size : size + 4] = b"\xff\xff\xff\xff"
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(BadFrame, match="65535 x 65535 pixels, unlike its index"):
        FrameReader(with_bytes(index, 0, bytes(data))).read(0)


@pytest.mark.parametrize("data", [b"not a picture" * 9, b""], ids=["text", "empty"])
def test_bytes_that_are_no_picture_but_match_the_index(make_index: MakeIndex, data: bytes) -> None:
    index = with_bytes(make_index([3], shards=1), 1, data)
    reader = FrameReader(index)
    with pytest.raises(BadFrame, match="not a JPEG picture"):
        reader.read(1)
    reader.close()


def test_reader_survives_pickling_and_forking(make_index: MakeIndex) -> None:
    index = make_index([3, 4, 2])
    reader = FrameReader(index)
    expected = [reader.read(frame) for frame in range(9)]
    copy = pickle.loads(pickle.dumps(reader))
    assert all((copy.read(frame) == expected[frame]).all() for frame in range(9))
    child = os.fork()
    if child == 0:
        try:
            same = all((reader.read(frame) == expected[frame]).all() for frame in range(9))
            reader.close()
        finally:
            os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (reader.read(8) == expected[8]).all()
    copy.close()
    reader.close()


def test_open_shards_are_limited_and_closed(make_index: MakeIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames_module, "_MAX_OPEN_SHARDS", 2)
    index = make_index([1, 1, 1, 1], shards=4)

    def held() -> list[Path]:
        links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        return [link for link in links if str(link.readlink()).startswith(str(Path(index.location).resolve()))]

    reader = FrameReader(index)
    for frame in (0, 1, 2, 3, 0, 3):
        reader.read(frame)
    assert len(held()) == 2
    reader.close()
    assert not held()
    assert reader.read(2).shape == (45, 61, 3)
    reader.close()


def picture(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def box_mean(image: NDArray[np.uint8], factor: int) -> NDArray[np.float64]:
    height, width, _ = image.shape
    return image.reshape(height // factor, factor, width // factor, factor, 3).mean((1, 3))


def test_resize_averages_when_it_shrinks_by_more_than_two() -> None:
    image = picture(51, 69)
    assert abs(resize(image, (17, 23)) - box_mean(image, 3)).max() <= 0.5 + 1e-9


def test_resize_is_linear_up_to_a_factor_of_two() -> None:
    ramp = np.repeat(np.arange(0, 66, 2, dtype=np.uint8)[:, None], 7, 1)[..., None].repeat(
        3, 2
    )  # 33 rows: 0, 2, ..., 64
    out = resize(ramp, (20, 7))
    centers = (np.arange(20) + 0.5) * 33 / 20 - 0.5
    assert abs(out[:, 3, 1] - 2 * centers).max() <= 1
    noise = picture(34, 46)
    # Linear at exactly 2 is the mean of 2 x 2 pixels; it stays linear beyond 2 in one direction only.
    assert abs(resize(noise, (17, 23)) - box_mean(noise, 2)).max() <= 1
    wide = picture(20, 90)
    expected = cv2.resize(wide, (20, 20), interpolation=cv2.INTER_LINEAR)
    assert (resize(wide, 20) == expected).all()


def test_resize_of_the_right_size_is_the_frame_itself() -> None:
    image = picture(9, 9)
    assert resize(image, 9) is image
    assert resize(image, (9, 11)).shape == (9, 11, 3)


def test_augment_is_the_crop_that_it_reports() -> None:
    image, rng, seen = picture(31, 47), generator(0, 0, 0, "crop"), set()
    square = resize(image, 23)
    for _ in range(400):
        pixels, crop = augment(image, resize=23, crop=20, rng=rng)
        assert (pixels.dtype, pixels.shape, pixels.flags.c_contiguous) == (np.uint8, (3, 20, 20), True)
        expected = square[crop.top : crop.top + 20, crop.left : crop.left + 20]
        expected = np.fliplr(expected) if crop.flip else expected
        assert (pixels == np.moveaxis(expected, -1, 0)).all()
        seen.add(crop)
    assert seen == {Crop(top, left, flip) for top in range(4) for left in range(4) for flip in (False, True)}


def test_augment_without_freedom() -> None:
    image = picture(31, 47)
    out = np.zeros((3, 23, 23), np.uint8)
    pixels, crop = augment(image, resize=23, crop=23, rng=generator(0, 0, 0, "crop"), flip=False, out=out)
    assert crop == Crop(0, 0, False)
    assert pixels is out
    assert (out == eval_frame(image, 23)).all()
    with pytest.raises(ValueError, match="crop of 24 px from a frame of 23 px"):
        augment(image, resize=23, crop=24, rng=generator(0, 0, 0, "crop"))


def test_flip_can_be_switched_off_without_moving_the_crops() -> None:
    image = picture(31, 47)
    drawn = {
        flip: [
            augment(image, resize=30, crop=20, rng=generator(0, 0, item, "crop"), flip=flip)[1] for item in range(40)
        ]
        for flip in (True, False)
    }
    assert {crop.flip for crop in drawn[True]} == {True, False}
    assert [dataclasses.replace(crop, flip=False) for crop in drawn[True]] == drawn[False]


def test_evaluation_frame_is_the_whole_frame_as_a_square() -> None:
    image = picture(31, 47)
    assert (eval_frame(image, 19) == resize(image, 19).transpose(2, 0, 1)).all()
