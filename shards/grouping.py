"""Which unit goes into which shard: decided from the inputs alone, before anything is written."""

from __future__ import annotations

from collections.abc import Iterable

from shards.sources.base import Unit, natural_key

__all__ = ["group_units"]


def group_units(units: Iterable[Unit], shard_bytes: int) -> list[tuple[Unit, ...]]:
    """Sort units by class, video and shot and fill shards one after the other.

    A shard is closed before the unit that would take its estimated size above the limit, so a unit that is larger than
    the limit has a shard of its own.

    Args:
        units: units of one split.
        shard_bytes: limit of the estimated size of a shard, in bytes.
    """
    ordered = sorted(units, key=lambda unit: (unit.cls, natural_key(unit.video), natural_key(unit.shot)))
    groups: list[list[Unit]] = []
    room = 0
    for unit in ordered:
        if not groups or unit.estimated_bytes > room:
            groups.append([])
            room = shard_bytes
        groups[-1].append(unit)
        room -= unit.estimated_bytes
    return [tuple(group) for group in groups]
