"""The CLIP-ES baseline as a user calls it: nine rows on a tiny split, a file of figures, clear refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from colocam_dist.config import load
from colocam_dist.inference.load import build_classifier
from colocam_dist.runs.folder import RunFolder
from colocam_dist.runs.weights import save_weights

pytestmark = pytest.mark.patient

ROOT = Path(__file__).parents[2]
CLASSES = ["train", "bird", "cat"]


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/clip_es.py", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def make_run(folder: Path, shards: Path) -> Path:
    """A run whose classifier has not learned anything."""
    settings = ["model.encoder=resnet18", "model.weights=none", "data.crop=48", "data.resize=56", "data.workers=0"]
    settings += ["evaluation.thresholds=20", "evaluation.bootstrap=20", "engine.device=cpu", f"run.folder={folder}"]
    config = load(None, [f"data.shards={shards}", "data.caveats=['Drawn by hand.']", *settings])
    run = RunFolder.create(config)
    run.write_json("classes.json", CLASSES)
    save_weights(run.weights("classifier", "best-classification"), build_classifier(config, 3, pretrained=False), {})
    return run.path


@pytest.mark.slow
def test_nine_rows_of_a_tiny_split(tiny_clip: Path, tiny_shards: Path, tmp_path: Path) -> None:
    run, output, words = make_run(tmp_path, tiny_shards), tmp_path / "out/results.json", tmp_path / "words.yaml"
    words.write_text("train: locomotive\n")
    options = ["--run", run, "--size", 80, "--output", output, "--words", words]
    done = call("--clip", tiny_clip, "--shards", tiny_shards, *options, "evaluation.batch=8")
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line for line in done.stdout.splitlines() if line.startswith(("GT", "PR ", "AVG"))]
    assert len(rows) == 9
    assert "prompts: locomotive, bird avian, cat" in done.stdout
    assert "Drawn by hand." in done.stdout
    assert "Not comparable with the published figures" in done.stdout
    facts = json.loads(output.read_text())
    assert len(facts["rows"]) == 9
    assert facts["classes"] == {"train": "locomotive", "bird": "bird avian", "cat": "cat"}
    assert facts["rows"][8]["labels"] == "AVG"
    assert len(facts["rows"][8]["results"]) == 3


@pytest.mark.slow
def test_refusals_are_messages(tiny_shards: Path, tmp_path: Path, tiny_clip: Path) -> None:
    done = call("--clip", tmp_path / "absent", "--shards", tiny_shards, "engine.device=cpu")
    assert done.returncode == 2
    assert "there is no such folder" in done.stderr
    assert "Traceback" not in done.stderr
    done = call("--clip", tiny_clip, "--shards", tiny_shards, "--size", 44, "engine.device=cpu")
    assert done.returncode == 2
    assert "multiples of 8" in done.stderr
    assert "Traceback" not in done.stderr
