from __future__ import annotations

from collections.abc import Callable, Sequence

from colocam_dist.data.build import WindowSettings
from colocam_dist.data.index import ShotIndex
from colocam_dist.data.plan import Plan
from colocam_dist.data.stream import WindowStream


def test_receipt_adds_up(
    make_index: Callable[..., ShotIndex], damage: Callable[[ShotIndex, Sequence[int]], None]
) -> None:
    index = make_index([3, 4, 2, 5], shards=2)
    damage(index, [4, *range(7, 9)])  # one frame of the second shot, the whole third shot
    stream = WindowStream(index, Plan(4, 2, 0), WindowSettings(5, "interval", 1.0, 20, 16, True))
    order = Plan(4, 2, 0).order(0).tolist()
    after = order[(order.index(2) + 1) % 4]
    batches = list(stream)
    shots = [after if shot == 2 else shot for shot in order]
    lengths = {0: 3, 1: 4, 3: 5}
    read = sum(lengths[shot] - (shot == 1) for shot in shots)
    receipt = stream.receipt
    assert receipt["frames_promised"] == sum(lengths[shot] for shot in shots)
    assert receipt["frames_read"] == read == sum(int(batch.mask_WN.sum()) for batch in batches)
    assert receipt["frames_replaced"] == sum(shot == 1 for shot in shots)
    assert receipt["shots_skipped"] == 1
    # With two shots to a shard, the first shard holds shots 0 and 1.
    first = sum(lengths[shot] - (shot == 1) for shot in shots if shot < 2)
    assert receipt["shards"] == {"train-000000.tar": first, "train-000001.tar": read - first}
