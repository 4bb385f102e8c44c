"""A run whose seeds come from another CAM than LayerCAM, and its evaluation by several, as a user does it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from colocam_dist.config import load

pytestmark = pytest.mark.patient

ROOT = Path(__file__).parents[2]
SMALL = [
    *("data.resize=48", "data.crop=40", "data.n_frames=2", "data.workers=0", "data.central_fraction=1.0"),
    *("model.encoder=resnet18", "model.weights=none", "model.output_stride=16"),
    *("model.decoder_channels=[8,8,8,8,8]", "engine.device=cpu", "log.tensorboard=false"),
    *("classifier.epochs=1", "classifier.global_batch=7", "localizer.epochs=1", "localizer.global_batch=14"),
    *("localizer.seeds.n_fg=20", "localizer.seeds.n_bg=20", "localizer.loss.frame_crf.weight=1e-6"),
    *("evaluation.thresholds=50", "evaluation.validation_thresholds=50", "evaluation.bootstrap=50"),
]


def launch(*arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_seeds_from_one_cam_and_figures_of_many(tiny_shards: Path, tmp_path: Path) -> None:
    shards, run = tmp_path / "shards", tmp_path / "run"
    shutil.copytree(tiny_shards, shards)
    place = [f"data.shards={shards}", f"run.folder={tmp_path}", "run.name=run"]
    smooth = ["cams.method=smoothgradcam++", "cams.smooth.samples=2", "cams.smooth.noise=0.1"]
    launch("launchers/train.py", *place, *smooth, *SMALL)
    (archive,) = (shards / "cams").glob("train-*/archive.json")
    made_by = json.loads(archive.read_text())["identity"]["method"]
    assert made_by == "smoothgradcam++(samples=2, noise=0.1, activations=noisy)"
    assert load(run / "config.yaml").cams.smooth.samples == 2
    assert set(json.loads((run / "metrics.json").read_text())["methods"]) == {"layercam", "localizer"}

    every = ["cam", "gradcam", "gradcam++", "smoothgradcam++", "xgradcam", "layercam"]
    launch("launchers/evaluate.py", "--run", str(run), f"evaluation.cams=[{','.join(every)}]")
    methods = json.loads((run / "metrics.json").read_text())["methods"]
    assert set(methods) == {*every, "localizer"}
    assert all(0 < figures["seconds_per_frame"] < 10 for figures in methods.values())
    known = json.loads((run / "validation.json").read_text())
    assert known["smoothgradcam++"]["method"] == made_by
    assert {name: known[name]["threshold"] for name in methods} == {
        name: figures["thresholds"]["validation"] for name, figures in methods.items()
    }
