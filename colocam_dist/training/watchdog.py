"""Notices ranks that hang or die, and says which one, where, and with which stacks.

Each rank has a thread that tells all others, by the rendezvous store, where the rank is and that it lives. When a rank
makes no progress for ``timeout`` seconds, its thread writes the stacks of all threads and a table of all ranks, and
ends the process. Ranks that wait for it then fail in their collective operation at once (gloo) or by their own watchdog
(NCCL), and :meth:`Watchdog.loss` tells them who is missing. If even the thread cannot run, because native code holds
the interpreter's lock, Python's fault handler writes the stacks from outside of it and ends the process.

The same thread passes requests to stop on to all ranks, for the phases without a reduction to carry them.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

from colocam_dist.console import RANK_LOST
from colocam_dist.distributed import Workers, rendezvous_store
from colocam_dist.files import write_atomically
from colocam_dist.progress import Position
from colocam_dist.training.signals import StopRequests

__all__ = ["Watchdog"]

log = logging.getLogger(__name__)

_LONGER = 20.0  # seconds after the timeout at which the fault handler takes over from the thread
_STOP = "watchdog/stop"
_STDERR = 2


@dataclass(frozen=True)
class _Sign:
    """What a rank last said: where it is, for how many seconds, whether it waits for others, how often it spoke."""

    position: Position
    age: float
    waits: bool
    count: int


class Watchdog:
    """Watches this rank while it is entered.

    Args:
        workers: this rank, its progress and its peers.
        stop: requests to stop, passed on to and from other ranks.
        folder: of the run; stacks go into ``stacks-rank-<r>.txt`` there and to stderr.
        timeout: seconds without progress after which this rank counts as hung.
        end: ends the process with a code.
    """

    def __init__(
        self,
        workers: Workers,
        stop: StopRequests,
        folder: Path,
        timeout: float,
        end: Callable[[int], Any] = os._exit,
    ) -> None:
        self._workers = workers
        self._stop = stop
        self._folder = folder
        self._timeout = timeout
        self._end = end
        self._beat = min(1.0, max(0.1, timeout / 20))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._count = 0
        self._store: Any = None

    def __enter__(self) -> Watchdog:
        if self._workers.world > 1:
            # A connection of its own: the one of the process group is busy while the main thread waits in it.
            self._store = rendezvous_store(timedelta(seconds=max(5.0, self._timeout)))
        self._say(self._workers.progress.position)
        self._workers.barrier()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def loss(self) -> str:
        """Who is missing, for a rank whose collective operation failed; takes a few beats to find out."""
        first = self._listen()
        self._ended.wait(2.5 * self._beat)
        second = self._listen()
        if second is None or first is None:
            return "rank 0, which held the rendezvous store, is gone"
        mine = self._workers.rank
        gone = [
            rank
            for rank, sign in second.items()
            if rank != mine and (sign is None or ((was := first.get(rank)) and was.count == sign.count))
        ]
        if not gone:
            return "all other ranks still live; " + _table(second)
        return "; ".join(f"rank {rank} is gone, last seen in {_seen(second[rank])}" for rank in gone)

    def _watch(self) -> None:
        while not self._ended.wait(self._beat):
            position = self._workers.progress.position
            age = time.monotonic() - position.since
            # From a thread of C code, so it also works while native code holds the interpreter's lock.
            faulthandler.dump_traceback_later(max(0.1, self._timeout - age) + _LONGER, exit=True, file=_STDERR)
            self._say(position)
            self._pass_requests_on()
            if age > self._timeout:
                self._report(position, age)
                return

    def _report(self, position: Position, age: float) -> None:
        """The rank hangs: tell everything and end the process."""
        rank, others = self._workers.rank, self._listen()
        culprits = _culprits(others) if others else [rank]
        what = f"rank {rank} made no progress for {age:.0f} s in {position}"
        if others is None:
            what += "; where the other ranks are is not known, since the rendezvous store is gone"
        elif len(others) > 1:
            behind = ", ".join(f"rank {culprit}" for culprit in culprits)
            what += f"; behind the others or silent: {behind}. All ranks: {_table(others)}"
        log.error("%s", what)
        stacks, failed = self._folder / f"stacks-rank-{rank}.txt", self._folder / "failed.json"
        faulthandler.dump_traceback(file=_STDERR, all_threads=True)
        facts = {"error": what, "type": "Hang", "rank": rank, "stacks": stacks.name}
        try:
            with stacks.open("w") as file:
                file.write(what + "\n\n")
                file.flush()
                faulthandler.dump_traceback(file=file, all_threads=True)
            if rank in culprits or not failed.exists():
                write_atomically(failed, json.dumps(facts, indent=1))
        except OSError as error:
            log.error("%s cannot be written: %s", error.filename, error.strerror)
        if rank not in culprits:
            self._ended.wait(3 * self._beat)  # so that those to blame can leave their stacks before they lose this rank
        self._end(RANK_LOST)

    def _say(self, position: Position) -> None:
        if self._store is None:
            return
        self._count += 1
        facts = [
            position.stage,
            position.step,
            position.phase,
            time.monotonic() - position.since,
            _waits(),
            self._count,
        ]
        try:
            self._store.set(f"watchdog/{self._workers.rank}", json.dumps(facts))
        except RuntimeError:  # rank 0, which holds the store, has ended: collective operations will tell
            self._store = None

    def _listen(self) -> dict[int, _Sign | None] | None:
        """What every rank last said; None for ranks that never spoke; None altogether if the store is gone."""
        if self._workers.world == 1:
            position = self._workers.progress.position
            return {0: _Sign(position, time.monotonic() - position.since, False, self._count)}
        if self._store is None:
            return None
        found: dict[int, _Sign | None] = {}
        try:
            for rank in range(self._workers.world):
                key = f"watchdog/{rank}"
                if not self._store.check([key]):
                    found[rank] = None
                    continue
                stage, step, phase, age, waits, count = json.loads(self._store.get(key))
                found[rank] = _Sign(Position(stage, step, phase), age, waits, count)
        except RuntimeError:
            return None
        return found

    def _pass_requests_on(self) -> None:
        if self._store is None:
            return
        try:
            if self._stop.reason is not None:
                self._store.set(_STOP, f"a request to rank {self._workers.rank}")
            elif self._store.check([_STOP]):
                self._stop.ask(self._store.get(_STOP).decode())
        except RuntimeError:
            self._store = None


def _culprits(signs: dict[int, _Sign | None]) -> list[int]:
    """The ranks that the others wait for: those that never spoke, else those that are least far and do not wait."""
    silent = [rank for rank, sign in signs.items() if sign is None]
    if silent:
        return silent
    orders = {rank: (sign.position.order, sign.waits) for rank, sign in signs.items() if sign is not None}
    return [rank for rank, order in orders.items() if order == min(orders.values())]


def _waits() -> bool:
    """Whether the main thread is in a collective operation (where those return at once, as on a GPU, it never is)."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        if "torch/distributed/" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


def _seen(sign: _Sign | None) -> str:
    return "never" if sign is None else str(sign.position)


def _table(signs: dict[int, _Sign | None]) -> str:
    rows = []
    for rank, sign in signs.items():
        waits = ", waiting for others" if sign is not None and sign.waits else ""
        rows.append(f"rank {rank} {_seen(sign)}" + (f" for {sign.age:.1f} s{waits}" if sign is not None else ""))
    return "; ".join(rows)
