"""Faults in the middle of runs of two ranks: what is reported, how the run ends, and that it goes on."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.reliability_lab import Lab, Outcome, differences  # noqa: E402

SETTINGS = ("run.stages=[classifier]", "classifier.epochs=3", "checkpoint.every_steps=2", "engine.timeout=12")

STAGES = ("classifier.epochs=2", "localizer.epochs=1", "checkpoint.every_steps=3")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def whole(lab: Lab) -> Outcome:
    """An undisturbed run."""
    return lab.run("whole", *SETTINGS)


@pytest.fixture(scope="module")
def all_stages(lab: Lab) -> Outcome:
    """An undisturbed run of all stages."""
    return lab.run("all-stages", *STAGES)


def failed(outcome: Outcome) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((outcome.folder / "failed.json").read_text())
    return found


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param("hang@1:4:forward", marks=pytest.mark.slow),
        pytest.param("hang@0:4:save.write", marks=pytest.mark.slow),
        pytest.param("hang@0:4:data", marks=pytest.mark.long),
        pytest.param("hang@1:4:backward", marks=pytest.mark.long),
    ],
)
def test_a_rank_that_hangs_is_named_and_the_run_goes_on(lab: Lab, whole: Outcome, fault: str) -> None:
    culprit, phase = int(fault[5]), fault.rpartition(":")[2]
    name = fault.replace("@", "-").replace(":", "-")
    began = time.monotonic()
    hung = lab.run(name, *SETTINGS, f"fault={fault}", check=False)
    assert hung.code == 86
    assert time.monotonic() - began < whole.seconds + 12 + 10
    assert not lab.processes_of(name)
    log = (lab.folder / f"{name}.log").read_text()
    # Within two seconds of engine.timeout.
    assert re.search(rf"rank {culprit} made no progress for 1[2-4] s in classifier, {re.escape(phase)}", log)
    assert f"behind the others or silent: rank {culprit}. All ranks" in log
    assert "in strike" in (hung.folder / f"stacks-rank-{culprit}.txt").read_text()
    assert failed(hung)["type"] in ("Hang", "RankLostError")
    lab.run(name, *SETTINGS, "run.on_exists=resume")
    assert differences(whole.folder, hung.folder) == ""
    assert not (hung.folder / "failed.json").exists()


@pytest.mark.slow
def test_a_rank_that_dies_is_named_by_the_other(lab: Lab, whole: Outcome) -> None:
    dead = lab.run("dead", *SETTINGS, "fault=segfault@1:4:backward", check=False)
    assert dead.code == 128 + 11
    told = failed(dead)
    assert (told["type"], told["rank"]) == ("RankLostError", 0)
    assert "rank 1 is gone, last seen in classifier" in told["error"]


@pytest.mark.slow
def test_what_a_rank_died_of_is_not_hidden_by_what_the_others_say(lab: Lab) -> None:
    outcome = lab.run("exception", *SETTINGS, "fault=exception@1:4:backward", check=False)
    told = failed(outcome)
    assert (told["type"], told["rank"]) == ("RuntimeError", 1)
    assert "injected" in told["error"]


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 1])
def test_rolling_back_takes_the_weights_of_the_last_checkpoint(lab: Lab, zero: int) -> None:
    more = ("engine.non_finite=roll_back", f"engine.zero_stage={zero}", "checkpoint.every_steps=3")
    rolled = lab.run(f"rolled-{zero}", *SETTINGS, *more, "fault=nan@1:6:backward")
    log = (lab.folder / f"rolled-{zero}.log").read_text()
    assert "the gradients are not finite: optimizer step 6 is left out" in log
    assert "classifier rolls back to the weights of step 4" in log  # of the end of the first epoch
    losses = lab.losses(rolled.folder)
    assert len(losses) == 12
    rows = [json.loads(line) for line in (rolled.folder / "metrics.jsonl").read_text().splitlines()]
    assert max(row.get("left_out", 0) for row in rows) == 1


@pytest.mark.slow
def test_too_many_steps_in_a_row_that_are_not_finite_end_the_run(lab: Lab) -> None:
    faults = ",".join(f"nan@0:{step}:forward" for step in range(5, 9))
    outcome = lab.run("nan", *SETTINGS, "engine.non_finite=skip", f"fault={faults}", check=False)
    assert outcome.code == 2
    assert "the loss is not finite in 4 steps in a row" in failed(outcome)["error"]
    assert max(step for _, step in lab.losses(outcome.folder)) == 7


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_costs_one_interval(lab: Lab, whole: Outcome) -> None:
    outcome = lab.run("corrupt", *SETTINGS, "checkpoint.every_steps=1", "fault=corrupt@0:7:forward", restarts=1)
    log = (lab.folder / "corrupt.log").read_text()
    assert "step-00000006 is passed over: state.pt has changed" in log
    assert "classifier continues at step 5" in log
    assert differences(whole.folder, outcome.folder) == ""


@pytest.mark.slow
def test_a_slow_rank_is_waited_for(lab: Lab, whole: Outcome) -> None:
    outcome = lab.run("slow", *SETTINGS, "fault=slow@1:3:data,slow@0:5:backward")
    assert differences(whole.folder, outcome.folder) == ""


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["validate", "cams"])
def test_a_request_to_stop_outside_of_training_steps_is_heard(lab: Lab, all_stages: Outcome, phase: str) -> None:
    """One rank is asked; the others hear of it by the store, save, and the resumed run equals the undisturbed one."""
    name = f"asked-{phase}"
    fault = f"fault=ask@1:{8 if phase == 'validate' else 0}:{phase}"
    asked = lab.run(name, *STAGES, fault, check=False)
    assert asked.code == 85
    reason = json.loads((asked.folder / "preempted.json").read_text())["reason"]
    assert "SIGUSR1 on rank 1" in reason
    resumed = lab.run(name, *STAGES, "run.on_exists=resume")
    assert differences(all_stages.folder, resumed.folder) == ""
