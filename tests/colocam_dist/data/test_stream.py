from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch

from colocam_dist.data.index import ShotIndex
from colocam_dist.data.order import uniform
from colocam_dist.data.plan import LastBatch, Place, Plan
from colocam_dist.data.stream import WindowBatch, WindowSettings, WindowStream
from colocam_dist.errors import ConfigError, DataError, RunError

MakeIndex = Callable[..., ShotIndex]
Damage = Callable[[ShotIndex, Sequence[int]], None]

LENGTHS = [3, 9, 4, 7, 5, 12, 1, 6, 8, 2, 5]
SETTINGS = WindowSettings(4, "gaussian", 1.0, 26, 20, True)


def stream_of(index: ShotIndex, *, last: LastBatch = "pad", global_batch: int = 4, **where: int) -> WindowStream:
    plan = Plan(uniform(len(index.shots), 3), global_batch, last)
    workers = where.pop("workers", 0)
    return WindowStream(index, plan, SETTINGS, place=Place(**where), workers=workers)


def parts(batch: WindowBatch) -> list[bytes]:
    """Everything about a batch's windows, one window an entry."""
    tensors = [value.numpy() for value in vars(batch).values() if isinstance(value, torch.Tensor)]
    return [b"".join(tensor[window].tobytes() for tensor in tensors) for window in range(len(batch.labels_W))]


def digest(windows: list[bytes]) -> str:
    return sha256(b"".join(windows)).hexdigest()


def digests(stream: WindowStream | Iterator[WindowBatch]) -> list[str]:
    return [digest(parts(batch)) for batch in stream]


def global_digests(streams: Sequence[WindowStream], accumulation: int = 1) -> list[str]:
    """One digest per optimizer step, over the windows of its micro-batches, those of all ranks in rank order."""
    steps = []
    epochs = [list(stream) for stream in streams]
    assert len({len(epoch) for epoch in epochs}) == 1
    for step in range(len(epochs[0]) // accumulation):
        micros = range(step * accumulation, (step + 1) * accumulation)
        steps.append(digest([window for micro in micros for epoch in epochs for window in parts(epoch[micro])]))
    return steps


@pytest.fixture
def index(make_index: MakeIndex) -> ShotIndex:
    return make_index(LENGTHS)


@pytest.fixture
def reference(index: ShotIndex) -> list[list[str]]:
    """Digests of three epochs on one rank without workers."""
    stream = stream_of(index)
    epochs = [digests(stream) for _ in range(3)]
    assert len(set(itertools.chain(*epochs))) == 9
    return epochs


@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (1, 2), (2, 1), (4, 0), (2, 0)])
def test_global_batches_do_not_depend_on_ranks_and_workers(
    index: ShotIndex, reference: list[list[str]], ranks: int, workers: int
) -> None:
    streams = [stream_of(index, rank=rank, world=ranks, workers=workers) for rank in range(ranks)]
    try:
        for epoch in range(3):
            assert {stream.epoch for stream in streams} == {epoch}
            assert {len(stream) for stream in streams} == {3}
            assert global_digests(streams) == reference[epoch]
    finally:
        for stream in streams:
            stream.close()


def test_ranks_that_share_windows_are_given_parts_of_the_same_frames(index: ShotIndex, damage: Damage) -> None:
    damage(index, [12, 17])
    whole = [stream_of(index, rank=group, world=2) for group in range(2)]
    batches = [list(stream) for stream in whole]
    assert any(batch.replaced for epoch in batches for batch in epoch)
    for group in range(2):
        for part in range(2):
            stream = stream_of(index, rank=group, world=2, part=part, parts=2)
            for mine, every in zip(stream, batches[group], strict=True):
                for name, value in vars(mine).items():
                    wanted = getattr(every, name)
                    if isinstance(value, torch.Tensor):
                        frames = name.split("_")[-1].startswith("WN")
                        assert torch.equal(value, wanted[:, part::2] if frames else wanted), name
                    else:
                        assert value == wanted, name
            assert stream.receipt == whole[group].receipt, "of the whole windows"
            assert stream.state_dict() == whole[group].state_dict()
    with pytest.raises(ConfigError, match="frames of a window cannot be divided"):
        stream_of(index, part=0, parts=3)


def test_maxima_of_cams_do_not_depend_on_ranks_workers_and_interruptions(index: ShotIndex, tmp_path: Path) -> None:
    cams = tmp_path / "cams.npy"
    np.save(cams, np.random.default_rng(0).random((index.n_frames, 3, 5)).astype(np.float16))

    def stream(temporal: int = 3, rank: int = 0, world: int = 1, workers: int = 0) -> WindowStream:
        settings = dataclasses.replace(SETTINGS, n_frames=1, temporal_frames=temporal)
        plan = Plan(uniform(11, 3), 4)
        return WindowStream(index, plan, settings, place=Place(rank, world), workers=workers, cams=cams)

    expected = digests(stream())
    assert expected != digests(stream(temporal=1))
    broken_off = stream()
    assert digest(parts(next(iter(broken_off)))) == expected[0]
    for ranks, workers in ((1, 0), (2, 1), (4, 0)):
        streams = [stream(rank=rank, world=ranks, workers=workers) for rank in range(ranks)]
        for each in streams:
            each.load_state_dict(broken_off.state_dict())
        assert global_digests(streams) == expected[1:]
        for each in streams:
            each.close()


def test_shards_made_by_the_writer(tiny_shards: Path) -> None:
    index = ShotIndex.open(tiny_shards, "train")
    assert len(index.shard_paths) > 1
    expected = digests(stream_of(index))
    assert len(expected) == -(-len(index.shots) // 4)
    for ranks, workers in ((1, 2), (2, 1), (4, 0)):
        streams = [stream_of(index, rank=rank, world=ranks, workers=workers) for rank in range(ranks)]
        assert global_digests(streams) == expected
        assert sum(stream.receipt.as_dict()["frames_replaced"] for stream in streams) == 0
        for stream in streams:
            stream.close()


@pytest.mark.parametrize(("ranks", "accumulation", "workers"), [(1, 4, 0), (2, 2, 0), (1, 2, 2)])
def test_global_batches_do_not_depend_on_accumulation(
    index: ShotIndex, reference: list[list[str]], ranks: int, accumulation: int, workers: int
) -> None:
    streams = [
        stream_of(index, rank=rank, world=ranks, accumulation=accumulation, workers=workers) for rank in range(ranks)
    ]
    assert {len(stream) for stream in streams} == {3 * accumulation}
    assert global_digests(streams, accumulation) == reference[0]
    for stream in streams:
        stream.close()


@pytest.mark.parametrize("last", ["pad", "drop"])
def test_an_epoch_follows_the_plan(index: ShotIndex, last: LastBatch) -> None:
    stream = stream_of(index, last=last)
    plan = Plan(uniform(11, 3), 4, last)
    for epoch in range(2):
        shots = [batch.shot_ids_W.tolist() for batch in stream]
        assert shots == [plan.rank_windows(epoch, step, 0, 1).shots.tolist() for step in range(plan.steps_per_epoch)]
    assert stream.epoch == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_continues_anywhere_from_the_batches_given_out(
    index: ShotIndex, reference: list[list[str]], workers: int
) -> None:
    whole = list(itertools.chain(*reference))
    with closing(stream_of(index, workers=workers)) as resumed:
        for cut in (0, 1, 2, 3, 4, 5, 7):
            with closing(stream_of(index, workers=workers)) as begun:
                given = digests(itertools.islice(itertools.chain(begun, begun, begun), cut))
                state = json.loads(json.dumps(begun.state_dict()))
                assert (state["epoch"] * 3 + state["micro_step"]) == cut
            resumed.load_state_dict(state)
            assert len(resumed) == 3 - state["micro_step"]
            rest: list[str] = []
            while resumed.epoch < 3:
                rest += digests(resumed)
            assert given + rest == whole, cut


def test_the_state_inside_the_loop_is_behind_the_batch_in_hand(index: ShotIndex) -> None:
    stream = stream_of(index)
    places = [(stream.state_dict()["epoch"], stream.state_dict()["micro_step"], len(stream)) for _ in stream]
    assert places == [(0, 1, 2), (0, 2, 1), (0, 3, 0)]
    assert (stream.epoch, stream.state_dict()["micro_step"], len(stream)) == (1, 0, 3)


def test_a_state_at_the_end_of_an_epoch_leaves_an_empty_rest(index: ShotIndex, reference: list[list[str]]) -> None:
    stream = stream_of(index)
    for _ in stream:
        state = stream.state_dict()
    resumed = stream_of(index)
    resumed.load_state_dict(state)
    assert (resumed.epoch, digests(resumed)) == (0, [])
    assert (resumed.epoch, digests(resumed)) == (1, reference[1])


@pytest.mark.parametrize("workers", [0, 2])
def test_leaving_the_loop_early_loses_nothing(index: ShotIndex, reference: list[list[str]], workers: int) -> None:
    with closing(stream_of(index, workers=workers)) as stream:
        first = digests(itertools.islice(stream, 2))
        assert first + digests(stream) + digests(stream) == reference[0] + reference[1]


@pytest.mark.parametrize(("ranks", "accumulation", "workers"), [(4, 1, 0), (2, 2, 0), (2, 1, 1), (1, 4, 0)])
def test_a_run_continues_on_other_ranks_and_accumulation(
    index: ShotIndex, reference: list[list[str]], ranks: int, accumulation: int, workers: int
) -> None:
    begun = stream_of(index, accumulation=2)
    for _ in itertools.islice(begun, 4):
        pass
    streams = [
        stream_of(index, rank=rank, world=ranks, accumulation=accumulation, workers=workers) for rank in range(ranks)
    ]
    for stream in streams:
        stream.load_state_dict(begun.state_dict())
    assert global_digests(streams, accumulation) == reference[0][2:]
    assert global_digests(streams, accumulation) == reference[1]
    for stream in streams:
        stream.close()


def test_a_state_inside_of_a_step_needs_the_same_division(index: ShotIndex) -> None:
    begun = stream_of(index, accumulation=2)
    expected = digests(begun)
    begun = stream_of(index, accumulation=2)
    next(iter(begun))
    state = begun.state_dict()
    resumed = stream_of(index, accumulation=2)
    resumed.load_state_dict(state)
    assert digests(resumed) == expected[1:]
    for other in ({"accumulation": 1}, {"accumulation": 4}, {"accumulation": 2, "world": 2}):
        with pytest.raises(RunError, match=r"inside of an optimizer step(.|\n)*wanted: 1 ranks, 2 accumulation"):
            stream_of(index, **other).load_state_dict(state)


def test_a_state_of_another_run_is_refused_with_all_differences(index: ShotIndex, make_index: MakeIndex) -> None:
    state = stream_of(index).state_dict()
    for name, value in {
        "seed": 4,
        "global_batch": 8,
        "fingerprint": "f" * 64,
        "last": "drop",
        "windows": 12,
        "order": "0",
        "version": 0,
    }.items():
        with pytest.raises(RunError, match=f"got: {name}={value}\n.*wanted: {name}={state[name]}"):
            stream_of(index).load_state_dict({**state, name: value})
    with pytest.raises(RunError, match=r"got: seed=4, fingerprint=None"):
        stream_of(index).load_state_dict({**state, "seed": 4, "fingerprint": None})


def test_an_iteration_ends_when_another_begins_or_the_stream_moves(index: ShotIndex) -> None:
    stream = stream_of(index)
    old = iter(stream)
    next(old)
    next(iter(stream))
    with pytest.raises(RuntimeError, match="iterated again"):
        next(old)
    old = iter(stream)
    stream.load_state_dict(stream.state_dict())
    with pytest.raises(RuntimeError, match="moved"):
        next(old)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_closed_stream_starts_afresh(index: ShotIndex, reference: list[list[str]], workers: int) -> None:
    stream = stream_of(index, workers=workers)
    old = iter(stream)
    given = [digest(parts(next(old)))]
    stream.close()
    with pytest.raises(RuntimeError, match="closed"):
        next(old)
    assert given + digests(stream) == reference[0]
    stream.close()
    stream.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_damage_changes_neither_the_number_of_batches_nor_other_windows(
    index: ShotIndex, damage: Damage, workers: int
) -> None:
    whole = [window for batch in stream_of(index) for window in parts(batch)]
    shots = list(itertools.chain(*(batch.shot_ids_W.tolist() for batch in stream_of(index))))
    damage(index, [5, *range(12, 16)])  # a frame of shot 1; all four frames of shot 2
    with closing(stream_of(index, workers=workers)) as stream:
        batches = list(stream)
        receipt = stream.receipt
    assert [len(batch.labels_W) for batch in batches] == [4, 4, 4]
    found = [window for batch in batches for window in parts(batch)]
    hit = {place for place, shot in enumerate(shots) if shot == 2}
    changed = {place for place, (a, b) in enumerate(zip(whole, found, strict=True)) if a != b}
    assert hit <= changed <= hit | {place for place, shot in enumerate(shots) if shot == 1}
    assert receipt.shots_skipped == len(hit)


@pytest.mark.parametrize("workers", [0, 2])
def test_too_much_damage_ends_the_stream_with_the_plain_error(index: ShotIndex, damage: Damage, workers: int) -> None:
    damage(index, range(len(index.frame_size) - 1))
    with closing(
        WindowStream(
            index, Plan(uniform(11, 3), 4), WindowSettings(4, "adjacent", 1.0, 26, 20, True, 0.0), workers=workers
        )
    ) as stream:
        with pytest.raises(DataError, match=r"^too many frames are damaged\n") as caught:
            list(stream)
        assert "train-00000" in str(caught.value)
        assert stream.state_dict()["micro_step"] == 0


def test_torchs_global_generator_is_left_alone(index: ShotIndex) -> None:
    before = torch.get_rng_state()
    for workers in (0, 1):
        with closing(stream_of(index, workers=workers)) as stream:
            list(stream)
            list(stream)
    assert torch.equal(torch.get_rng_state(), before)


def test_cams_come_along(index: ShotIndex, tmp_path: Path) -> None:
    cams = np.random.default_rng(0).random((index.n_frames, 3, 5)).astype(np.float16)
    np.save(tmp_path / "cams.npy", cams)
    plan = Plan(uniform(11, 3), 4)
    for workers in (0, 1):
        with closing(WindowStream(index, plan, SETTINGS, workers=workers, cams=tmp_path / "cams.npy")) as stream:
            for batch in stream:
                assert batch.cams_WNhw is not None
                assert (batch.cams_WNhw.numpy() == cams[batch.frame_ids_WN.numpy()]).all()


def test_contradictions_are_refused(index: ShotIndex) -> None:
    with pytest.raises(ConfigError, match=r"cannot be divided(.|\n)*multiple of 6"):
        stream_of(index, world=3, accumulation=2)
    with pytest.raises(ConfigError, match="larger than the data"):
        stream_of(index, global_batch=12, last="drop")
    with pytest.raises(ConfigError, match="no such rank"):
        stream_of(index, rank=2, world=2)
    with pytest.raises(ConfigError, match="not one of these shots"):
        WindowStream(index, Plan(uniform(12, 3), 4), SETTINGS)
