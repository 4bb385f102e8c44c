"""The four loss terms of CoLo-CAM and their sum (paper section 3)."""

from __future__ import annotations

from colocam_dist.losses.colocalization import Colocalization, ColocalizationSettings
from colocam_dist.losses.counts import Counts
from colocam_dist.losses.frame_crf import FrameCrf, FrameCrfSettings
from colocam_dist.losses.partial_cross_entropy import PartialCrossEntropy, PartialCrossEntropySettings
from colocam_dist.losses.presence import PresenceSettings, frame_weights, tag_probability
from colocam_dist.losses.size_barrier import SizeBarrier, SizeBarrierSettings, extended_log_barrier
from colocam_dist.losses.term import TermSettings
from colocam_dist.losses.total import LocalizationLoss, LossSettings
from colocam_dist.losses.window_group import WindowGroup

__all__ = [
    "Colocalization",
    "ColocalizationSettings",
    "Counts",
    "FrameCrf",
    "FrameCrfSettings",
    "LocalizationLoss",
    "LossSettings",
    "PartialCrossEntropy",
    "PartialCrossEntropySettings",
    "PresenceSettings",
    "SizeBarrier",
    "SizeBarrierSettings",
    "TermSettings",
    "WindowGroup",
    "extended_log_barrier",
    "frame_weights",
    "tag_probability",
]
