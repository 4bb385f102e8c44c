"""Runs of the launchers as a user starts them: real processes, real shards, gloo on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PYTHON = Path(sys.executable)
SMALL = [
    *("data.resize=48", "data.crop=40", "data.n_frames=2", "data.workers=0", "data.central_fraction=1.0"),
    *("model.encoder=resnet18", "model.weights=none", "model.output_stride=16"),
    *("model.decoder_channels=[16,16,8,8,8]", "engine.device=cpu"),
    *("classifier.epochs=2", "classifier.global_batch=4", "classifier.optimizer.lr=0.01"),
    *("localizer.epochs=2", "localizer.global_batch=8", "localizer.seeds.n_fg=20", "localizer.seeds.n_bg=20"),
    *("localizer.loss.frame_crf.weight=1e-6", "localizer.loss.colocalization.weight=0.5"),
    *("evaluation.thresholds=50", "evaluation.validation_thresholds=50", "evaluation.bootstrap=50"),
    *("log.every_steps=1", "log.tensorboard=false"),
]


def command(*arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finished(process: subprocess.Popen[str], seconds: float = 240) -> tuple[int, str]:
    try:
        output, _ = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return process.returncode, output


def train(shards: Path, runs: Path, name: str, *more: str, ranks: int = 1) -> subprocess.Popen[str]:
    script = ["launchers/train.py", f"data.shards={shards}", f"run.folder={runs}", f"run.name={name}", *SMALL, *more]
    if ranks == 1:
        return command(str(PYTHON), *script)
    port = str(20000 + os.getpid() % 20000)
    launcher = str(PYTHON.parent / "deepspeed")
    return command(launcher, "--num_gpus", str(ranks), "--master_port", port, *script)


def rows(run: Path, stage: str) -> dict[int, dict[str, Any]]:
    """Training rows by step; of a repeated step the last one counts."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row for row in lines if row["stage"] == stage and row["kind"] == "train"}
