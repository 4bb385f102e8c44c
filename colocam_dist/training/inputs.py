"""What the stages read: windows, and room settings made from the run's settings."""

from __future__ import annotations

from pathlib import Path

from colocam_dist.config import Config
from colocam_dist.data.index import ShotIndex
from colocam_dist.data.mixture import epoch_order
from colocam_dist.data.opening import order_settings
from colocam_dist.data.plan import Place, Plan
from colocam_dist.data.stream import WindowSettings, WindowStream
from colocam_dist.distributed import Workers
from colocam_dist.losses import (
    ColocalizationSettings,
    FrameCrfSettings,
    LossSettings,
    PartialCrossEntropySettings,
    PresenceSettings,
    SizeBarrierSettings,
)
from colocam_dist.seeds import SeedSettings

__all__ = ["loss_settings", "presence_settings", "seed_settings", "training_stream", "window_settings"]


def training_stream(
    train: ShotIndex,
    config: Config,
    workers: Workers,
    *,
    n_frames: int,
    global_batch: int,
    cams: Path | None = None,
    parts: int = 1,
) -> WindowStream:
    """The windows of `n_frames` frames that this rank trains on, `global_batch` of them in a step of all ranks.

    `parts` ranks in a row have the same windows, and each of them another part of the frames.
    """
    data = config.data
    group, part = divmod(workers.rank, parts)
    order = epoch_order(train, order_settings(data), seed=config.run.seed, global_batch=global_batch)
    return WindowStream(
        train,
        Plan(order, global_batch, data.last),
        window_settings(config, n_frames=n_frames),
        place=Place(group, workers.world // parts, config.engine.accumulation, part, parts),
        workers=data.workers,
        cams=cams,
        ahead=data.remote.ahead,
    )


def window_settings(config: Config, *, n_frames: int) -> WindowSettings:
    """Window and augmentation settings of a stage that trains on windows of `n_frames`."""
    data = config.data
    return WindowSettings(
        n_frames=n_frames,
        sampling=data.sampling,
        central_fraction=data.central_fraction,
        resize=data.resize,
        crop=data.crop,
        flip=data.flip,
        max_bad=data.max_bad,
        rules=data.window_rules,
        temporal_frames=config.localizer.seeds.temporal_frames,
    )


def seed_settings(config: Config) -> SeedSettings:
    """How seeds are drawn from the map of a frame."""
    elsewhere = {"temporal_frames", "refresh_epoch", "refresh_share"}  # they say which maps these are
    return SeedSettings(**config.localizer.seeds.model_dump(exclude=elsewhere))


def presence_settings(config: Config) -> PresenceSettings:
    """What the classifier's probability of the tag does to a frame's weight."""
    return PresenceSettings(**config.localizer.presence.model_dump())


def loss_settings(config: Config) -> LossSettings:
    """The four terms of Eq. 5 as configured."""
    loss = config.localizer.loss
    return LossSettings(
        partial_cross_entropy=PartialCrossEntropySettings(**loss.partial_cross_entropy.model_dump()),
        size_barrier=SizeBarrierSettings(**loss.size_barrier.model_dump()),
        frame_crf=FrameCrfSettings(**loss.frame_crf.model_dump()),
        colocalization=ColocalizationSettings(**loss.colocalization.model_dump()),
    )
