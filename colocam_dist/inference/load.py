"""Models of a finished run, ready for inference."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from colocam_dist.cams import CamMethod, SmoothGradCamPP, build_cam_method
from colocam_dist.config import Config
from colocam_dist.models.encoders import build_encoder
from colocam_dist.models.localizer import Classifier, Localizer
from colocam_dist.models.weights import load_encoder_weights
from colocam_dist.runs.folder import RunFolder
from colocam_dist.runs.weights import load_weights

__all__ = ["Models", "build_classifier", "build_localizer", "cam_method", "load_classifier", "load_localizer"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Models:
    """The networks of a run that make maps: stage 1's classifier, and stage 2's localizer (None before it ran)."""

    classifier: Classifier
    localizer: Localizer | None


def build_classifier(config: Config, classes: int, *, pretrained: bool = True) -> Classifier:
    """A new classifier; with `pretrained`, its encoder starts from ``model.weights``."""
    torch.manual_seed(config.run.seed)
    encoder = build_encoder(config.model.encoder, output_stride=config.model.output_stride)
    if pretrained:
        log.info("%s", load_encoder_weights(encoder, config.model.weights, sha256=config.model.weights_sha256))
    return Classifier(encoder, classes)


def build_localizer(config: Config, classifier: Classifier) -> Localizer:
    """A new decoder over `classifier`, which it freezes."""
    torch.manual_seed(config.run.seed + 1)
    return Localizer(classifier, config.model.decoder_channels, config.model.map_stride)


def cam_method(config: Config, name: str) -> CamMethod:
    """A CAM method of a classifier, with its settings."""
    return build_cam_method(name, SmoothGradCamPP(**config.cams.smooth.model_dump()))


def load_classifier(config: Config, folder: RunFolder, classes: int, criterion: str) -> Classifier:
    """Stage 1's classifier of a run (or of ``classifier.from_run``), in eval mode on the CPU."""
    source = folder if config.classifier.from_run is None else RunFolder.open(Path(config.classifier.from_run))
    model = build_classifier(config, classes, pretrained=False)
    load_weights(source.weights("classifier", criterion), model)
    return model.eval()


def load_localizer(config: Config, folder: RunFolder, classes: int) -> Localizer:
    """Stage 2's best localizer of a run, in eval mode on the CPU."""
    model = build_localizer(config, build_classifier(config, classes, pretrained=False))
    load_weights(folder.weights("localizer", "best-localization"), model)
    return model.eval()
