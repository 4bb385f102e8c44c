"""Encoders, decoder, classifier and localizer, and where their first weights come from."""

from __future__ import annotations

from colocam_dist.models.decoder import UNetDecoder
from colocam_dist.models.encoders import Encoder, build_encoder
from colocam_dist.models.localizer import WGAP, Classifier, ClassifierOutput, Localizer, LocalizerOutput
from colocam_dist.models.token_head import TokenHead
from colocam_dist.models.weights import load_encoder_weights

__all__ = [
    "WGAP",
    "Classifier",
    "ClassifierOutput",
    "Encoder",
    "Localizer",
    "LocalizerOutput",
    "TokenHead",
    "UNetDecoder",
    "build_encoder",
    "load_encoder_weights",
]
