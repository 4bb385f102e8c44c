from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np
import pytest
import torch

from colocam_dist.data.build import WindowSettings
from colocam_dist.data.index import ShotIndex
from colocam_dist.data.order import EpochOrder, Pool, uniform
from colocam_dist.data.plan import Place, Plan
from colocam_dist.data.receipt import EpochReceipt
from colocam_dist.data.stream import WindowStream
from colocam_dist.data.windows import Rules
from colocam_dist.errors import RunError

MakeIndex = Callable[..., ShotIndex]
Damage = Callable[[ShotIndex, Sequence[int]], None]

LENGTHS = [3, 4, 2, 5]


def stream_of(index: ShotIndex, rules: Rules = "full", place: Place | None = None) -> WindowStream:
    settings = WindowSettings(3, "adjacent" if rules == "published" else "interval", 1.0, 20, 16, True, 0.5, rules)
    return WindowStream(index, Plan(uniform(len(index.shots), 0), 2), settings, place=place or Place())


def test_promised_frames_are_read_replaced_or_skipped(make_index: MakeIndex, damage: Damage) -> None:
    index = make_index(LENGTHS, shards=2)
    damage(index, [0, *range(7, 9)])  # one frame of the first shot, the whole third shot
    stream = stream_of(index)
    order = stream._plan.order.epoch(0).shots.tolist()
    after = order[(order.index(2) + 1) % 4]
    batches = list(stream)
    receipt = stream.receipt.as_dict()
    wanted = {0: 3, 1: 3, 2: 2, 3: 3}
    in_its_place = wanted[after] - (after == 0)
    assert receipt["frames_promised"] == sum(wanted.values())
    assert receipt["frames_replaced"] == 1
    assert receipt["frames_skipped"] == 2
    assert receipt["frames_read"] == 8
    assert receipt["frames_substituted"] == in_its_place
    assert sum(int(batch.mask_WN.sum()) for batch in batches) == 8 + in_its_place
    assert (receipt["windows"], receipt["shots_skipped"]) == (4, 1)
    # With two shots to a shard, the first shard holds shots 0 and 1.
    columns = ("promised", "read", "replaced", "skipped")
    assert receipt["shards"] == {
        "train-000000.tar": dict(zip(columns, (6, 5, 1, 0), strict=True)),
        "train-000001.tar": dict(zip(columns, (5, 3, 0, 2), strict=True)),
    }


@pytest.mark.parametrize("rules", ["full", "published"])
def test_a_substitute_may_have_damaged_frames_itself(make_index: MakeIndex, damage: Damage, rules: Rules) -> None:
    index = make_index([4] * 6)
    order = uniform(6, 0)
    lost, after = order.epoch(0).shots[:2].tolist()
    first = index.shots.first_frame
    damage(index, [*range(first[lost], first[lost] + 4), *range(first[after], first[after] + 3)])
    settings = WindowSettings(4, "adjacent", 1.0, 20, 16, True, 1.0, rules)  # max_bad is the matter of test_build
    stream = WindowStream(index, Plan(order, 2), settings)
    batches = list(stream)
    assert [batch.substituted_W.tolist() for batch in batches] == [[True, False], [False, False], [False, False]]
    receipt = stream.receipt.as_dict()
    assert receipt["shots_skipped"] == 1
    assert receipt["frames_skipped"] == stream._builder.promised(order.epoch(0))[0]
    # The substitute's damaged frames are counted once: at its own place in the plan, which comes second here.
    assert receipt["frames_replaced"] == sum(batch.replaced for batch in batches) == batches[0].replaced > 0
    assert receipt["frames_substituted"] == int(batches[0].mask_WN[0].sum())
    parts = receipt["frames_read"] + receipt["frames_replaced"] + receipt["frames_skipped"]
    assert receipt["frames_promised"] == parts


def test_one_damaged_frame_in_a_substitute_stays_within_the_default_limit(
    make_index: MakeIndex, damage: Damage
) -> None:
    index = make_index([4] * 6)
    order = uniform(6, 0)
    lost, after = order.epoch(0).shots[:2].tolist()
    first = index.shots.first_frame
    damage(index, [*range(first[lost], first[lost] + 4), first[after]])
    stream = WindowStream(index, Plan(order, 2), WindowSettings(4, "adjacent", 1.0, 20, 16, True))
    assert len(list(stream)) == 3
    counts = stream.receipt.as_dict()
    assert {name: counts[f"frames_{name}"] for name in ("promised", "read", "replaced", "skipped", "substituted")} == {
        "promised": 24,
        "read": 19,
        "replaced": 1,
        "skipped": 4,
        "substituted": 3,
    }


@pytest.mark.parametrize("rules", ["full", "published"])
def test_the_same_shot_in_a_later_pass_is_a_substitute_too(make_index: MakeIndex, damage: Damage, rules: Rules) -> None:
    index = make_index([20], shards=1)
    damage(index, range(12))
    skipped = 0
    for seed in range(12):
        order = EpochOrder((Pool(np.arange(1, dtype=np.int32), 6),), seed)
        stream = WindowStream(index, Plan(order, 2), WindowSettings(3, "adjacent", 1.0, 20, 16, True, 1.0, rules))
        batches = list(stream)
        receipt = stream.receipt.as_dict()
        windows = sum(int(batch.substituted_W.sum()) for batch in batches)
        assert (windows > 0) == (receipt["shots_skipped"] > 0) == (receipt["frames_skipped"] > 0)
        parts = receipt["frames_read"] + receipt["frames_replaced"] + receipt["frames_skipped"]
        assert receipt["frames_promised"] == parts
        if rules == "full":
            assert receipt["frames_skipped"] == 3 * windows
        substituted = sum(int(batch.mask_WN[batch.substituted_W].sum()) for batch in batches)
        assert receipt["frames_substituted"] == substituted
        skipped += windows
    assert skipped > 5


def test_every_epoch_has_a_receipt_of_its_own(make_index: MakeIndex) -> None:
    stream = stream_of(make_index(LENGTHS))
    for epoch in range(2):
        list(stream)
        assert (stream.receipt.epoch, stream.receipt.windows) == (epoch, 4)


@pytest.mark.parametrize("rules", ["full", "published"])
def test_receipts_of_ranks_and_processes_add_up(make_index: MakeIndex, rules: Rules) -> None:
    index = make_index([9, 2, 7, 4, 5, 6, 1, 8])
    whole = stream_of(index, rules)
    list(whole)
    first = [stream_of(index, rules, Place(rank, 2)) for rank in range(2)]
    for stream in first:
        list(islice(stream, 2))
    state = first[0].state_dict()
    receipt = EpochReceipt.merged([stream.receipt for stream in first]).as_dict()
    state = json.loads(json.dumps({**state, "receipt": receipt}))
    then = stream_of(index, rules)
    then.load_state_dict(state)
    list(then)
    assert then.receipt.as_dict() == whole.receipt.as_dict()
    assert EpochReceipt.from_dict(receipt).as_dict() == receipt
    with pytest.raises(ValueError, match="epochs 0 and 1"):
        EpochReceipt.merged([EpochReceipt(0), EpochReceipt(1)])


def test_frames_that_nobody_accounts_for_stop_the_run(make_index: MakeIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = stream_of(make_index(LENGTHS))
    build = stream._builder

    def forgetful(task: object) -> object:
        batch = type(build).__call__(build, task)  # type: ignore[arg-type]
        batch.mask_WN = torch.zeros_like(batch.mask_WN)
        return batch

    monkeypatch.setattr(stream._loader._pipeline.pipeline[1].args[0], "build", forgetful)
    with pytest.raises(RunError, match=r"other frames than its plan promised(.|\n)*0 frames read and 0 replaced"):
        list(stream)


def test_another_shot_than_the_planned_one_stops_the_run(
    make_index: MakeIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = stream_of(make_index([3, 3, 3, 3]))
    build = stream._builder

    def mistaken(task: object) -> object:
        batch = type(build).__call__(build, task)  # type: ignore[arg-type]
        batch.shot_ids_W = batch.shot_ids_W.flip(0)
        return batch

    monkeypatch.setattr(stream._loader._pipeline.pipeline[1].args[0], "build", mistaken)
    with pytest.raises(RunError, match="other frames than its plan promised"):
        list(stream)
