"""The watchdog of one rank; several ranks are in tests/launchers/test_faults.py."""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch.distributed import TCPStore

from colocam_dist.console import RANK_LOST
from colocam_dist.distributed import Workers
from colocam_dist.progress import Position
from colocam_dist.training import watchdog as module
from colocam_dist.training.signals import StopRequests
from colocam_dist.training.watchdog import Watchdog

ROOT = Path(__file__).parents[3]


def alone() -> Workers:
    return Workers(0, 0, 1, torch.device("cpu"))


def test_progress_is_left_in_peace(tmp_path: Path) -> None:
    workers, codes = alone(), []
    with Watchdog(workers, StopRequests(), tmp_path, 1.0, codes.append):
        for _ in range(30):
            workers.progress.tick()
            time.sleep(0.05)
    assert codes == []
    assert list(tmp_path.iterdir()) == []
    assert not [thread for thread in threading.enumerate() if thread.name == "watchdog"]


def test_a_hang_is_reported_with_place_and_stacks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    workers, codes = alone(), []
    workers.progress.enter("backward", stage="localizer", step=6)
    with caplog.at_level(logging.ERROR), Watchdog(workers, StopRequests(), tmp_path, 1.0, codes.append):
        began = time.monotonic()
        while not codes:
            assert time.monotonic() - began < 3.0, "within the time-out and two seconds"
            time.sleep(0.01)
        assert time.monotonic() - began > 0.9
    assert codes == [RANK_LOST]
    told = json.loads((tmp_path / "failed.json").read_text())
    assert told["type"] == "Hang"
    assert "rank 0 made no progress for 1 s in localizer, backward of step 7" in told["error"]
    stacks = (tmp_path / told["stacks"]).read_text()
    assert "test_a_hang_is_reported" in stacks
    assert "localizer, backward of step 7" in caplog.text


def test_native_code_that_keeps_the_lock_ends_with_stacks_too(tmp_path: Path) -> None:
    code = """
import ctypes, sys, torch
from pathlib import Path
from colocam_dist.distributed import Workers
from colocam_dist.training import watchdog
from colocam_dist.training.signals import StopRequests
watchdog._LONGER = 1.0
workers = Workers(0, 0, 1, torch.device("cpu"))
with watchdog.Watchdog(workers, StopRequests(), Path(sys.argv[1]), 1.0):
    import time; time.sleep(0.5)
    ctypes.PyDLL(None).sleep(30)
"""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "Timeout" in done.stderr
    assert 'File "<string>"' in done.stderr
    assert time.monotonic() - began < 25


def test_what_ranks_said_before_torchrun_started_them_again_is_not_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # torchrun's, which outlives the ranks
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    monkeypatch.setattr(Workers, "barrier", lambda self: None)

    def reasons(attempt: int, asked: str | None) -> list[str | None]:
        """Of both ranks, some beats after rank 1 was asked to stop."""
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(attempt))
        stops = [StopRequests(), StopRequests()]
        ranks = [Workers(rank, rank, 2, torch.device("cpu")) for rank in range(2)]
        with contextlib.ExitStack() as stack:
            for rank, stop in zip(ranks, stops, strict=True):
                stack.enter_context(Watchdog(rank, stop, tmp_path, 2.0))
            if asked:
                stops[1].ask(asked)
            for _ in range(10):
                time.sleep(0.05)
                for rank in ranks:
                    rank.progress.tick()
        return [stop.reason for stop in stops]

    assert reasons(0, "SIGTERM") == ["a request to rank 1", "SIGTERM"]
    assert reasons(1, None) == [None, None]


def test_failed_json_of_another_rank_stays(tmp_path: Path) -> None:
    (tmp_path / "failed.json").write_text("{}")
    watchdog = Watchdog(alone(), StopRequests(), tmp_path, 60.0)
    sign = module._Sign(Position("classifier", 3, "forward"), 9.0, False, 4)
    behind = module._Sign(Position("classifier", 3, "data"), 9.0, False, 4)
    watchdog._listen = lambda: {0: sign, 1: behind}  # type: ignore[method-assign]
    codes: list[int] = []
    watchdog._end = codes.append
    watchdog._report(sign.position, 61.0)
    assert codes == [RANK_LOST]
    assert (tmp_path / "failed.json").read_text() == "{}"
    assert "behind the others or silent: rank 1" in (tmp_path / "stacks-rank-0.txt").read_text()


@pytest.mark.parametrize(
    ("phases", "waits", "culprits"),
    [
        (("forward", "forward", "data"), (True, True, False), [2]),
        (("forward", "forward", "forward"), (True, False, True), [1]),
        (("backward", "backward", "backward"), (True, True, True), [0, 1, 2]),
        (("save.wait", "save.write", "save.wait"), (True, False, True), [1]),
        ((None, "data", "data"), (False, False, False), [0]),
    ],
)
def test_who_holds_up_the_others(phases: tuple[str | None, ...], waits: tuple[bool, ...], culprits: list[int]) -> None:
    signs = {
        rank: None if phase is None else module._Sign(Position("classifier", 3, phase), 5.0, waiting, 1)
        for rank, (phase, waiting) in enumerate(zip(phases, waits, strict=True))
    }
    assert module._culprits(signs) == culprits
