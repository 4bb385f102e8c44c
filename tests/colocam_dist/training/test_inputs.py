"""The schema's defaults and those of the rooms are the same, so a room used alone behaves like a run."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from colocam_dist.cams import SmoothGradCamPP
from colocam_dist.config import load
from colocam_dist.config.loss import Colocalization, FrameCrf, PartialCrossEntropy, SizeBarrier
from colocam_dist.config.stages import Presence, Seeds, SmoothGradCam
from colocam_dist.losses import (
    ColocalizationSettings,
    FrameCrfSettings,
    LossSettings,
    PartialCrossEntropySettings,
    PresenceSettings,
    SizeBarrierSettings,
)
from colocam_dist.seeds import SeedSettings
from colocam_dist.training.inputs import loss_settings, presence_settings, seed_settings, window_settings


@pytest.mark.parametrize(
    ("section", "room"),
    [
        (Seeds(), SeedSettings()),
        (SmoothGradCam(), SmoothGradCamPP()),
        (PartialCrossEntropy(), PartialCrossEntropySettings()),
        (SizeBarrier(), SizeBarrierSettings()),
        (FrameCrf(), FrameCrfSettings()),
        (Colocalization(), ColocalizationSettings()),
        (Presence(), PresenceSettings()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_defaults_stand_in_two_places_and_agree(section: BaseModel, room: Any) -> None:
    elsewhere = {"temporal_frames", "refresh_epoch", "refresh_share"}  # where the maps come from
    assert section.model_dump(exclude=elsewhere) == vars(room)


def test_settings_of_a_run_reach_the_rooms() -> None:
    config = load(
        None,
        ["data.shards=x", "localizer.loss.colocalization.weight=3", "data.n_frames=6", "localizer.presence.mode=drop"],
    )
    assert presence_settings(config) == PresenceSettings("drop")
    assert loss_settings(config) == LossSettings(colocalization=ColocalizationSettings(weight=3))
    windows = window_settings(config, n_frames=config.data.n_frames)
    assert (windows.n_frames, windows.temporal_frames) == (6, 1)


def test_settings_of_seeds_reach_two_rooms() -> None:
    config = load(None, ["data.shards=x", "localizer.seeds={n_fg: 7, temporal_frames: 3, refresh_epoch: 2}"])
    assert seed_settings(config) == SeedSettings(n_fg=7)
    assert window_settings(config, n_frames=1).temporal_frames == 3
