"""What the stages read: the checked splits, and room settings made from the run's settings."""

from __future__ import annotations

from dataclasses import dataclass

from colocam_dist.config import Config
from colocam_dist.data.index import ShotIndex, check_same_classes
from colocam_dist.data.stream import WindowSettings
from colocam_dist.losses import (
    ColocalizationSettings,
    FrameCrfSettings,
    LossSettings,
    PartialCrossEntropySettings,
    SizeBarrierSettings,
)

__all__ = ["Splits", "loss_settings", "window_settings"]


@dataclass(frozen=True)
class Splits:
    """The opened training and validation splits of one data set."""

    train: ShotIndex
    validation: ShotIndex

    @classmethod
    def open(cls, config: Config) -> Splits:
        """Open both and check that they fit together.

        Raises:
            DataError: missing or truncated shards; a validation class without training shots.
        """
        data = config.data
        train = ShotIndex.open(data.shards, data.train_split, missing=data.missing)
        validation = ShotIndex.open(data.shards, data.validation_split, missing=data.missing)
        check_same_classes(train, validation)
        return cls(train, validation)


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
    )


def loss_settings(config: Config) -> LossSettings:
    """The four terms of Eq. 5 as configured."""
    loss = config.localizer.loss
    return LossSettings(
        partial_cross_entropy=PartialCrossEntropySettings(**loss.partial_cross_entropy.model_dump()),
        size_barrier=SizeBarrierSettings(**loss.size_barrier.model_dump()),
        frame_crf=FrameCrfSettings(**loss.frame_crf.model_dump()),
        colocalization=ColocalizationSettings(**loss.colocalization.model_dump()),
    )
