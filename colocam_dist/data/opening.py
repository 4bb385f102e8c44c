"""From the settings of a run to the splits that it reads."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from colocam_dist.config.data import Data
from colocam_dist.data.index import ShotIndex, check_same_classes
from colocam_dist.data.mixture import OrderSettings
from colocam_dist.data.retry import Retry
from colocam_dist.data.storage import RemoteFolder, RemoteSettings

__all__ = ["Splits", "caveats_of", "open_split", "open_training", "order_settings", "remote_settings"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Splits:
    """The opened training and validation splits of one data set."""

    train: ShotIndex
    validation: ShotIndex

    @classmethod
    def open(cls, data: Data) -> Splits:
        """Open both and check that they fit together.

        Raises:
            DataError: missing or truncated shards; a validation class without training shots.
        """
        train = open_training(data)
        validation = open_split(data, data.validation_split)
        check_same_classes(train, validation)
        return cls(train, validation)


def open_split(data: Data, split: str) -> ShotIndex:
    """A split of the main data set.

    Raises:
        ConfigError, DataError: see :meth:`ShotIndex.open`.
    """
    return ShotIndex.open(data.shards, split, missing=data.missing, remote=remote_settings(data))


def open_training(data: Data) -> ShotIndex:
    """The training split, joined with those of ``data.mix``.

    Raises:
        ConfigError, DataError: see :meth:`ShotIndex.open` and :meth:`ShotIndex.join`.
    """
    remote = remote_settings(data)
    others = [ShotIndex.open(part.shards, part.split, missing=data.missing, remote=remote) for part in data.mix]
    train = ShotIndex.join([open_split(data, data.train_split), *others])
    fetched = sum(shard.bytes for shard in train.shards if isinstance(shard.storage, RemoteFolder))
    if fetched > remote.cache_bytes and data.block_shards is None:
        _log.warning(
            "%.1f GB of remote shards do not fit the cache of %g GB, so that shards will be fetched again and again: "
            "set data.block_shards (python -m shards.plan says what it needs), or raise data.remote.cache_gb",
            fetched / 1e9,
            data.remote.cache_gb,
        )
    return train


def order_settings(data: Data) -> OrderSettings:
    """How the windows of an epoch are chosen and ordered."""
    return OrderSettings(
        min_frames=data.min_frames,
        drop_shots=data.drop_shots,
        drop_seed=data.drop_seed,
        balance=data.balance,
        weights=(data.weight, *(part.weight for part in data.mix)) if data.mix else None,
        windows=data.epoch_windows,
        block_shards=data.block_shards,
        lanes=data.lanes,
    )


def caveats_of(shards: Sequence[str], data: Data) -> list[str]:
    """What must be said with every figure: what the shards bring with them, then what the settings add."""
    return list(dict.fromkeys((*shards, *data.caveats)))


def remote_settings(data: Data) -> RemoteSettings:
    """How URLs are read."""
    remote = data.remote
    return RemoteSettings(
        schemes=remote.schemes,
        options=remote.options,
        cache=remote.cache_folder,
        cache_bytes=int(remote.cache_gb * 1e9),
        retry=Retry(tries=remote.tries, timeout=remote.timeout),
    )
