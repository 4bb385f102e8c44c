"""Who does the runs of a study: processes on this machine, or SLURM jobs."""

from __future__ import annotations

from typing import Protocol

from colocam_dist.config import Config

__all__ = ["Work", "WorkError"]


class WorkError(RuntimeError):
    """A run ended without success.

    Args:
        message: what it died of.
        traceback: the same in full; "" = there is none.
    """

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback


class Work(Protocol):
    """The processes of one run."""

    def begin(self, config: Config) -> None:
        """Start them, or find them again; whatever they did before is kept."""

    def living(self) -> bool:
        """Whether there are some, or will be."""

    def leave(self) -> None:
        """Let go of them: processes on this machine save and leave, a job goes on."""

    @property
    def killed(self) -> bool:
        """Whether they were killed from outside, so that it is not their fault."""

    def last_words(self) -> str:
        """What they said last; "" = nothing."""
