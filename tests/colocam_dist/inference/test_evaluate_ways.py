"""A run with random weights is evaluated: every method with its ways, in metrics and report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from colocam_dist.config import Config, load
from colocam_dist.data.index import ShotIndex
from colocam_dist.distributed import Workers
from colocam_dist.inference.evaluate import evaluate_run
from colocam_dist.inference.load import build_classifier, build_localizer
from colocam_dist.runs.folder import RunFolder
from colocam_dist.runs.weights import save_weights

ROOT = Path(__file__).parents[3]


@pytest.fixture
def run(tiny_shards: Path, tmp_path: Path) -> tuple[RunFolder, Config]:
    """A run with the networks that a training would begin with."""
    config = load(
        None,
        [
            *(f"data.shards={tiny_shards}", f"run.folder={tmp_path}", "run.name=random"),
            *("data.resize=40", "data.crop=33", "data.workers=0", "model.encoder=resnet18", "model.weights=none"),
            *("model.decoder_channels=[8,8,8,8,8]", "evaluation={thresholds: 20, bootstrap: 10, batch: 7}"),
        ],
    )
    folder = RunFolder.create(config)
    classes = ShotIndex.open(tiny_shards, "train").classes
    folder.write_json("classes.json", classes)
    classifier = build_classifier(config, len(classes), pretrained=False)
    save_weights(folder.weights("classifier", "best-localization"), classifier, {"epoch": 0})
    save_weights(folder.weights("localizer", "best-localization"), build_localizer(config, classifier), {"epoch": 0})
    return folder, config


def test_one_command_compares_every_method_with_its_ways(run: tuple[RunFolder, Config]) -> None:
    folder, config = run
    workers = Workers(0, 0, 1, torch.device("cpu"))
    plain = evaluate_run(config, folder, workers)
    assert plain == folder.path
    before = json.loads((plain / "metrics.json").read_text())
    assert list(before["methods"]) == ["layercam", "localizer"]
    assert before["consistency"]["max_gap"] == 1, "the frames of this split are neighbors"
    assert "Steadiness of boxes" in (plain / "report.html").read_text()
    with_ways = load(folder.config_path, ["evaluation.smoothing=maps", "evaluation.boxes=all", "data.split=val"])
    target = evaluate_run(with_ways, folder, workers)
    assert target.parent == folder.path / "evaluations"
    metrics = json.loads((target / "metrics.json").read_text())
    names = [f"{method}{way}" for method in ("layercam", "localizer") for way in ("", "+all", "+maps")]
    assert sorted(metrics["methods"]) == names
    assert metrics["method"] == "localizer"
    assert metrics["corloc"] == metrics["methods"]["localizer"]["corloc"]
    page = (target / "report.html").read_text()
    for shown in ("Smoothing over time", "Steadiness of boxes", "Several boxes per frame", "localizer+maps"):
        assert shown in page
    stored = json.loads((folder.path / "validation.json").read_text())
    assert list(stored) == ["layercam", "layercam+maps", "localizer", "localizer+maps"]
    again = evaluate_run(config, folder, workers)
    after = json.loads((again / "metrics.json").read_text())
    for figures in (before, after, *before["methods"].values(), *after["methods"].values()):
        figures.pop("seconds_per_frame")
    assert after == before, "what was asked for in between leaves no trace"


@pytest.mark.slow
def test_the_benchmark_chooses_on_one_half_and_scores_the_other(run: tuple[RunFolder, Config]) -> None:
    folder, config = run
    evaluate_run(config, folder, Workers(0, 0, 1, torch.device("cpu")))
    command = [sys.executable, "benchmarks/smoothing.py", "--run", str(folder.path), "--grid", "small"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert sum(row.startswith("| frame by frame") for row in rows) == 4, "two methods, two halves"
    assert sum("(default)" in row for row in rows) == 8
