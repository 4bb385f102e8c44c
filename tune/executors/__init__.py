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
        final: whether a new start would not help.
    """

    def __init__(self, message: str, traceback: str = "", *, final: bool = True) -> None:
        super().__init__(message)
        self.traceback = traceback
        self.final = final


class Work(Protocol):
    """The processes of one run."""

    def begin(self, config: Config) -> None:
        """Start them, or find them again; whatever they did before is kept."""

    def living(self) -> bool:
        """Whether there are some, or will be."""

    def end(self) -> None:
        """Ask them to save and leave, and wait until they are gone."""

    @property
    def killed(self) -> bool:
        """Whether they were killed from outside, so that it is not their fault."""

    def last_words(self) -> str:
        """What they said last; "" = nothing."""
