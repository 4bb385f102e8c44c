"""The archive holds the maps of the configured method, under a name that depends on it and its settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from colocam_dist.cams import CAM_METHODS, CamArchive, CamIdentity, build_cam_method
from colocam_dist.config import Config, load
from colocam_dist.data.frames import FrameReader, eval_frame
from colocam_dist.data.index import ShotIndex
from colocam_dist.data.opening import Splits
from colocam_dist.distributed import Workers
from colocam_dist.inference.load import build_classifier
from colocam_dist.inference.score import Scorer
from colocam_dist.models.localizer import Classifier
from colocam_dist.runs.weights import weights_sha256
from colocam_dist.training.cam_stage import ensure_archive
from colocam_dist.training.classifier import ClassifierStage

ALONE = Workers(0, 0, 1, torch.device("cpu"))


def settings(shards: Path, folder: Path, *more: str) -> Config:
    small = ["data.crop=40", "data.resize=48", "data.workers=0", "model.encoder=resnet18", "model.weights=none"]
    small += ["model.output_stride=8", "cams.batch=7", f"cams.folder={folder}", "classifier.global_batch=3"]
    return load(None, [f"data.shards={shards}", *small, *more])


def network(config: Config) -> Classifier:
    return build_classifier(config, 3).eval()


@pytest.mark.parametrize("method", CAM_METHODS)
def test_the_archive_has_the_maps_of_the_method(method: str, tiny_shards: Path, tmp_path: Path) -> None:
    config = settings(tiny_shards, tmp_path, f"cams.method={method}")
    index, classifier = ShotIndex.open(tiny_shards, "train"), network(config)
    archive = ensure_archive(classifier, index, config, ALONE)
    cams = np.load(archive.path)
    assert cams.shape == (index.n_frames, 5, 5)
    reader = FrameReader(index)
    for frame in (0, index.n_frames // 2, index.n_frames - 1):
        image_CHW = eval_frame(reader.read(frame, short_side=40), 40)
        label = index.shots[int(index.frame_shot[frame])].label
        alone = build_cam_method(method)(classifier, torch.from_numpy(image_CHW)[None], torch.tensor([label]))
        np.testing.assert_allclose(cams[frame], alone.maps_Bhw[0].numpy(), rtol=0, atol=2e-3)
    reader.close()


def test_layercam_keeps_the_archives_that_it_has(tiny_shards: Path, tmp_path: Path) -> None:
    config = settings(tiny_shards, tmp_path)
    index, classifier = ShotIndex.open(tiny_shards, "train"), network(config)
    archive = ensure_archive(classifier, index, config, ALONE)
    assert archive.identity == CamIdentity("layercam", weights_sha256(classifier), 40, index.fingerprint)


def test_methods_and_settings_have_archives_of_their_own(tiny_shards: Path, tmp_path: Path) -> None:
    index = ShotIndex.open(tiny_shards, "train")
    found: set[Path] = set()
    for more in (
        ["cams.method=gradcam"],
        ["cams.method=gradcam", "cams.smooth.samples=1"],  # which it does not have
        ["cams.method=smoothgradcam++", "cams.smooth.samples=1"],
        ["cams.method=smoothgradcam++", "cams.smooth.samples=1", "cams.smooth.noise=0.1"],
    ):
        config = settings(tiny_shards, tmp_path, *more)
        archive = ensure_archive(network(config), index, config, ALONE)
        found.add(archive.folder)
        assert CamArchive.open(archive.folder, CamArchive.key(archive.identity)) == archive
    assert len(found) == 3
    assert {path for path in tmp_path.iterdir() if not path.name.startswith(".")} == found


@pytest.mark.parametrize("method", ["layercam", "cam"])
def test_the_configured_method_selects_the_weights_of_stage_1(
    method: str, tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(tiny_shards, tmp_path, f"cams.method={method}", "evaluation.validation_thresholds=20")
    classifier = network(config)
    stage = ClassifierStage(classifier, config, Splits.open(config.data), ALONE)
    used: list[str] = []
    score = Scorer.cam

    def watch(self: Scorer, model: Classifier, cam: object) -> object:
        used.append(cam.identity)
        return score(self, model, cam)

    monkeypatch.setattr(Scorer, "cam", watch)
    assert stage.validate(classifier).keys() == {"corloc", "classification", "threshold"}
    assert used == [method]
    stage.stream.close()
