from __future__ import annotations

import math
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from colocam_dist.training import rank_processes
from colocam_dist.training.rank_processes import Ended, RankProcesses, SignalInbox

STOPS = """
got = []
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, lambda number, frame: got.append(number))
ready()
while not got:
    time.sleep(0.01)
(folder / f"got-{rank}").write_text(signal.Signals(got[0]).name)
sys.exit(85)
"""
IGNORES = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nready()\ntime.sleep(60)\n"


def codes(ended: list[Ended]) -> dict[int, int]:
    return {one.rank: one.code for one in ended}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT])
def test_a_signal_reaches_every_rank(number: signal.Signals, fake_ranks: Any) -> None:
    before = signal.getsignal(number)
    with SignalInbox() as inbox, RankProcesses(fake_ranks.command(STOPS), 2) as processes:
        fake_ranks.signal_when_ready(2, number).join()
        ended = processes.wait(inbox, grace=20, notice=20)
    assert inbox.first == number
    assert codes(ended) == {0: 85, 1: 85}
    assert all(one.by_itself for one in ended)
    told = "SIGTERM" if number == signal.SIGINT else number.name  # ^C would end a rank without saving
    assert [(fake_ranks.folder / f"got-{rank}").read_text() for rank in range(2)] == [told, told]
    assert signal.getsignal(number) == before


def test_ctrl_c_in_the_terminal_does_not_reach_ranks(fake_ranks: Any) -> None:
    with RankProcesses(fake_ranks.command("ready()\ntime.sleep(60)\n"), 1):
        fake_ranks.wait_for("ready-0")
        (rank,) = fake_ranks.processes()
        assert os.getpgid(rank) == os.getsid(rank) == rank
    assert not fake_ranks.processes()


def test_ranks_that_do_not_leave_are_killed_after_the_grace(fake_ranks: Any) -> None:
    body = "if rank == 0:\n    ready()\n    time.sleep(60)\n" + IGNORES
    with SignalInbox() as inbox, RankProcesses(fake_ranks.command(body), 2) as processes:
        thread = fake_ranks.signal_when_ready(2, signal.SIGTERM)
        began = time.monotonic()
        ended = processes.wait(inbox, grace=0.4, notice=20)
        thread.join()
    assert time.monotonic() - began < 5
    assert [(one.rank, one.code, one.by_itself) for one in ended] == [(0, -15, True), (1, -9, False)]
    assert ended[1].at - ended[0].at > 0.2
    assert not fake_ranks.processes()


@pytest.mark.parametrize(("pause", "grace", "insists"), [(0.0, 0.5, False), (0.4, 20, True)])
def test_a_second_request_kills_unless_it_is_the_first_one_again(
    pause: float, grace: float, insists: bool, fake_ranks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_processes, "_ONE_REQUEST", 0.3)
    with SignalInbox() as inbox, RankProcesses(fake_ranks.command(IGNORES), 1) as processes:
        thread = fake_ranks.signal_when_ready(1, signal.SIGTERM, signal.SIGINT, pause=pause)
        began = time.monotonic()
        ended = processes.wait(inbox, grace, notice=20)
        thread.join()
    assert codes(ended) == {0: -9}
    assert inbox.insists == insists
    assert 0.35 < time.monotonic() - began < 10


def test_usr1_may_be_followed_by_term(fake_ranks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_processes, "_ONE_REQUEST", 0.1)
    body = STOPS.replace("sys.exit(85)", "time.sleep(0.6)\nsys.exit(85)")
    with SignalInbox() as inbox, RankProcesses(fake_ranks.command(body), 1) as processes:
        thread = fake_ranks.signal_when_ready(1, signal.SIGUSR1, signal.SIGTERM, pause=0.3)
        assert codes(processes.wait(inbox, grace=20, notice=20)) == {0: 85}
        thread.join()


@pytest.mark.parametrize(("notice", "last"), [(20.0, (1, 86, True)), (0.2, (1, -9, False))])
def test_when_a_rank_dies_the_others_may_report_and_are_then_ended(
    notice: float, last: tuple[int, int, bool], fake_ranks: Any
) -> None:
    body = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
ready()
if rank == 0:
    while not (folder / "ready-1").exists():
        time.sleep(0.01)
    die()
time.sleep(1)
sys.exit(86)
"""
    with RankProcesses(fake_ranks.command(body), 2) as processes:
        ended = processes.wait(SignalInbox(), grace=20, notice=notice)
    assert [(one.rank, one.code, one.by_itself) for one in ended] == [(0, -9, True), last]
    assert not fake_ranks.processes()


def test_a_rank_that_hangs_after_the_others_have_left_in_peace_is_killed(fake_ranks: Any) -> None:
    body = "if rank == 0:\n    sys.exit(0)\ntime.sleep(60)\n"
    with RankProcesses(fake_ranks.command(body), 2) as processes:
        ended = processes.wait(SignalInbox(), grace=0.2, notice=20)
    assert codes(ended) == {0: 0, 1: -9}


def test_what_a_rank_leaves_behind_may_tidy_up_and_is_then_killed(fake_ranks: Any) -> None:
    body = """
tidies = "import sys; sys.stdin.read(); open(sys.argv[1] + '/tidy', 'w')"  # like Python's resource tracker
child = subprocess.Popen([sys.executable, "-S", "-c", tidies, str(folder)], stdin=subprocess.PIPE)
subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)", str(folder)])
die()
"""
    with RankProcesses(fake_ranks.command(body), 1) as processes:
        assert codes(processes.wait(SignalInbox(), grace=20, notice=20)) == {0: -9}
    assert (fake_ranks.folder / "tidy").exists()
    deadline = time.monotonic() + 2
    while fake_ranks.processes() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not fake_ranks.processes()


def test_if_not_all_ranks_can_be_started_none_stays(fake_ranks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.Popen

    def only_one(command: list[str], **options: Any) -> Any:
        if options["env"]["RANK"] == "1":
            fake_ranks.wait_for("ready-0")
            raise BlockingIOError("no more processes")
        return real(command, **options)

    monkeypatch.setattr(subprocess, "Popen", only_one)
    processes = RankProcesses(fake_ranks.command(IGNORES), 2)
    with pytest.raises(BlockingIOError):
        processes.__enter__()
    assert not fake_ranks.processes()


def test_ranks_are_told_their_place(fake_ranks: Any) -> None:
    names = ("LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "COLOCAM_LAUNCHER_PID")
    body = f"(folder / f'place-{{rank}}').write_text(' '.join(os.environ[name] for name in {names}))\n"
    with RankProcesses(fake_ranks.command(body), 3) as processes:
        assert codes(processes.wait(SignalInbox(), grace=math.inf, notice=1)) == {0: 0, 1: 0, 2: 0}
    for rank in range(3):
        assert (fake_ranks.folder / f"place-{rank}").read_text() == f"{rank} 3 3 127.0.0.1 {os.getpid()}"
    assert len({fake_ranks.starts(rank)[0][0] for rank in range(3)}) == 1, "one port for all"


def test_temporary_files_of_killed_ranks_go_with_them(fake_ranks: Any) -> None:
    body = "import tempfile\n(folder / f'at-{rank}').write_text(tempfile.mkdtemp())\nready()\ntime.sleep(60)\n"
    with RankProcesses(fake_ranks.command(body), 2):
        fake_ranks.wait_for("ready-1")
        fake_ranks.wait_for("ready-0")
        places = [Path((fake_ranks.folder / f"at-{rank}").read_text()) for rank in range(2)]
        assert all(place.is_dir() for place in places)
    assert not any(place.parent.exists() for place in places)
