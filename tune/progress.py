"""What is told while a study goes on: a table that is drawn again, or lines where there is no terminal."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

__all__ = ["Progress"]

log = logging.getLogger(__name__)

_ROWS = 20


@dataclass
class _Line:
    number: int
    shown: str
    epochs: int
    state: str = "begun"
    epoch: int = 0
    corloc: float | None = None
    best: float | None = None
    began: float = field(default_factory=time.monotonic)
    changed: float = field(default_factory=time.monotonic)


class Progress:
    """The trials of this session.

    Args:
        title: name of the study.
        total: trials that are to be done; None = not known.
    """

    def __init__(self, title: str, total: int | None) -> None:
        self._title = title
        self._total = total
        self._lines: dict[str, _Line] = {}
        self._live = None
        if sys.stderr.isatty():
            self._live = Live(get_renderable=self._table, console=Console(stderr=True), refresh_per_second=1)

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *ended: object) -> None:
        if self._live is not None:
            self._live.stop()

    def begun(self, id: str, facts: Mapping[str, Any]) -> None:
        """A trial has begun, or goes on after a pause."""
        self._line(id, facts).changed = time.monotonic()

    def row(self, id: str, facts: Mapping[str, Any], row: Mapping[str, Any]) -> None:
        """A trial has a new figure.

        Args:
            id: of the trial.
            facts: of its record.
            row: see :meth:`tune.running.TrialRunner.next`.
        """
        line = self._line(id, facts)
        line.state, line.epoch, line.corloc, line.best = "running", row["epoch"], row["corloc"], row["best_corloc"]
        line.changed = time.monotonic()
        if self._live is None:
            log.info("%s  epoch %d/%d  CorLoc %.1f", line.shown, line.epoch, line.epochs, row["corloc"])

    def over(self, id: str, facts: Mapping[str, Any], state: str, why: str = "") -> None:
        """A trial is over."""
        line = self._line(id, facts)
        line.state, line.changed = state, time.monotonic()
        if self._live is None or state == "failed":
            best = "" if line.best is None else f", best CorLoc {line.best:.1f}"
            log.info("%s  %s%s  (%s)%s", line.shown, state, best, self._count(), f"\n{why}" if why else "")

    def _line(self, id: str, facts: Mapping[str, Any]) -> _Line:
        if id not in self._lines:
            shown = " ".join(f"{name.rpartition('.')[2]}={value}" for name, value in facts["shown"].items())
            self._lines[id] = _Line(len(self._lines) + 1, f"{shown} seed={facts['seed']}", facts["epochs"])
        return self._lines[id]

    def _count(self) -> str:
        over = sum(line.state in ("finished", "stopped", "failed") for line in self._lines.values())
        return f"{over} of {self._total}" if self._total else f"{over} over"

    def _table(self) -> Table:
        best = max((line.best for line in self._lines.values() if line.best is not None), default=None)
        figure = "" if best is None else f", best CorLoc {best:.1f}"
        table = Table(title=f"{self._title}: {self._count()}{figure}", title_justify="left")
        for name in ("#", "point", "state", "epoch", "CorLoc", "best", "time"):
            table.add_column(name, justify="left" if name in ("point", "state") else "right")
        newest = sorted(self._lines.values(), key=lambda line: (line.state not in ("begun", "running"), -line.changed))[
            :_ROWS
        ]
        for line in sorted(newest, key=lambda line: line.number):
            end = time.monotonic() if line.state in ("begun", "running") else line.changed
            figures = ["" if value is None else f"{value:.1f}" for value in (line.corloc, line.best)]
            style = {"failed": "red", "finished": "green", "stopped": "dim"}.get(line.state)
            cells = (str(line.number), escape(line.shown), line.state, f"{line.epoch}/{line.epochs}")
            table.add_row(*cells, *figures, _clock(end - line.began), style=style)
        return table


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest:02d}"
