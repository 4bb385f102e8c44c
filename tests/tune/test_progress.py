"""What is told while a study goes on: lines where there is no terminal, a table where there is one."""

from __future__ import annotations

import io
import logging
from typing import Any

import pytest
from rich.console import Console

from tune import progress
from tune.progress import Progress

FACTS = {"shown": {"data.n_frames": 4, "localizer.loss.colocalization.weight": 0.5}, "seed": 3, "epochs": 10}


def row(epoch: int, corloc: float, best: float) -> dict[str, Any]:
    return {"epoch": epoch, "corloc": corloc, "best_corloc": best}


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Any:
    """What was told so far."""
    caplog.set_level(logging.INFO, logger="tune.progress")
    return lambda: [record.getMessage() for record in caplog.records]


def test_without_a_terminal_there_are_lines(lines: Any) -> None:
    with Progress("study", 3) as told:
        told.row("a", FACTS, row(1, 10.04, 10.04))
        told.row("a", FACTS, row(2, 9.0, 10.04))
        told.over("a", FACTS, "finished")
        told.over("b", {**FACTS, "shown": {"x": "y"}}, "failed", "loss is NaN")
    assert lines() == [
        "n_frames=4 weight=0.5 seed=3  epoch 1/10  CorLoc 10.0",
        "n_frames=4 weight=0.5 seed=3  epoch 2/10  CorLoc 9.0",
        "n_frames=4 weight=0.5 seed=3  finished, best CorLoc 10.0  (1 of 3)",
        "x=y seed=3  failed  (2 of 3)\nloss is NaN",
    ]


def test_what_was_replaced_is_not_over_in_the_sense_of_the_study(lines: Any) -> None:
    told = Progress("study", None)
    for state in ("replaced", "stopped"):
        told.over(state, FACTS, state)
    assert [line.partition("(")[2] for line in lines()] == ["0 over)", "1 over)"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drawn(told: Progress) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(told._table())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """To be called in the test: pytest has its own before."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    return terminal


def test_on_a_terminal_there_is_a_table_and_failures_only_are_told(monkeypatch: pytest.MonkeyPatch, lines: Any) -> None:
    terminal = on_terminal(monkeypatch)
    with Progress("study", 3) as told:
        told.row("a", FACTS, row(1, 10.04, 10.04))
        told.row("b", {**FACTS, "seed": 4}, row(2, 9.0, 12.5))
        told.over("b", FACTS, "finished")
        told.over("c", {**FACTS, "seed": 5, "epochs": 0}, "failed", "loss is NaN")
    assert lines() == ["n_frames=4 weight=0.5 seed=5  failed  (2 of 3)\nloss is NaN"]
    assert "study: 2 of 3, best CorLoc 12.5" in terminal.getvalue()
    text = drawn(told)
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.count("│") > 2]
    assert [line[:6] for line in cells] == [
        ["1", "n_frames=4 weight=0.5 seed=3", "running", "1/10", "10.0", "10.0"],
        ["2", "n_frames=4 weight=0.5 seed=4", "finished", "2/10", "9.0", "12.5"],
        ["3", "n_frames=4 weight=0.5 seed=5", "failed", "0/0", "", ""],
    ]


def test_a_long_study_shows_those_that_run_and_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    on_terminal(monkeypatch)
    told = Progress("study", 50)
    told.row("first", {**FACTS, "seed": 1000}, row(1, 1.0, 1.0))
    for seed in range(40):
        told.over(f"t{seed}", {**FACTS, "seed": seed}, "finished")
    text = drawn(told)
    assert "seed=1000" in text
    assert [f"seed={seed} " in text for seed in (20, 21, 39)] == [False, True, True]


def test_words_of_the_user_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    on_terminal(monkeypatch)
    told = Progress("study", None)
    told.row("a", {**FACTS, "shown": {"method": "[red]x[/] [/y]"}}, row(1, 1.0, 1.0))
    assert "method=[red]x[/] [/y] seed=3" in drawn(told)


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.0, "00:00:00"), (59.9, "00:00:59"), (3661.0, "01:01:01"), (100 * 3600.0, "100:00:00")]
)
def test_days_are_told_in_hours(seconds: float, shown: str) -> None:
    assert progress._clock(seconds) == shown
