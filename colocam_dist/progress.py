"""Where a process is in its work: said by those who work, read by those who watch it or ask it to stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Position", "Progress"]

_WITHIN_STEP = ("data", "forward", "exchange", "backward", "optimizer")


@dataclass(frozen=True)
class Position:
    """A moment of a run.

    Attributes:
        stage: name of the training stage; "" before the first.
        step: optimizer steps done in this stage.
        phase: what is being done: data, forward, exchange (of losses between ranks), backward and optimizer within a
            step; save.gather, save.write, ... and validate after one; start, cams, evaluate. Where all that is left to
            do is to wait for other ranks, ".wait" is appended.
        since: monotonic seconds of the last sign of progress.
    """

    stage: str = ""
    step: int = 0
    phase: str = "start"
    since: float = 0.0

    @property
    def number(self) -> int:
        """The step that this belongs to, counted from 1: the one in progress, or the last one done; 0 = none."""
        return self.step + (self.phase in _WITHIN_STEP)

    @property
    def order(self) -> tuple[int, int]:
        """How far the rank is: among ranks that work together, those with the smallest value hold up the others."""
        waits = self.phase.endswith(".wait")
        within = _WITHIN_STEP.index(self.phase) if self.phase in _WITHIN_STEP else len(_WITHIN_STEP)
        return self.number, within + waits

    def __str__(self) -> str:
        if not self.stage:
            return self.phase
        return f"{self.stage}, {self.phase} {'of' if self.phase in _WITHIN_STEP else 'after'} step {self.number}"


class Progress:
    """The position of this process, replaced as a whole so that other threads always read a consistent one.

    Attributes:
        position: where the process is now.
        stop_reason: who asked this run to stop, or None; loops outside of training steps look at it.
        on_enter: called with each new position; what it returns is handed to whoever entered the phase.
    """

    def __init__(self) -> None:
        self.position = Position(since=time.monotonic())
        self.stop_reason: Callable[[], str | None] = lambda: None
        self.on_enter: Callable[[Position], str | None] = lambda position: None

    def enter(self, phase: str, *, stage: str | None = None, step: int | None = None) -> str | None:
        """Begin a phase; stage and step stay as they were unless they are given."""
        now = self.position
        self.position = Position(
            now.stage if stage is None else stage, now.step if step is None else step, phase, time.monotonic()
        )
        return self.on_enter(self.position)

    def tick(self) -> None:
        """Say that the phase advances, in loops that stay in one phase for long."""
        now = self.position
        self.position = Position(now.stage, now.step, now.phase, time.monotonic())
