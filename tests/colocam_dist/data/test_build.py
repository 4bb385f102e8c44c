from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from colocam_dist.data import build
from colocam_dist.data.build import MicroTask, WindowBuilder, WindowSettings
from colocam_dist.data.frames import FrameReader, resize
from colocam_dist.data.index import ShotIndex
from colocam_dist.data.order import uniform
from colocam_dist.data.plan import Plan
from colocam_dist.data.windows import Scheme
from colocam_dist.errors import ConfigError, DataError

MakeIndex = Callable[..., ShotIndex]
Damage = Callable[[ShotIndex, Sequence[int]], None]

SETTINGS = WindowSettings(4, "adjacent", 1.0, 26, 20, True)
LENGTHS = [4, 9, 4, 2, 6]
FIRST = np.cumsum([0, *LENGTHS]).tolist()


def task(*positions: int, first: bool = True, epoch: int = 0) -> MicroTask:
    return MicroTask(epoch, np.array(positions, np.int64), first)


def place_of(shot: int, plan: Plan, epoch: int = 0) -> int:
    return plan.order.epoch(epoch).shots.tolist().index(shot)


def make(index: ShotIndex, settings: WindowSettings = SETTINGS, cams: Path | None = None) -> tuple[WindowBuilder, Plan]:
    plan = Plan(uniform(len(index.shots), 5), 2)
    return WindowBuilder(index, plan, settings, cams), plan


def test_pixels_are_the_reported_crops_of_the_reported_frames(make_index: MakeIndex) -> None:
    index = make_index(LENGTHS)
    builder, plan = make(index)
    batch = builder(task(0, 1, 2, 3, 4))
    reader = FrameReader(index)
    assert batch.shot_ids_W.tolist() == plan.order.epoch(0).shots.tolist()
    assert batch.labels_W.tolist() == [shot % 3 for shot in plan.order.epoch(0).shots.tolist()]
    crops = set()
    for w, k in np.ndindex(5, 4):
        frame = int(batch.frame_ids_WN[w, k])
        top, left, flip = batch.crops_WN3[w, k].tolist()
        expected = resize(reader.read(frame), 26)[top : top + 20, left : left + 20]
        expected = expected[:, ::-1] if flip else expected
        assert (batch.images_WNCHW[w, k].numpy() == expected.transpose(2, 0, 1)).all()
        assert index.frame_shot[frame] == batch.shot_ids_W[w]
        crops.add((top, left, flip))
    assert len(crops) > 12  # every frame has a crop of its own
    assert (int(batch.mask_WN.sum()), batch.replaced, batch.skipped_shots, batch.cams_WNhw) == (18, 0, 0, None)
    short = batch.shot_ids_W == 3
    assert batch.mask_WN[short].tolist() == [[True, True, False, False]]
    assert batch.frame_ids_WN[short].tolist() == [[17, 18, 18, 18]]
    assert batch.mask_WN[~short].all()


def test_every_epoch_and_every_shot_has_its_own_windows_and_crops(make_index: MakeIndex) -> None:
    index = make_index([30] * 6)
    builder, plan = make(index)
    batches = [builder(task(*(place_of(shot, plan, epoch) for shot in range(6)), epoch=epoch)) for epoch in range(2)]
    starts = [(batch.frame_ids_WN[:, 0] - 30 * torch.arange(6)).tolist() for batch in batches]
    assert starts[0] != starts[1]
    assert all(len(set(epoch)) > 1 for epoch in starts)
    crops = [tuple(map(tuple, window)) for batch in batches for window in batch.crops_WN3.tolist()]
    assert len(set(crops)) == 12


def test_damaged_frames_are_replaced_by_the_nearest_undamaged_ones(make_index: MakeIndex, damage: Damage) -> None:
    index = make_index(LENGTHS)
    builder, plan = make(index)
    places = (place_of(0, plan), place_of(2, plan), place_of(3, plan))
    whole = builder(task(*places))
    damage(index, [1, 2, 13, 15, 16, 18])
    batch = builder(task(*places))
    # Of 0 1 2 3 the middle two are damaged; of 13 14 15 16 all but the second; of 17 18 18 18 the repeated one.
    assert batch.frame_ids_WN.tolist() == [[0, 0, 3, 3], [14, 14, 14, 14], [17, 17, 17, 17]]
    assert batch.mask_WN.tolist() == [[1, 0, 0, 1], [0, 1, 0, 0], [1, 0, 0, 0]]
    assert (batch.replaced, batch.skipped_shots) == (6, 0)
    assert (batch.crops_WN3 == whole.crops_WN3).all()
    kept = batch.mask_WN
    assert (batch.images_WNCHW[kept] == whole.images_WNCHW[kept]).all()
    top, left, flip = batch.crops_WN3[0, 1].tolist()
    expected = resize(FrameReader(index).read(0), 26)[top : top + 20, left : left + 20]
    assert (batch.images_WNCHW[0, 1].numpy() == (expected[:, ::-1] if flip else expected).transpose(2, 0, 1)).all()


def test_a_shot_without_an_undamaged_frame_gives_way_to_the_next(make_index: MakeIndex, damage: Damage) -> None:
    index = make_index(LENGTHS)
    builder, plan = make(index)
    order = plan.order.epoch(0).shots.tolist()
    last, first, second = order[-1], order[0], order[1]
    expected = builder(task(1))
    damage(index, [*range(FIRST[last], FIRST[last + 1]), *range(FIRST[first], FIRST[first + 1])])
    batch = builder(task(4))  # the order goes on at its start
    assert batch.shot_ids_W.tolist() == [second]
    assert (batch.skipped_shots, batch.substituted_W.tolist()) == (2, [True])
    assert (batch.images_WNCHW == expected.images_WNCHW).all()
    assert batch.mask_WN.tolist() == expected.mask_WN.tolist()
    assert batch.replaced == 0


def test_a_split_without_an_undamaged_frame_is_an_error(make_index: MakeIndex, damage: Damage) -> None:
    index = make_index([2, 3])
    damage(index, range(5))
    with pytest.raises(DataError, match="no shot of the split can be read"):
        make(index)[0](task(0))


def test_too_many_damaged_frames_are_named(
    make_index: MakeIndex, damage: Damage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_MIN_WINDOWS", 5)  # the floor is then 20 frames
    index = make_index([4] * 12)
    settings = WindowSettings(4, "adjacent", 1.0, 26, 20, True, max_bad=0.1)
    builder, plan = make(index, settings)
    places = [place_of(shot, plan) for shot in range(12)]
    damage(index, [1, 6, 47])
    builder(task(places[0], places[1]))  # two damaged of at least 20: exactly 10 %
    with pytest.raises(DataError) as caught:
        builder(task(places[11], first=False))
    text = str(caught.value)
    assert text.count("crc32") == 3
    for where in (
        "train-000000.tar, shot a/video é0/0, frame frame0001.jpg",
        "train-000000.tar, shot b/video é0/1, frame frame0002.jpg",
        "train-000002.tar, shot c/video é5/11, frame frame0003.jpg",
    ):
        assert where in text
    assert "3 damaged of 12 frames tried" in text
    assert "at most 10.00%" in text
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args
    # With 30 frames tried in the pass, three damaged ones are allowed again; a new pass counts from nothing.
    builder(task(*(place for place in places if place not in (places[0], places[1], places[11]))))
    builder(task(places[0], places[1], places[11], first=False))
    builder(task(places[11], places[11]))


def test_zero_tolerance_stops_at_the_first_damaged_frame(make_index: MakeIndex, damage: Damage) -> None:
    index = make_index(LENGTHS)
    damage(index, [0])
    builder, plan = make(index, WindowSettings(4, "adjacent", 1.0, 26, 20, True, max_bad=0.0))
    builder(task(place_of(2, plan)))
    with pytest.raises(DataError, match="1 damaged of 8 frames tried"):
        builder(task(place_of(0, plan), first=False))


def test_long_lists_of_damaged_frames_are_cut(make_index: MakeIndex, damage: Damage) -> None:
    index = make_index([30])
    damage(index, range(29))
    builder, _ = make(index, WindowSettings(30, "adjacent", 1.0, 26, 20, True, max_bad=0.001))
    with pytest.raises(DataError, match=r"(.*frame frame.*\n){20}.*and 9 more\n"):
        builder(task(0))


def test_cams_follow_the_frames(make_index: MakeIndex, damage: Damage, tmp_path: Path) -> None:
    index = make_index(LENGTHS)
    damage(index, [1])
    path = tmp_path / "cams.npy"
    cams = np.random.default_rng(0).random((25, 3, 5)).astype(np.float16)
    np.save(path, cams)
    builder, plan = make(index, cams=path)
    for made in (builder, pickle.loads(pickle.dumps(builder))):
        batch = made(task(place_of(0, plan), place_of(3, plan)))
        assert batch.cams_WNhw is not None
        assert (batch.cams_WNhw.dtype, batch.cams_WNhw.shape) == (torch.float16, (2, 4, 3, 5))
        assert (batch.cams_WNhw.numpy() == cams[[[0, 0, 2, 3], [17, 18, 18, 18]]]).all()
        made.close()


@pytest.mark.parametrize("temporal", [1, 2, 3, 40])
@pytest.mark.parametrize("sampling", ["adjacent", "interval"])
def test_cams_are_the_maximum_over_the_frame_and_those_before_it_in_its_shot(
    make_index: MakeIndex, damage: Damage, tmp_path: Path, temporal: int, sampling: Scheme
) -> None:
    index = make_index(LENGTHS)
    cams = np.random.default_rng(1).random((25, 3, 5)).astype(np.float16)
    damage(index, [5, 13, 14, 15, 16])
    cams[[5, 13, 14, 15, 16]] = 0  # what the archive has for damaged frames
    path = tmp_path / "cams.npy"
    np.save(path, cams)
    # The central part of a shot is where windows lie; frames before it belong to the shot as well.
    settings = replace(SETTINGS, n_frames=3, sampling=sampling, central_fraction=0.6, temporal_frames=temporal)
    builder, plan = make(index, settings, cams=path)
    batch = builder(task(*(place_of(shot, plan) for shot in (0, 1, 2, 3, 4))))
    assert batch.cams_WNhw is not None
    assert batch.substituted_W.tolist() == [False, False, True, False, False]
    for w, k in np.ndindex(5, 3):
        frame, first = int(batch.frame_ids_WN[w, k]), FIRST[int(batch.shot_ids_W[w])]
        expected = np.zeros((3, 5), np.float16)
        for other in range(first, frame + 1):
            if other > frame - temporal:
                expected = np.where(cams[other] > expected, cams[other], expected)
        assert (batch.cams_WNhw[w, k].numpy() == expected).all()


def test_builder_is_small_when_sent_to_a_worker(make_index: MakeIndex, tmp_path: Path) -> None:
    index = make_index([40, 60])
    path = tmp_path / "cams.npy"
    np.save(path, np.zeros((100, 64, 64), np.float16))
    builder, _ = make(index, cams=path)
    builder(task(0))
    assert len(pickle.dumps(builder)) < 10_000  # the archive alone has 800 kB


@pytest.mark.parametrize(
    ("cams", "text"),
    [
        (None, "cannot be opened"),
        (np.zeros((24, 3, 5), np.float16), r"wanted: float16 \(25, h, w\)"),
        (np.zeros((25, 3, 5), np.float32), "got: float32"),
        (np.zeros((25, 15), np.float16), "got: float16"),
    ],
)
def test_foreign_archives_are_refused(
    make_index: MakeIndex, tmp_path: Path, cams: np.ndarray | None, text: str
) -> None:
    if cams is not None:
        np.save(tmp_path / "cams.npy", cams)
    with pytest.raises(DataError, match=text):
        make(make_index(LENGTHS), cams=tmp_path / "cams.npy")


@pytest.mark.parametrize(
    "change",
    [
        {"n_frames": 0},
        {"sampling": "random"},
        {"central_fraction": 0.0},
        {"crop": 0},
        {"crop": 27},
        {"max_bad": -0.1},
        {"max_bad": 1.1},
        {"rules": "ours"},
        {"temporal_frames": 0},
    ],
)
def test_bad_settings_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        WindowSettings(**{**vars(SETTINGS), **change})  # type: ignore[arg-type]
