from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from colocam_dist.config import CommandLine, load
from colocam_dist.config.command_line import Supervision
from colocam_dist.errors import ConfigError
from colocam_dist.training import supervisor
from colocam_dist.training.signals import LAUNCHER_PID
from colocam_dist.training.supervisor import FRUITLESS, Supervisor, accumulations_left, supervise

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _short_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_NOTICE", 0.2)
    monkeypatch.setattr(supervisor, "_LAST_NOTICE", 0.2)


def run(fake_ranks: Any, body: str, ranks: int = 1, restarts: int = 0, **more: Any) -> int:
    command = fake_ranks.command(body)
    return Supervisor(command, fake_ranks.folder, Supervision(ranks, restarts, grace=5), **more).run()


def test_a_run_that_ends_well_is_not_started_again(fake_ranks: Any) -> None:
    assert run(fake_ranks, "if rank == 0: done()\n", ranks=2, restarts=3) == 0
    assert [len(fake_ranks.starts(rank)) for rank in range(2)] == [1, 1]
    assert fake_ranks.starts()[0][1:] == []
    assert not (fake_ranks.folder / "restarts.jsonl").exists()


def test_a_killed_rank_makes_all_start_again_and_resume(fake_ranks: Any, caplog: pytest.LogCaptureFixture) -> None:
    body = """
if attempt == 1:
    die() if rank == 1 else time.sleep(60)
if rank == 0: done()
"""
    assert run(fake_ranks, body, ranks=2, restarts=2) == 0
    for rank in range(2):
        (first_port, *first), (second_port, *second) = fake_ranks.starts(rank)
        assert first == []
        assert second == ["run.on_exists=resume"]
        assert first_port != second_port
    (row,) = map(json.loads, (fake_ranks.folder / "restarts.jsonl").read_text().splitlines())
    assert (row["attempt"], row["restart"], row["rank"], row["code"]) == (2, 1, 1, -9)
    assert row["cause"] == "rank 1 was killed by SIGKILL"
    assert 0.2 < row["seconds_down"] < 2
    assert time.strptime(row["time"], "%Y-%m-%dT%H:%M:%S%z")
    assert "rank 1 was killed by SIGKILL; restart 1 of 2" in caplog.text
    assert not fake_ranks.processes()


def test_down_time_is_short(fake_ranks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # as users have it
    body = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if attempt == 1:
    die() if rank == 1 else time.sleep(60)
if rank == 0: done()
"""
    assert run(fake_ranks, body, ranks=2, restarts=1) == 0
    assert json.loads((fake_ranks.folder / "restarts.jsonl").read_text())["seconds_down"] < 3


@pytest.mark.parametrize("code", [2, 85, 87])
def test_some_ends_are_final(code: int, fake_ranks: Any) -> None:
    assert run(fake_ranks, f"sys.exit({code})\n", restarts=3) == code
    assert len(fake_ranks.starts()) == 1


@pytest.mark.parametrize(("end", "code"), [("die()", 137), ("sys.exit(1)", 1), ("sys.exit(86)", 86), ("pass", 1)])
def test_restarts_come_to_an_end(end: str, code: int, fake_ranks: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert run(fake_ranks, f"save(attempt)\n{end}\n", restarts=4) == code
    assert len(fake_ranks.starts()) == 5
    assert len((fake_ranks.folder / "restarts.jsonl").read_text().splitlines()) == 4
    assert "no restarts are left of 4" in caplog.text


def test_without_progress_it_gives_up_early(fake_ranks: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert run(fake_ranks, f"save(1 + (attempt > {FRUITLESS}))\nsys.exit(1)\n", restarts=20) == 1
    assert len(fake_ranks.starts()) == 1 + (FRUITLESS - 1) + 1 + FRUITLESS, "the second checkpoint came just in time"
    assert "without a new checkpoint" in caplog.text


def test_failures_of_different_kinds_are_tried_on(fake_ranks: Any) -> None:
    assert run(fake_ranks, "sys.exit(attempt % 2 + 3)\n", restarts=6) in (3, 4)
    assert len(fake_ranks.starts()) == 7


def test_the_cause_is_not_the_rank_that_lost_another_one(fake_ranks: Any, caplog: pytest.LogCaptureFixture) -> None:
    body = "if rank == 0: sys.exit(86)\ntime.sleep(0.1)\nsys.exit(7)\n"
    assert run(fake_ranks, body, ranks=2) == 7
    assert "rank 1 ended with exit code 7" in caplog.text


@pytest.mark.parametrize("rank", [0, 1])
def test_a_user_error_of_a_rank_that_does_not_speak_for_all_is_said(
    rank: int, fake_ranks: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert run(fake_ranks, f"time.sleep(60) if rank != {rank} else sys.exit(2)\n", ranks=2, restarts=3) == 2
    assert ("rank 1 ended with exit code 2" in caplog.text) == (rank == 1)


def test_a_done_file_of_an_earlier_run_is_no_success(fake_ranks: Any) -> None:
    (fake_ranks.folder / "done.json").write_text("{}")
    assert run(fake_ranks, "pass\n") == 1


def test_memory_is_saved_without_using_up_restarts(fake_ranks: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert run(fake_ranks, "sys.exit(87) if attempt < 3 else done()\n", accumulations=[2, 4, 8]) == 0
    resumed = ["run.on_exists=resume", "engine.accumulation=2", "engine.accumulation=4"]
    assert [sorted(words[1:]) for words in fake_ranks.starts()] == [[], sorted(resumed[:2]), sorted(resumed)]
    assert "the micro-batches are halved: engine.accumulation=2" in caplog.text


def test_memory_that_is_never_enough_ends_the_run(fake_ranks: Any) -> None:
    assert run(fake_ranks, "sys.exit(87)\n", restarts=9, accumulations=[2, 4]) == 87
    assert len(fake_ranks.starts()) == 3


@pytest.mark.parametrize(
    ("settings", "ranks", "left"),
    [
        ([], 1, [2, 4, 8]),
        ([], 2, [2, 4]),
        (["run.stages=[classifier]"], 2, [2, 4, 8, 16]),
        (["engine.accumulation=4"], 2, []),
        (["localizer.global_batch=24"], 2, []),
        (["engine.window_ranks=2"], 2, [2, 4, 8]),
        (["engine.window_ranks=2"], 4, [2, 4]),
        (["localizer.global_batch=24", "classifier.from_run=other", "data.n_frames=2"], 1, [2, 4]),
        (["run.stages=[evaluate]"], 1, []),
    ],
)
def test_micro_batches_are_halved_as_long_as_windows_divide(settings: list[str], ranks: int, left: list[int]) -> None:
    config = load(None, ["data.shards=x", *settings])  # 32 frames, windows of 4
    assert accumulations_left(config, ranks) == left


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(85))\nready()\ntime.sleep(60)\n", 85),
        ("ready()\ntime.sleep(60)\n", 85),  # it had not even begun
        ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))\nready()\ntime.sleep(60)\n", 1),
        ("signal.signal(signal.SIGTERM, lambda *_: (done(), sys.exit(0)))\nready()\ntime.sleep(60)\n", 0),
    ],
)
def test_a_run_that_is_asked_to_stop_is_not_started_again(body: str, code: int, fake_ranks: Any) -> None:
    thread = fake_ranks.signal_when_ready(1, signal.SIGTERM)
    assert run(fake_ranks, body, restarts=3) == code
    thread.join()
    assert len(fake_ranks.starts()) == 1


def test_settings_and_script_become_the_command_of_a_rank(
    fake_ranks: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    _, _, script, folder = fake_ranks.command("sys.exit(87) if attempt == 1 else done()\n")
    overrides = ("data.shards=x", f"run.folder={Path(folder).parent}", f"run.name={Path(folder).name}")
    for how, code in (("stop", 87), ("halve", 0)):
        words = (folder, *overrides, f"engine.on_out_of_memory={how}")
        command = CommandLine(None, words, False, Supervision())
        config = load(None, words[1:])
        (fake_ranks.folder / "starts-0").unlink(missing_ok=True)
        assert supervise(command, config, script) == code
        assert fake_ranks.starts()[0][1:] == list(words[1:])


@pytest.mark.parametrize(
    ("wanted", "environment", "part"),
    [
        (Supervision(ranks=0), {}, "--ranks"),
        (Supervision(max_restarts=-1), {}, "--max-restarts"),
        (Supervision(grace=float("nan")), {}, "--grace"),
        (Supervision(), {"RANK": "0"}, "torchrun's own --max-restarts"),
        (Supervision(), {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}, "SLURM requeue"),
    ],
)
def test_what_makes_no_sense_is_refused(
    wanted: Supervision, environment: dict[str, str], part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=part):
        supervise(CommandLine(None, (), False, wanted), load(None, ["data.shards=x"]), "script")


def test_it_starts_without_torch() -> None:
    code = "import sys, colocam_dist.training.supervisor; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


START = """
import sys
from pathlib import Path
from colocam_dist.config.command_line import Supervision
from colocam_dist.training.supervisor import Supervisor
sys.exit(Supervisor(sys.argv[2:], Path(sys.argv[1]), Supervision(2, 3)).run())
"""
WATCHES = """
ready()
while rank == 1 and not (folder / "go-on").exists():  # as if it took long to start
    time.sleep(0.01)
from colocam_dist.training.signals import StopRequests
with StopRequests() as stop:
    deadline = time.monotonic() + 20
    while stop.reason is None and time.monotonic() < deadline:
        time.sleep(0.01)
(folder / f"told-{rank}").write_text(str(stop.reason))
"""


def test_ranks_notice_that_the_supervisor_was_killed(fake_ranks: Any) -> None:
    command = fake_ranks.command(WATCHES, imports=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", START, fake_ranks.folder, *command], env=environment) as process:
        fake_ranks.wait_for("ready-0", "ready-1")
        process.kill()
    (fake_ranks.folder / "go-on").touch()
    deadline = time.monotonic() + 10
    while fake_ranks.processes():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for rank in range(2):
        assert (fake_ranks.folder / f"told-{rank}").read_text() == "end of supervisor"
        assert len(fake_ranks.starts(rank)) == 1


SAVES = """
def leave(*signal):
    (folder / f"told-{rank}").touch()
    time.sleep(0.3)
    (folder / f"saved-{rank}").touch()
    sys.exit(85)
signal.signal(signal.SIGTERM, leave)
ready()
time.sleep(60)
"""


def test_the_end_of_what_started_the_supervisor_lets_the_ranks_save(fake_ranks: Any) -> None:
    command = fake_ranks.command(SAVES)
    with subprocess.Popen(["sleep", "60"]) as starter:
        environment = os.environ | {"PYTHONPATH": str(ROOT), LAUNCHER_PID: str(starter.pid)}
        words = [sys.executable, "-c", START, str(fake_ranks.folder), *command]
        with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True) as process:
            fake_ranks.wait_for("ready-0", "ready-1")
            assert process.poll() is None
            starter.kill()
            starter.wait()
            _, said = process.communicate(timeout=20)
    assert process.returncode == 85
    assert "the run is to save and leave" in said
    assert [(fake_ranks.folder / f"saved-{rank}").exists() for rank in range(2)] == [True, True]
    assert [len(fake_ranks.starts(rank)) for rank in range(2)] == [1, 1], "it was asked to stop, it did not fail"


def test_a_supervisor_that_nobody_watches_over_leaves_no_thread(
    fake_ranks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen(["sleep", "60"]) as starter:
        monkeypatch.setenv(LAUNCHER_PID, str(starter.pid))
        assert run(fake_ranks, "done()\n") == 0
        deadline = time.monotonic() + 10
        while "watch-launchers" in [thread.name for thread in threading.enumerate()]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        starter.kill()
