from __future__ import annotations

import os
import signal
from operator import neg

import pytest

from colocam_dist.errors import DataError
from colocam_dist.files import sha256_of
from shards.pool import run_jobs


def test_results_come_in_the_order_of_the_jobs() -> None:
    assert run_jobs(neg, [3, 1, 2], workers=1, title="t", unit="job") == [-3, -1, -2]


def test_no_jobs_have_no_results() -> None:
    assert run_jobs(neg, [], workers=4, title="t", unit="job") == []


@pytest.mark.slow
def test_results_come_in_the_order_of_the_jobs_from_processes() -> None:
    assert run_jobs(neg, list(range(20)), workers=3, title="t", unit="job") == [-n for n in range(20)]


def even(number: int) -> int:
    if number % 2:
        raise DataError(f"{number} is odd")
    return number


def test_all_failures_are_told_after_all_jobs_ran() -> None:
    with pytest.raises(DataError, match=r"2 of 4 jobs failed:\n1 is odd\n3 is odd"):
        run_jobs(even, [1, 2, 3, 4], workers=1, title="t", unit="job")
    with pytest.raises(DataError, match=r"\A3 is odd\Z"):
        run_jobs(even, [3, 4], workers=1, title="t", unit="job")


def test_errors_that_are_not_the_users_are_not_swallowed() -> None:
    with pytest.raises(TypeError):
        run_jobs(neg, ["x"], workers=1, title="t", unit="job")  # type: ignore[list-item]


@pytest.mark.slow
def test_errors_come_back_from_processes(tmp_path: object) -> None:
    with pytest.raises(FileNotFoundError):
        run_jobs(sha256_of, [tmp_path / "a", tmp_path / "b"], workers=2, title="t", unit="job")  # type: ignore[operator]


@pytest.mark.slow
def test_a_killed_process_does_not_hang_the_build() -> None:
    with pytest.raises(DataError, match="worker process was killed"):
        run_jobs(signal.raise_signal, [signal.SIGKILL, signal.SIGKILL], workers=2, title="t", unit="job")
    assert os.getpid()
