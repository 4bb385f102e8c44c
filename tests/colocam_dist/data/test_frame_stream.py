from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from colocam_dist.data.frame_stream import FrameStream
from colocam_dist.data.frames import FrameReader, eval_frame
from colocam_dist.data.index import ShotIndex
from colocam_dist.errors import ConfigError, DataError

MakeIndex = Callable[..., ShotIndex]
Damage = Callable[[ShotIndex, Sequence[int]], None]

LENGTHS = [3, 9, 4, 7, 5, 12, 1, 6, 8, 2, 5]


@pytest.fixture
def index(make_index: MakeIndex) -> ShotIndex:
    return make_index(LENGTHS)


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (1, 2), (3, 0), (5, 1)])
def test_evaluation_reads_the_given_frames_in_order(index: ShotIndex, world: int, workers: int) -> None:
    frames = np.array([61, 0, 5, 7, 7, 30, 31, 2, 44, 12, 13], np.int64)
    streams = [FrameStream(index, frames, crop=17, batch=2, rank=r, world=world, workers=workers) for r in range(world)]
    ids, reader = [], FrameReader(index)
    for stream in streams:
        batches = list(stream)
        assert len(batches) == len(stream)
        assert [len(batch.frame_ids_N) for batch in batches[:-1]] == [2] * (len(batches) - 1)
        for batch in batches:
            ids += batch.frame_ids_N.tolist()
            for pixels, frame, label in zip(batch.images_NCHW, batch.frame_ids_N, batch.labels_N, strict=True):
                expected = eval_frame(reader.read(int(frame), short_side=17), 17)
                assert (pixels.numpy() == expected).all()
                assert label == index.frame_shot[frame] % 3
    assert ids == frames.tolist()
    reader.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_stops_at_a_damaged_frame(index: ShotIndex, damage: Damage, workers: int) -> None:
    damage(index, [5])
    stream = FrameStream(index, np.arange(8), crop=17, batch=2, workers=workers)
    with pytest.raises(DataError, match=r"^a frame is damaged(.|\n)*frame0002"):
        list(stream)


def test_evaluation_of_fewer_frames_than_ranks(index: ShotIndex) -> None:
    streams = [FrameStream(index, np.array([4]), crop=9, batch=2, rank=rank, world=2) for rank in range(2)]
    assert [len(list(stream)) for stream in streams] == [len(stream) for stream in streams] == [1, 0]


@pytest.mark.parametrize(
    "change", [{"crop": 0}, {"batch": 0}, {"rank": 1}, {"frames": np.array([62])}, {"frames": np.array([-1])}]
)
def test_evaluation_arguments_are_checked(index: ShotIndex, change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        FrameStream(index, **{"frames": np.arange(3), "crop": 9, "batch": 2, **change})  # type: ignore[arg-type]


def test_damaged_frames_may_pass_as_black_pictures(index: ShotIndex, damage: Damage) -> None:
    damage(index, [5, 6])
    batches = list(FrameStream(index, np.arange(8), crop=17, batch=3, damaged="pass"))
    assert np.concatenate([batch.valid_N.numpy() for batch in batches]).tolist() == [True] * 5 + [False] * 2 + [True]
    pictures = np.concatenate([batch.images_NCHW.numpy() for batch in batches])
    assert [bool(picture.any()) for picture in pictures] == [True] * 5 + [False] * 2 + [True]
