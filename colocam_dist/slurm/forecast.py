"""What a run will be on a cluster, said before it is queued: ranks, batches, data, and time if there is a measure."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from colocam_dist.config import Config
from colocam_dist.data.mixture import epoch_order
from colocam_dist.data.opening import Splits, order_settings
from colocam_dist.data.plan import Plan
from colocam_dist.errors import RunError
from colocam_dist.runs.folder import RunFolder
from colocam_dist.slurm.batch import cpus_per_task
from colocam_dist.training.batches import ranks_per_window, stage_batch, trained_stages

__all__ = ["forecast", "frames_per_second"]


def forecast(config: Config, like: Path | None = None) -> list[str]:
    """Lines about a run.

    Args:
        config: with its ``slurm``.
        like: an earlier run whose speed is taken: the same network, sizes and kind of device.
    """
    settings, data = config.slurm, config.data
    train = Splits.open(data).train
    kind = f"{settings.gpus_per_node} GPUs" if settings.gpus_per_node else "no GPUs"
    lines = [
        f"nodes      {settings.nodes} x ({settings.ranks_per_node} ranks, {kind}, "
        f"{cpus_per_task(config)} CPUs for each rank), {settings.minutes} min at a time",
        f"data       {len(train.shots)} shots of {train.n_frames} frames in {data.train_split}, "
        f"{int(train.frame_size.sum()) / 1e6:.1f} MB",
    ]
    rates = {} if like is None else frames_per_second(like)
    frame = float(train.frame_size.mean())
    total = 0.0
    for stage in trained_stages(config):
        windows, micro = stage_batch(config, stage, settings.ranks)
        frames = 1 if stage == "classifier" else data.n_frames
        epochs = getattr(config, stage).epochs
        order = epoch_order(train, order_settings(data), seed=config.run.seed, global_batch=windows)
        steps = Plan(order, windows, data.last).steps_per_epoch
        computed = steps * windows * frames / settings.ranks
        read = computed * ranks_per_window(config, stage)
        lines.append(
            f"{stage:<10} {epochs} epochs of {steps} steps; {windows} windows of {frames} frames a step, {micro} on "
            f"each rank at a time; about {read * frame / 1e6:.1f} MB read by each rank in an epoch"
        )
        if stage in rates:
            seconds = epochs * computed / rates[stage]
            total += seconds
            lines.append(f"{'':<10} about {_duration(seconds)} at {rates[stage]:.0f} frames/s on each rank, as {like}")
    if like is None:
        lines.append("time       not foretold; --like RUN takes the speed of an earlier run")
    elif total:
        lines.append(
            f"time       about {_duration(total)} of training, without CAMs, validation and evaluation: "
            f"{max(1, -(-int(total) // (settings.minutes * 60)))} x {settings.minutes} min"
        )
    return lines


def frames_per_second(run: Path) -> dict[str, float]:
    """Frames per second of each rank in each stage of an earlier run: the median of what it reported.

    Raises:
        RunError: there is no such run, or it reported nothing.
    """
    folder = RunFolder.open(run)
    world = (folder.read_json("done.json") or {}).get("world")
    metrics = folder.file("metrics.jsonl")
    if world is None or not metrics.is_file():
        raise RunError("the run tells no speed", where=run, wanted="a run that is done", fix="give another to --like")
    found: dict[str, list[float]] = {}
    for line in metrics.read_text().splitlines():
        row = json.loads(line)
        if row["kind"] == "train":
            found.setdefault(row["stage"], []).append(row["frames_per_s"] / world)
    return {stage: statistics.median(rates) for stage, rates in found.items()}


def _duration(seconds: float) -> str:
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
