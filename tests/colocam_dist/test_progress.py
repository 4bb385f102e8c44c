from __future__ import annotations

import time

import pytest

from colocam_dist.progress import Position, Progress


def test_phases_keep_stage_and_step_until_they_are_given() -> None:
    progress = Progress()
    progress.enter("data", stage="localizer", step=4)
    progress.enter("forward")
    assert (progress.position.stage, progress.position.step, progress.position.phase) == ("localizer", 4, "forward")
    progress.enter("save.write", step=5)
    assert (progress.position.stage, progress.position.step) == ("localizer", 5)


@pytest.mark.parametrize(
    ("position", "number", "text"),
    [
        (Position("localizer", 4, "backward"), 5, "localizer, backward of step 5"),
        (Position("localizer", 5, "save.seal"), 5, "localizer, save.seal after step 5"),
        (Position("", 0, "evaluate"), 0, "evaluate"),
    ],
)
def test_steps_are_counted_from_one(position: Position, number: int, text: str) -> None:
    assert position.number == number
    assert str(position) == text


def test_order_tells_who_holds_up_whom() -> None:
    phases = ["data", "forward", "exchange", "backward", "optimizer"]
    in_turn = [Position("classifier", step, phase) for step in (3, 4) for phase in phases]
    assert [position.order for position in in_turn] == sorted(position.order for position in in_turn)
    working, waiting = Position("classifier", 4, "save.write"), Position("classifier", 4, "save.wait")
    assert working.order < waiting.order
    assert Position("classifier", 4, "validate").order < Position("classifier", 4, "validate.wait").order


def test_a_tick_is_progress_in_the_same_place() -> None:
    progress = Progress()
    progress.enter("validate", stage="classifier", step=7)
    before = progress.position
    time.sleep(0.01)
    progress.tick()
    assert progress.position.since > before.since
    assert str(progress.position) == str(before)


def test_what_listens_hears_every_phase_and_answers_who_entered_it() -> None:
    progress, heard = Progress(), []

    def listen(position: Position) -> str:
        heard.append(position.phase)
        return "nan"

    progress.on_enter = listen
    assert progress.enter("forward") == "nan"
    progress.tick()
    assert heard == ["forward"]
