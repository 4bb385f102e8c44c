from __future__ import annotations

import errno
import logging
from collections.abc import Callable

import pytest

from colocam_dist.data import retry as module
from colocam_dist.data.retry import WRITING, Retry, WrongCopyError, retried
from colocam_dist.errors import DataError


class Answer(Exception):
    """An HTTP answer, as aiohttp raises it."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


Answer.__module__ = "aiohttp.client_exceptions"


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What would have been waited."""
    waited: list[float] = []
    monkeypatch.setattr(module.time, "sleep", waited.append)
    return waited


def failing(*errors: Exception) -> Callable[[], str]:
    left = list(errors)

    def action() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return action


def test_it_goes_on_until_it_succeeds(pauses: list[float], caplog: pytest.LogCaptureFixture) -> None:
    errors = [ConnectionResetError("gone"), Answer(503), WrongCopyError("short"), TimeoutError()]
    with caplog.at_level(logging.WARNING):
        assert retried(failing(*errors), Retry(tries=5, pause=1.0), "s3://b/x") == "done"
    assert len(pauses) == 4
    for number, pause in enumerate(pauses):
        assert 0.75 * 2**number <= pause <= 1.25 * 2**number
    assert "s3://b/x: ConnectionResetError: gone; try 2 of 5" in caplog.text


def test_pauses_are_bounded(pauses: list[float]) -> None:
    with pytest.raises(DataError):
        retried(failing(*[Answer(500)] * 20), Retry(tries=12), "x")
    assert len(pauses) == 11
    assert max(pauses) <= 37.5


def test_it_gives_up_and_says_so(pauses: list[float]) -> None:
    with pytest.raises(DataError, match=r"(?s)where: s3://b/x.*TimeoutError: slow \(3 tries\).*credentials"):
        retried(failing(*[TimeoutError("slow")] * 9), Retry(tries=3), "s3://b/x")


def test_a_failure_says_what_it_was_for(pauses: list[float]) -> None:
    with pytest.raises(DataError, match=r"cannot be written(.|\n)*--output-option(.|\n)*build again"):
        retried(failing(TimeoutError()), Retry(tries=1), "s3://b/x", WRITING)


@pytest.mark.parametrize("error", [Answer(403), Answer(401), PermissionError("no"), KeyError("bug")])
def test_what_will_not_change_is_not_tried_again(error: Exception, pauses: list[float]) -> None:
    with pytest.raises(DataError, match=r"\(1 try\)"):
        retried(failing(error), Retry(), "x")
    assert pauses == []


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_what_may_change_is(status: int, pauses: list[float]) -> None:
    assert retried(failing(Answer(status)), Retry(), "x") == "done"
    assert len(pauses) == 1


def test_absent_files_and_a_full_disk_are_for_the_caller(pauses: list[float]) -> None:
    with pytest.raises(FileNotFoundError):
        retried(failing(FileNotFoundError("x")), Retry(), "x")
    with pytest.raises(OSError, match="space"):
        retried(failing(OSError(errno.ENOSPC, "no space")), Retry(), "x")
    assert pauses == []
