"""Runs as processes of this machine: a script of a few lines in the place of launchers/train.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from colocam_dist.config import Config, load
from colocam_dist.training.signals import LAUNCHER_PID
from tune.executors import local
from tune.executors.local import LocalWork
from tune.folder import Record

ROOT = Path(__file__).parents[3]
PRELUDE = """
import json, os, re, signal, sys, time
from pathlib import Path
text = Path(sys.argv[sys.argv.index("--config") + 1]).read_text()
folder, name = (re.search(rf"^  {key}: '?([^'\\n]+)", text, re.M)[1] for key in ("folder", "name"))
run = Path(folder) / name
run.mkdir(parents=True, exist_ok=True)
(run / f"start-{os.getpid()}.json").write_text(json.dumps({"words": sys.argv[1:], "environment": dict(os.environ)}))
def leave(*signal):
    with (run / "asked").open("a") as file:
        file.write("TERM\\n")
    time.sleep(0.3)  # it saves
    (run / "preempted.json").write_text("{}")
    sys.exit(85)
signal.signal(signal.SIGTERM, leave)
def row(epoch, corloc):
    row = {"stage": "localizer", "kind": "validation", "epoch": epoch, "corloc": corloc}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\\n")
(run / "ready").touch()
"""


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_GRACE", 5.0)
    monkeypatch.setattr(local, "_LOOK_EVERY", 0.01)


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets what a run does."""

    def write(body: str) -> None:
        path = tmp_path / "train.py"
        path.write_text(PRELUDE + body)
        monkeypatch.setattr(local, "SCRIPT", path)

    return write


@pytest.fixture
def record(tmp_path: Path) -> Record:
    made = Record(tmp_path / "study", "trial", "0123456789")
    made.begin({})
    return made


@pytest.fixture
def config(record: Record) -> Config:
    place = [f"run.folder={record.run.parent}", f"run.name='{record.id}'", "run.on_exists=resume"]
    return load(None, ["data.shards=here", *place])


@pytest.fixture
def work(record: Record) -> Iterator[LocalWork]:
    """Ended with the test."""
    made = LocalWork(record, 2, 3)
    yield made
    if made._process is not None and made._process.poll() is None:
        made._process.kill()
        made._process.wait()


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def events(record: Record) -> list[str]:
    return [row["event"] for row in record.attempts()]


def starts(record: Record) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in record.run.glob("start-*.json")]


def lives(pid: int) -> bool:
    return local._started(pid) is not None


def test_rows_come_while_it_goes_on_and_its_end_is_seen(
    script: Any, work: LocalWork, record: Record, config: Config
) -> None:
    script("""
print("hello from the run")
row(1, 10.0)
while not (run / "go-on").exists(): time.sleep(0.005)
row(2, 20.0)
(run / "done.json").write_text("{}")
""")
    assert not work.living()
    work.begin(config)
    wait_for(lambda: record.rows("localizer"))
    assert work.living()
    assert [row["corloc"] for row in record.rows("localizer")] == [10.0]
    (record.run / "go-on").touch()
    wait_for(lambda: not work.living())
    assert [row["corloc"] for row in record.rows("localizer")] == [10.0, 20.0]
    assert (record.run / "done.json").exists()
    wait_for(lambda: events(record) == ["start", "end"])
    start, end = record.attempts()
    assert (start["pid"], end["code"]) == (end["pid"], 0)
    assert 0.0 < end["time"] - start["time"] < 20.0
    assert "hello from the run" in record.log.read_text()
    assert work.last_words() == "hello from the run"
    assert not work.killed


def test_it_is_the_command_that_a_user_would_give(script: Any, work: LocalWork, record: Record, config: Config) -> None:
    script("")
    work.begin(config)
    wait_for(lambda: not work.living())
    (start,) = starts(record)
    settings = record.path / "settings.yaml"
    more = ["--ranks", "2", "--max-restarts", "3", "--grace", "5.0"]
    assert start["words"] == ["--config", str(settings), "run.on_exists=resume", *more]
    assert load(settings) == config
    assert (ROOT / "launchers/train.py").is_file()


def test_the_script_is_that_of_the_launchers() -> None:
    assert ROOT / "launchers/train.py" == local.SCRIPT


STRANGE = {
    "OMP_NUM_THREADS": "1",
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "PMI_RANK": "1",
    "PMIX_RANK": "1",
    "RANK": "3",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "4",
}


def test_the_place_of_the_study_in_a_cluster_is_none_of_the_runs_business(
    script: Any, work: LocalWork, record: Record, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    script("")
    for name, value in {**STRANGE, "CUDA_VISIBLE_DEVICES": "3", "OF_THE_USER": "kept"}.items():
        monkeypatch.setenv(name, value)
    work.begin(config)
    wait_for(lambda: not work.living())
    environment = starts(record)[0]["environment"]
    assert not STRANGE.keys() & environment.keys()
    assert (environment["CUDA_VISIBLE_DEVICES"], environment["OF_THE_USER"]) == ("3", "kept")
    assert environment[LAUNCHER_PID] == str(os.getpid())


SLEEPS = "time.sleep(60)\n"


def test_it_is_asked_once_to_save_and_leave(script: Any, work: LocalWork, record: Record, config: Config) -> None:
    script(SLEEPS)
    work.begin(config)
    wait_for((record.run / "ready").exists)
    record.finish("stopped")
    wait_for((record.run / "asked").exists)
    work.leave()
    work.leave()
    assert not work.living()
    assert (record.run / "asked").read_text() == "TERM\n"
    assert (record.run / "preempted.json").exists()
    wait_for(lambda: events(record) == ["start", "end"])
    assert record.attempts()[1]["code"] == 85


def test_the_end_of_a_trial_is_the_end_of_its_processes(
    script: Any, work: LocalWork, record: Record, config: Config
) -> None:
    script(SLEEPS)
    work.begin(config)
    wait_for((record.run / "ready").exists)
    assert work.living()
    record.finish("stopped")  # by the driver, in another process
    wait_for(lambda: not work.living())
    assert (record.run / "preempted.json").exists()


def test_who_does_not_leave_is_killed(
    script: Any, work: LocalWork, record: Record, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    script("signal.signal(signal.SIGTERM, signal.SIG_IGN)\n(run / 'deaf').touch()\n" + SLEEPS)
    work.begin(config)
    wait_for((record.run / "deaf").exists)
    monkeypatch.setattr(local, "_GRACE", -9.9)  # ten seconds more are given
    work.leave()
    assert not work.living()
    assert work.killed


def test_without_a_start_there_is_nothing_to_end(work: LocalWork) -> None:
    work.leave()
    assert not work.living()
    assert not work.killed
    assert work.last_words() == ""


STARTER = """
import sys, time
from pathlib import Path
from colocam_dist.config import load
from tune.executors import local
from tune.folder import Record
local.SCRIPT = Path(sys.argv[3])
local.LocalWork(Record(Path(sys.argv[1]), "trial", sys.argv[2]), 1, 0).begin(load(sys.argv[4]))
time.sleep(60)
"""
WATCHES = """
from colocam_dist.training.signals import StopRequests
with StopRequests() as stop:
    (run / "watching").touch()
    deadline = time.monotonic() + 20
    while stop.reason is None and time.monotonic() < deadline: time.sleep(0.01)
(run / "told").write_text(str(stop.reason))
while not (run / "saved").exists(): time.sleep(0.01)
leave()
"""


@pytest.fixture
def killed_starter(script: Any, record: Record, config: Config, tmp_path: Path) -> int:
    """The process of a run whose starter was killed; it saves until the file "saved" is there."""
    from colocam_dist.config import dump

    script(WATCHES)
    (tmp_path / "config.yaml").write_text(dump(config))
    words = [record.path.parents[1], record.id, local.SCRIPT, tmp_path / "config.yaml"]
    with subprocess.Popen(
        [sys.executable, "-c", STARTER, *map(str, words)], env=os.environ | {"PYTHONPATH": str(ROOT)}
    ) as starter:
        wait_for((record.run / "watching").exists)
        wait_for((record.path / "process.json").exists)
        starter.kill()
    pid = json.loads((record.path / "process.json").read_text())["pid"]
    assert isinstance(pid, int)
    return pid


def test_the_end_of_who_started_it_ends_it_and_the_next_start_waits_for_that(
    killed_starter: int, work: LocalWork, record: Record, config: Config, script: Any
) -> None:
    wait_for((record.run / "told").exists)
    assert (record.run / "told").read_text().startswith("end of ")
    waiting = threading.Thread(target=work._await_former)
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    (record.run / "saved").touch()
    waiting.join()
    assert not lives(killed_starter)
    script("(run / 'again').touch()\n")
    assert (record.run / "asked").read_text() == "TERM\n"
    work.begin(config)
    wait_for((record.run / "again").exists)
    wait_for(lambda: not work.living())
    assert not (record.run / "preempted.json").exists(), "it says nothing of the new start"
    wait_for(lambda: len(events(record)) == 4)
    assert events(record) == ["start", "end", "start", "end"], "the end that nobody saw has been noted"


def test_a_former_process_that_does_not_leave_is_killed(
    killed_starter: int, work: LocalWork, config: Config, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    script("")
    monkeypatch.setattr(local, "_GRACE", -9.9)  # ten seconds more are given
    work.begin(config)
    assert not lives(killed_starter)


def test_the_end_that_nobody_saw_was_at_the_last_sign(
    script: Any, work: LocalWork, record: Record, config: Config
) -> None:
    script("")
    record.add_attempt("start", pid=1, time=1000.0)
    record.run.mkdir(parents=True)
    (record.run / "metrics.jsonl").touch()
    os.utime(record.run / "metrics.jsonl", (1500.0, 1500.0))
    work.begin(config)
    first, second, third = record.attempts()[:3]
    assert (first["event"], second["event"], third["event"]) == ("start", "end", "start")
    assert (second["time"], second["pid"]) == (1500.0, 1)
    assert third["time"] > 1500.0


def test_a_number_that_another_process_has_now_is_no_former_process(
    script: Any, work: LocalWork, record: Record, config: Config
) -> None:
    script("")
    with subprocess.Popen(["sleep", "60"]) as other:
        facts = {"host": local.socket.gethostname(), "pid": other.pid, "started": "1"}
        (record.path / "process.json").write_text(json.dumps(facts))
        begun = time.monotonic()
        work.begin(config)
        assert time.monotonic() - begun < 5.0
        assert other.poll() is None
        (record.path / "process.json").write_text(json.dumps({**facts, "host": "another"}))
        LocalWork(record, 1, 0)._await_former()
        other.kill()


def test_ranks_of_a_killed_supervisor_are_waited_for(work: LocalWork, record: Record) -> None:
    with subprocess.Popen(["true"]) as gone:
        pass
    rank = subprocess.Popen(["sleep", "60"], env=os.environ | {LAUNCHER_PID: str(gone.pid)})
    try:
        facts = {"host": local.socket.gethostname(), "pid": gone.pid, "started": "1"}
        wait_for(lambda: local._left_of(facts) == [rank.pid])
        assert local._left_of({**facts, "pid": os.getpid()}) == []
    finally:
        rank.send_signal(signal.SIGKILL)
        rank.wait()
    assert local._left_of(facts) == []


def test_a_start_that_cannot_be_noted_is_none(
    script: Any, work: LocalWork, record: Record, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(SLEEPS)

    def full(event: str, **facts: Any) -> None:
        wait_for((record.run / "ready").exists)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record, "add_attempt", full)
    with pytest.raises(OSError, match="No space"):
        work.begin(config)
    assert not work.living()
    assert (record.run / "asked").read_text() == "TERM\n"
