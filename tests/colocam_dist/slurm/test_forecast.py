"""What a run will be on a cluster: numbers that were worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from colocam_dist.config import Config, load
from colocam_dist.data.index import ShotIndex
from colocam_dist.errors import RunError
from colocam_dist.runs.folder import RunFolder
from colocam_dist.slurm.forecast import forecast, frames_per_second


def config(shards: Path, *overrides: str) -> Config:
    return load(None, [f"data.shards={shards}", "slurm.nodes=2", "slurm.tasks_per_node=2", *overrides])


def test_batches_steps_and_bytes(tiny_shards: Path) -> None:
    # 21 shots of 99 frames (see tiny_frames). A step of the classifier has 32 windows of 1 frame: 1 step, 8 on each of
    # 4 ranks; one of the localizer 32 // 4 = 8 windows of 4 frames: 3 steps, 24 frames on each rank.
    total = int(ShotIndex.open(tiny_shards, "train").frame_size.sum())
    assert forecast(config(tiny_shards)) == [
        "nodes      2 x (2 ranks, no GPUs, 3 CPUs for each rank), 60 min at a time",
        f"data       21 shots of 99 frames in train, {total / 1e6:.1f} MB",
        "classifier 100 epochs of 1 steps; 32 windows of 1 frames a step, 8 on each rank at a time; about "
        f"{8 * total / 99 / 1e6:.1f} MB read by each rank in an epoch",
        "localizer  10 epochs of 3 steps; 8 windows of 4 frames a step, 2 on each rank at a time; about "
        f"{24 * total / 99 / 1e6:.1f} MB read by each rank in an epoch",
        "time       not foretold; --like RUN takes the speed of an earlier run",
    ]


def test_settings_are_taken_into_account(tiny_shards: Path) -> None:
    settings = [
        *("slurm.gpus_per_node=2", "slurm.time=1-0", "data.workers=5", "engine.accumulation=2", "data.last=drop"),
        *("data.n_frames=2", "localizer.epochs=7", "data.epoch_windows=50", "run.stages=[localizer]"),
    ]
    lines = forecast(config(tiny_shards, *settings))
    assert lines[0] == "nodes      2 x (2 ranks, 2 GPUs, 6 CPUs for each rank), 1440 min at a time"
    assert len(lines) == 4
    # 16 windows a step over 4 ranks x 2 micro-batches; 50 windows are 3 whole steps.
    assert lines[2].startswith(
        "localizer  7 epochs of 3 steps; 16 windows of 2 frames a step, 2 on each rank at a time"
    )


def test_ranks_that_share_windows_read_them_all(tiny_shards: Path) -> None:
    def read(*settings: str) -> list[float]:
        lines = forecast(config(tiny_shards, *settings))
        return [float(line.split("about ")[1].split()[0]) for line in lines[2:4]]

    alone, shared = read(), read("engine.window_ranks=2")
    assert shared[0] == alone[0]
    assert shared[1] == pytest.approx(2 * alone[1], abs=0.1)


def test_a_run_without_training_has_no_stages(tiny_shards: Path, tmp_path: Path) -> None:
    stages = [line.split()[0] for line in forecast(config(tiny_shards, "run.stages=[cams,evaluate]"))]
    assert stages == ["nodes", "data", "time"]
    stages = [line.split()[0] for line in forecast(config(tiny_shards, f"classifier.from_run={tmp_path}"))]
    assert stages == ["nodes", "data", "localizer", "time"]


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A run of 4 ranks with rows of metrics."""
    folder = RunFolder.create(load(None, ["data.shards=here", f"run.folder={tmp_path}", "run.name=earlier"]))
    folder.write_json("done.json", {"world": 4})
    rates = [("classifier", "train", rate) for rate in (4, 800, 80000)] + [("localizer", "train", 40)]
    rows = [{"stage": stage, "kind": kind, "frames_per_s": rate} for stage, kind, rate in rates]
    rows.insert(1, {"stage": "classifier", "kind": "validation", "corloc": 1.0})
    folder.file("metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder.path


def test_the_speed_of_a_rank_is_the_median_of_what_a_run_reported(earlier: Path) -> None:
    assert frames_per_second(earlier) == {"classifier": 200.0, "localizer": 10.0}


@pytest.mark.parametrize("missing", ["done.json", "metrics.jsonl"])
def test_a_run_that_tells_no_speed_is_refused(missing: str, earlier: Path, tiny_shards: Path) -> None:
    (earlier / missing).unlink()
    with pytest.raises(RunError, match="the run tells no speed"):
        forecast(config(tiny_shards), earlier)


def test_what_is_no_run_is_refused(tiny_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        forecast(config(tiny_shards), tmp_path)


def test_time_is_foretold_by_an_earlier_run(earlier: Path, tiny_shards: Path) -> None:
    # 6000 epochs x 8 frames at 200 a second are 240 s, 3000 x 24 at 10 are 7200 s: 2.07 h, which needs 3 x 60 min.
    lines = forecast(config(tiny_shards, "classifier.epochs=6000", "localizer.epochs=3000"), earlier)
    assert [lines[3], *lines[5:]] == [
        f"           about 4 min at 200 frames/s on each rank, as {earlier}",
        f"           about 2.0 h at 10 frames/s on each rank, as {earlier}",
        "time       about 2.1 h of training, without CAMs, validation and evaluation: 3 x 60 min",
    ]


def test_a_short_run_fits_into_one_job(earlier: Path, tiny_shards: Path) -> None:
    short = config(tiny_shards, "run.stages=[localizer]", "localizer.epochs=25", "slurm.time=1", "slurm.warning=10")
    assert forecast(short, earlier)[-1].endswith(
        "about 1 min of training, without CAMs, validation and evaluation: 1 x 1 min"
    )
