"""A run without training: settings, classes, and an untrained classifier and localizer as its best weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from colocam_dist.config import load
from colocam_dist.data.opening import Splits
from colocam_dist.inference.load import build_classifier, build_localizer
from colocam_dist.runs.folder import RunFolder
from colocam_dist.runs.weights import save_weights

SETTINGS = [
    *("data.resize=48", "data.crop=40", "data.workers=0", "model.encoder=resnet18", "model.weights=none"),
    *("model.output_stride=16", "model.decoder_channels=[8,8,8,8,8]", "engine.device=cpu"),
    *("evaluation.thresholds=20", "evaluation.bootstrap=10", "run.name=made"),
]


@pytest.fixture
def made_run(tiny_shards: Path, tmp_path: Path) -> RunFolder:
    """A run of both stages on the tiny shards."""
    config = load(None, [f"data.shards={tiny_shards}", f"run.folder={tmp_path}", *SETTINGS])
    folder = RunFolder.create(config)
    classes = Splits.open(config.data).train.classes
    folder.write_json("classes.json", classes)
    classifier = build_classifier(config, len(classes))
    torch.manual_seed(5)
    classifier.head.weight.data.normal_()
    save_weights(folder.weights("classifier", "best-localization"), classifier, {})
    save_weights(folder.weights("localizer", "best-localization"), build_localizer(config, classifier), {})
    return folder
