"""What a run reports can be read back, by people and by machines."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from colocam_dist.training.metrics import MetricsLog, StepClock

ROOT = Path(__file__).parents[3]


def test_rows_are_json_lines_even_for_numbers_that_json_lacks(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, tensorboard=False) as log:
        log.write("localizer", "train", 1, 10, {"loss": 1 / 3, "lr": 1e-9, "bad": float("nan")})
        log.write("localizer", "validation", 1, 12, {"corloc": 50.0})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[0] == {
        "stage": "localizer",
        "kind": "train",
        "epoch": 1,
        "step": 10,
        "loss": 0.3333333,
        "lr": 1e-9,
        "bad": "nan",
    }
    assert rows[1]["corloc"] == 50.0


def test_a_line_that_a_killed_process_left_unfinished_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2')
    with MetricsLog(tmp_path, tensorboard=False) as log:
        log.write("localizer", "train", 1, 3, {})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 3]


def test_a_full_disk_costs_rows_only(tmp_path: Path) -> None:
    code = """
import resource, signal, sys
from pathlib import Path
from colocam_dist.training.metrics import MetricsLog
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 10**6))
with MetricsLog(Path(sys.argv[1]), tensorboard=False) as log:
    for step in range(50):
        log.write("localizer", "train", 1, step, {"loss": 1.0})
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))
    log.write("localizer", "train", 1, 50, {"loss": 1.0})
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 rows of metrics could not be written: No space left on device" in done.stderr
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [*range(len(steps) - 1), 50]
    assert 5 < len(steps) < 40


def test_tensorboard_has_the_same_numbers(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, tensorboard=True) as log:
        for step in (1, 2):
            log.write("classifier", "train", 1, step, {"loss": step / 4})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("classifier/train/loss")] == [(1, 0.25), (2, 0.5)]


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    with MetricsLog(None, tensorboard=True) as log:
        log.write("classifier", "train", 1, 1, {"loss": 1.0})
    assert not list(tmp_path.iterdir())


def test_the_clock_separates_waiting_from_working() -> None:
    clock = StepClock()
    for _ in range(2):
        time.sleep(0.06)
        clock.working()
        time.sleep(0.02)
        clock.waiting(frames=8)
    rates = clock.read(world=2)
    assert 0.55 < rates["data_wait"] < 0.95
    assert 2 * 16 / 0.6 < rates["frames_per_s"] < 2 * 16 / 0.16
    assert clock.read(world=1)["frames_per_s"] == 0.0, "reading starts a new interval"
