"""Independent jobs in processes that end with their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tqdm import tqdm

from colocam_dist.errors import ColocamError, DataError

__all__ = ["run_jobs"]

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_jobs(
    work: Callable[[Job], Result], jobs: Sequence[Job], *, workers: int, title: str, unit: str
) -> list[Result]:
    """Do all jobs, in this process if there is one worker or job, with a progress bar on a terminal.

    A job that fails with a user error does not stop the others, so that their results are there for the next build.

    Args:
        work: a function that another process can import.
        jobs: what to call it with; picklable.
        workers: number of processes.
        title: heads the progress bar.
        unit: what a job is, for the progress bar.

    Returns:
        The results in the order of the jobs.

    Raises:
        DataError: jobs failed (all their messages), or a process was killed.
    """
    results: dict[int, Result] = {}
    failures: dict[int, ColocamError] = {}
    run = _run_here if workers == 1 or len(jobs) <= 1 else _run_in_processes
    with tqdm(total=len(jobs), desc=title, unit=unit, disable=None) as bar:
        for position, outcome in run(work, jobs, workers):
            if isinstance(outcome, ColocamError):
                failures[position] = outcome
            else:
                results[position] = outcome
            bar.update()
    if len(failures) == 1:
        raise next(iter(failures.values()))
    if failures:
        listing = "".join(f"\n{failures[position]}" for position in sorted(failures))
        raise DataError(f"{len(failures)} of {len(jobs)} {unit}s failed:{listing}")
    return [results[position] for position in range(len(jobs))]


def _run_here(
    work: Callable[[Job], Result], jobs: Sequence[Job], workers: int
) -> Iterator[tuple[int, Result | ColocamError]]:
    for position, job in enumerate(jobs):
        yield position, _outcome(work, job)


def _run_in_processes(
    work: Callable[[Job], Result], jobs: Sequence[Job], workers: int
) -> Iterator[tuple[int, Result | ColocamError]]:
    # Fresh interpreters: a fork would copy the locks of whatever threads run here.
    before = set(multiprocessing.active_children())
    executor = ProcessPoolExecutor(
        min(workers, len(jobs)), mp_context=multiprocessing.get_context("spawn"), initializer=_follow_parent
    )
    try:
        futures = {executor.submit(_outcome, work, job): position for position, job in enumerate(jobs)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process was killed",
            got=error,
            fix="mostly too little memory: try fewer --workers",
        ) from error
    except BaseException:
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def _outcome(work: Callable[[Job], Result], job: Job) -> Result | ColocamError:
    try:
        return work(job)
    except ColocamError as error:
        return error


def _follow_parent() -> None:
    """Leave Ctrl-C to the parent, and die at once when it does, however it dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in worker processes only"

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
