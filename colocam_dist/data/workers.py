"""Worker processes that turn tasks into batches, in an order that does not depend on how many there are.

Worker k of K runs tasks k, k+K, k+2K, ... and DataLoader asks the workers in turn, so batches arrive in task order.

Workers are started by "forkserver": a helper process, started once, that has imported what workers need and forks them.
Plain fork copies a process in which gloo, NCCL, CUDA and the autograd engine run threads, which may deadlock and which
Python 3.12 warns about; "spawn" pays all imports for every worker. Measured on 2 cores: first batch after 0.04 s by
fork, 0.05 s by forkserver (1.1 s the first time in a process, while imports run) and 1.7 s by spawn. As with spawn, a
worker imports the program's main module under another name, so a script must do its work under ``if __name__ ==
"__main__"``.

Signals that ask a run to stop (a batch system sends them to every process of a job step) must reach the trainer only:
it finishes its step, which needs batches, and saves. So the helper and the workers have them blocked, and end in three
other ways: ``close()``, the end of the Python program, and the death of the trainer, on which each worker keeps an eye.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing import connection, context, forkserver, get_context, parent_process, resource_tracker, util
from typing import Any, Generic, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

# Read once when webdataset is imported: no "pipe:" URLs and no pickles from shards. Nothing here uses either.
os.environ.setdefault("WDS_SECURE", "1")

import webdataset as wds

from colocam_dist.errors import DataError

__all__ = ["Tasks", "WorkerLoader"]

Task = TypeVar("Task")
Batch = TypeVar("Batch")

_STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
_PRELOAD = ["torch.utils.data", "cv2", "webdataset", "colocam_dist.data.stream", "colocam_dist.data.frame_stream"]


class Tasks(IterableDataset[Task], Generic[Task]):
    """A list of tasks, divided among workers in turn; ``task(i)`` must give the same in every process."""

    def span(self) -> tuple[int, int]:
        """First task, and one past the last one, of the pass that begins now."""
        raise NotImplementedError

    def task(self, number: int, first: bool) -> Task:
        """Task ``number``; ``first`` is True for the first one that this process runs in this pass."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Task]:
        worker = get_worker_info()
        start, stop = self.span()
        mine = range(start, stop) if worker is None else range(start + worker.id, stop, worker.num_workers)
        for number in mine:
            yield self.task(number, number == mine.start)


class WorkerLoader(Generic[Task, Batch]):
    """WebDataset pipeline ``tasks | map(build)`` in a DataLoader whose workers live from the first pass to ``close()``.

    Args:
        tasks: what is to be built; sent to the workers once, by pickle.
        build: makes the batch of a task; sent likewise.
        workers: worker processes; 0 builds in the calling process.
    """

    def __init__(self, tasks: Tasks[Task], build: Callable[[Task], Batch], workers: int) -> None:
        self._workers = workers
        self._context = _start_forkserver() if workers else None
        self._pipeline = wds.DataPipeline(tasks, wds.map(_Guarded(build)))
        self._end: Callable[[], None] | None = None
        self._loader: DataLoader[Any] | None = None

    def __iter__(self) -> Iterator[Batch]:
        """One pass over the tasks, starting now; a pass that was left early is abandoned.

        Raises:
            DataError: raised by ``build``, at this task's turn.
        """
        if self._loader is None:
            self._loader = DataLoader(
                self._pipeline,
                batch_size=None,
                num_workers=self._workers,
                collate_fn=_unchanged,
                multiprocessing_context=self._context,
                persistent_workers=self._workers > 0,
                worker_init_fn=_begin_worker,
                # Pinning starts a CUDA context, so only where the process has one already.
                pin_memory=torch.cuda.is_initialized(),
                # Without its own generator a loader draws from torch's global one on every pass, so that the number of
                # passes (and with it a resumed run) would change what the model draws.
                generator=torch.Generator().manual_seed(0),
            )
        batches = iter(self._loader)
        if self._workers and self._end is None:
            # Runs on close(), on garbage collection, and at the end of the process before multiprocessing waits for
            # daemons that it asks, by a blocked signal, to end.
            self._end = util.Finalize(self, _end_workers, args=(batches,), exitpriority=100)
        return _passed(batches)

    def close(self) -> None:
        """End the workers; the next pass would start new ones."""
        self._loader = None
        if self._end is not None:
            self._end()
            self._end = None


class _Guarded(Generic[Task, Batch]):
    """Hands a DataError on as a value: raised in a worker it would come out wrapped in the worker's traceback."""

    def __init__(self, build: Callable[[Task], Batch]) -> None:
        self.build = build

    def __call__(self, task: Task) -> Batch | DataError:
        try:
            return self.build(task)
        except DataError as error:
            return error


def _passed(batches: Iterator[Any]) -> Iterator[Any]:
    for batch in batches:
        if isinstance(batch, DataError):
            raise batch
        yield batch


def _unchanged(batch: Batch) -> Batch:
    return batch


def _start_forkserver() -> context.ForkServerContext:
    forking = get_context("forkserver")
    forking.set_forkserver_preload(_PRELOAD)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        # Started first and on its own: when starting it, Python unblocks SIGINT and SIGTERM.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return forking


def _begin_worker(worker: int) -> None:
    cv2.setNumThreads(0)
    # A helper that somebody else started may have left them unblocked.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    trainer = parent_process()
    assert trainer is not None
    threading.Thread(target=_end_with, args=(trainer.sentinel,), name=f"watch-{worker}", daemon=True).start()


def _end_with(sentinel: int) -> None:
    # torch's own watchdog looks at the parent's id, and the parent of this process is the helper, which lives on as
    # long as any worker does.
    connection.wait([sentinel])
    os._exit(1)


def _end_workers(batches: Any) -> None:
    # Private, but the only way to end persistent workers at a known moment; a no-op late in the program's exit, after
    # which only killing is left.
    batches._shutdown_workers()
    for process in batches._workers:
        if process.is_alive():
            process.kill()
            process.join()
