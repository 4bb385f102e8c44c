"""How commands end; what a GPU would do, with a process group that only seems to be there."""

from __future__ import annotations

import os

import pytest
import torch
import torch.distributed as dist

from colocam_dist.console import run_console
from colocam_dist.distributed import Workers
from colocam_dist.errors import ConfigError, MemoryLimitError, PreemptedError


class Left(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        raise Left

    monkeypatch.setattr(os, "_exit", leave)
    return codes


def ending(error: Exception | None, code: int = 0) -> None:
    def main() -> int:
        if error is not None:
            raise error
        return code

    run_console(main)


CASES = [
    (None, 0),
    (PreemptedError("stop"), 85),
    (MemoryLimitError("too little"), 87),
    (ConfigError("wrong"), 2),
    (KeyboardInterrupt(), 130),
]


@pytest.mark.parametrize(("error", "code"), CASES)
def test_an_orderly_end_has_its_code(error: Exception | None, code: int, left: list[int]) -> None:
    with pytest.raises(SystemExit) as caught:
        ending(error)
    assert caught.value.code == code
    assert left == []


@pytest.mark.parametrize(("error", "code"), [*CASES, (ZeroDivisionError("bug"), 1)])
def test_a_process_whose_peers_are_at_work_does_not_wait_for_them(
    error: Exception | None,
    code: int,
    left: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    with pytest.raises(Left):
        ending(error)
    assert left == [code]
    if error is not None and str(error):
        assert str(error) in capfd.readouterr().err


def test_an_error_of_the_program_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        ending(ZeroDivisionError("bug"))


@pytest.mark.parametrize(
    ("device", "together", "destroyed"), [("cuda", True, 1), ("cuda", False, 0), ("cpu", True, 1), ("cpu", False, 1)]
)
def test_only_all_ranks_together_can_end_a_group_of_nccl(
    device: str, together: bool, destroyed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[None] = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: ends.append(None))
    Workers(0, 0, 2, torch.device(device)).close(together=together)
    assert len(ends) == destroyed
