from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import islice

import pytest
import torch

from colocam_dist.data.build import WindowSettings
from colocam_dist.data.index import ShotIndex
from colocam_dist.data.order import uniform
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
