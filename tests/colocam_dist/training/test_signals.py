from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from colocam_dist.training.signals import LAUNCHER_PID, StopRequests, launchers_above, watch_launchers

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_is_noted_and_nothing_else(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequests() as stop:
        assert stop.reason is None
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reason == number.name  # the first one counts
        assert 0 <= time.monotonic() - stop.since < 5
    assert signal.getsignal(number) == before


def test_outside_of_the_main_thread_handlers_stay() -> None:
    before = signal.getsignal(signal.SIGUSR2)
    seen = []

    def enter() -> None:
        with StopRequests() as stop:
            seen.append((signal.getsignal(signal.SIGUSR2), stop.reason))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [(before, None)]


def test_nobody_launched_this_test() -> None:
    assert launchers_above() == {}


WORKER = """
import sys, time
from colocam_dist.training.signals import StopRequests, launchers_above
with StopRequests() as stop:
    print(len(launchers_above()), flush=True)
    deadline = time.monotonic() + 20
    while stop.reason is None and time.monotonic() < deadline:
        time.sleep(0.01)
    with open(sys.argv[1], "w") as file:
        file.write(str(stop.reason))
"""
LAUNCHER = """
import subprocess, sys
subprocess.run([sys.executable, "-c", sys.argv[1], sys.argv[2]])
"""


def test_the_end_of_a_launcher_is_a_request(tmp_path: Path) -> None:
    (tmp_path / "deepspeed").write_text(LAUNCHER)
    told = tmp_path / "told"
    with subprocess.Popen(
        [sys.executable, tmp_path / "deepspeed", WORKER, told],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as launcher:
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == "1\n"
        launcher.kill()
        launcher.wait()
        deadline = time.monotonic() + 10
        while not (told.exists() and told.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert told.read_text() == "end of deepspeed"


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """A process that passes for the launcher of this one."""
    with subprocess.Popen(["sleep", "60"]) as process:
        monkeypatch.setenv(LAUNCHER_PID, str(process.pid))
        yield process
        process.kill()


def watching() -> bool:
    return "watch-launchers" in [thread.name for thread in threading.enumerate()]


def test_whoever_asks_is_told_once_of_the_end_of_a_launcher(launcher: subprocess.Popen[bytes]) -> None:
    told: list[str] = []
    watch_launchers(told.append, threading.Event())
    assert watching()
    assert told == []
    launcher.kill()
    launcher.wait()
    deadline = time.monotonic() + 10
    while watching():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert told == ["end of supervisor"]


def test_after_the_end_of_the_work_nobody_is_told(launcher: subprocess.Popen[bytes]) -> None:
    told: list[str] = []
    over = threading.Event()
    watch_launchers(told.append, over)
    over.set()
    deadline = time.monotonic() + 10
    while watching():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    launcher.kill()
    assert told == []


def test_without_a_launcher_nothing_is_watched() -> None:
    watch_launchers(lambda reason: None, threading.Event())
    assert not watching()
