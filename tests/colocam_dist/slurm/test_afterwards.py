"""What becomes of a job when its ranks have ended."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from colocam_dist.slurm.afterwards import FRUITLESS, REQUEUE, Verdict, decide, main, seconds_of
from colocam_dist.slurm.record import Part, SlurmFolder, Submission, attempts_of

MARK = '{"stages": ["classifier", "cams", "localizer", "evaluate"]}'


ROOT = Path(__file__).parents[3]
RUNNING = {
    "JobState": "RUNNING",
    "Restarts": "0",
    "RunTime": "00:10:00",
    "TimeLimit": "01:00:00",
    "PreemptTime": "None",
}
LIMITS = Submission(("/runs/a",), (Part(("classifier",)),), "/", max_requeues=5, max_restarts=3, warning=120)


def verdict(
    code: int,
    *,
    job: dict[str, str] | None = None,
    earlier: tuple[dict[str, Any], ...] = (),
    done: bool = False,
    saved: tuple[str, ...] = (),
) -> Verdict:
    return decide(code, RUNNING | (job or {}), earlier, LIMITS, done=done, saved=saved)


def ended(reason: str, *saved: str, requeue: bool = True) -> dict[str, Any]:
    return {"reason": reason, "requeue": requeue, "saved": list(saved)}


@pytest.mark.parametrize("code", [0, 1, 2, 85, 87, 137])
@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING", "CANCELLED"])
def test_a_part_whose_last_file_is_there_is_done_whatever_else(code: int, state: str) -> None:
    assert verdict(code, job={"JobState": state}, done=True) == Verdict("done")


@pytest.mark.parametrize("code", [0, 1, 85, 137, 143])
@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED", "TIMEOUT", "REQUEUED", "NODE_FAIL"])
def test_a_job_that_slurm_has_ended_is_never_requeued(code: int, state: str) -> None:
    assert verdict(code, job={"JobState": state}) == Verdict(f"ended by SLURM: {state}")


def test_a_job_of_which_slurm_says_nothing_is_not_requeued() -> None:
    assert decide(85, {}, [], LIMITS, done=False, saved=[]) == Verdict("ended by SLURM: unknown")


@pytest.mark.parametrize("code", [85, 128 + 10, 128 + 12, 128 + 15])
@pytest.mark.parametrize(
    ("job", "reason"),
    [
        ({}, "asked to stop"),
        ({"PreemptTime": "2026-11-25T15:42:18"}, "preempted"),
        ({"PreemptTime": "2026-11-25T15:42:18", "RunTime": "00:59:00"}, "preempted"),
        ({"RunTime": "00:58:00"}, "time limit"),
        ({"RunTime": "00:56:45"}, "time limit"),
        ({"RunTime": "00:56:44"}, "asked to stop"),
        ({"RunTime": "01:00:20"}, "time limit"),
        ({"TimeLimit": "UNLIMITED"}, "asked to stop"),
        ({"TimeLimit": "UNLIMITED", "RunTime": "INVALID"}, "asked to stop"),
        ({"TimeLimit": "2-00:00:00", "RunTime": "1-23:59:00"}, "time limit"),
    ],
)
def test_a_run_that_was_asked_to_stop_is_requeued(code: int, job: dict[str, str], reason: str) -> None:
    assert verdict(code, job=job) == Verdict(reason, requeue=True)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (0, "failure: all ranks ended without an error, but the part is not done"),
        (2, "error, which a new start does not mend"),
        (87, "out of memory"),
    ],
)
def test_what_a_new_start_does_not_mend_is_not_requeued(code: int, reason: str) -> None:
    assert verdict(code) == Verdict(reason)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (1, "failure: exit code 1"),
        (86, "failure: exit code 86, lost another rank, or hung"),
        (134, "failure: exit code 134, abort"),
        (137, "failure: exit code 137, killed"),
        (139, "failure: exit code 139, segmentation fault"),
    ],
)
def test_a_failure_is_requeued(code: int, reason: str) -> None:
    assert verdict(code) == Verdict(reason, requeue=True)


def test_restarts_after_failures_come_to_an_end() -> None:
    failures = [ended(f"failure: exit code {code}", str(code)) for code in (3, 4, 5)]
    assert verdict(1, earlier=tuple(failures[:2])) == Verdict("failure: exit code 1", requeue=True)
    refusal = "it has been started again 3 times after failures"
    assert verdict(1, earlier=tuple(failures)) == Verdict("failure: exit code 1", refusal=refusal)


def test_only_requeued_failures_count_as_restarts() -> None:
    others = (
        *(ended(reason) for reason in ("time limit", "preempted", "asked to stop") * 2),
        *(ended("failure: exit code 3", str(number), requeue=False) for number in range(4)),
        *(ended(reason, requeue=False) for reason in ("out of memory", "error: of settings")),
    )
    assert verdict(1, earlier=others) == Verdict("failure: exit code 1", requeue=True)
    assert verdict(85, earlier=tuple(ended("failure: exit code 1", str(number)) for number in range(9))).requeue


def test_the_same_failure_without_a_new_checkpoint_is_not_tried_forever() -> None:
    killed = "failure: exit code 137, killed"
    refusal = f"it failed {FRUITLESS} times in a row without a new checkpoint"
    assert FRUITLESS == 3
    assert verdict(137, earlier=(ended(killed, "4"),), saved=("4",)).requeue
    assert verdict(137, earlier=(ended(killed, "4"),) * 2, saved=("4",)) == Verdict(killed, refusal=refusal)
    assert verdict(137, earlier=(ended(killed),) * 2) == Verdict(killed, refusal=refusal)


@pytest.mark.parametrize(
    "earlier",
    [
        (ended("failure: exit code 137, killed", "3"), ended("failure: exit code 137, killed", "4")),
        (ended("failure: exit code 137, killed", "4"), ended("failure: exit code 1", "4")),
        (ended("failure: exit code 137, killed", "4"), ended("time limit", "4")),
        (ended("failure: exit code 137, killed", "4"), ended("failure: exit code 137, killed", "4", "1")),
    ],
    ids=["a checkpoint between them", "another failure", "no failure at all", "a checkpoint of another stage"],
)
def test_progress_and_other_ends_begin_the_row_anew(earlier: tuple[dict[str, Any], ...]) -> None:
    assert verdict(137, earlier=earlier, saved=("4",)).requeue


@pytest.mark.parametrize(
    ("code", "reason"), [(85, "asked to stop"), (143, "asked to stop"), (1, "failure: exit code 1")]
)
def test_requeues_come_to_an_end_whoever_asked_for_them(code: int, reason: str) -> None:
    assert verdict(code, job={"Restarts": "4"}) == Verdict(reason, requeue=True)
    for requeues in ("5", "6"):
        expected = Verdict(reason, refusal=f"it has been requeued {requeues} times")
        assert verdict(code, job={"Restarts": requeues}) == expected


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("00:00:06", 6),
        ("01:00:00", 3600),
        ("1-02:03:04", 93784),
        ("10-00:00:00", 864000),
        ("05:30", 330),
        ("UNLIMITED", math.inf),
        ("Partition_Limit", math.inf),
        ("INVALID", math.inf),
        ("N/A", math.inf),
        ("", math.inf),
        ("x-00:00:01", math.inf),
    ],
)
def test_times_of_scontrol_are_seconds(time: str, seconds: float) -> None:
    assert seconds_of(time) == seconds


def line(**fields: str) -> str:
    """As ``scontrol show job --oneliner`` prints it."""
    first = {"JobId": "7", "JobName": "a", "Requeue": "1"}
    return " ".join(f"{name}={value}" for name, value in (first | RUNNING | fields).items())


def afterwards(folder: SlurmFolder, code: int, part: int = 0, job: str = "7", **fields: str) -> int:
    return main([str(folder.run), f"--part={part}", f"--code={code}", f"--id={job}", "--job", line(**fields)])


def rows(run: Path) -> list[dict[str, Any]]:
    """The attempts of a run without their times."""
    found = attempts_of(run)
    assert all(row.pop("time") for row in found)
    return found


def test_a_done_part_ends_well(submitted: Callable[..., SlurmFolder], capsys: pytest.CaptureFixture[str]) -> None:
    folder = submitted()
    (folder.run / "done.json").write_text(MARK)
    assert afterwards(folder, 0) == 0
    end = {"event": "end", "part": "classifier", "job": "7", "code": 0, "reason": "done", "requeue": False, "saved": []}
    assert rows(folder.run) == [end]
    assert not (folder.run / "failed.json").exists()
    assert capsys.readouterr().err == "done; the job ends\n"


def test_a_job_that_goes_on_leaves_no_failure(
    submitted: Callable[..., SlurmFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = submitted()
    assert afterwards(folder, 85, RunTime="00:59:00") == REQUEUE
    assert afterwards(folder, 137) == REQUEUE
    assert [(row["code"], row["reason"], row["requeue"]) for row in rows(folder.run)] == [
        (85, "time limit", True),
        (137, "failure: exit code 137, killed", True),
    ]
    assert not (folder.run / "failed.json").exists()
    assert capsys.readouterr().err.splitlines()[0] == "time limit; the job is requeued"


@pytest.mark.parametrize(
    ("code", "fields", "left", "error"),
    [
        (0, {}, 1, "failure: all ranks ended without an error, but the part is not done"),
        (2, {}, 2, "error, which a new start does not mend"),
        (87, {}, 87, "out of memory"),
        (143, {"JobState": "CANCELLED"}, 143, "ended by SLURM: CANCELLED"),
        (85, {"JobState": "COMPLETING"}, 1, "ended by SLURM: COMPLETING"),
        (85, {"Restarts": "100"}, 1, "asked to stop; not requeued: it has been requeued 100 times"),
    ],
)
def test_a_job_that_ends_says_why_and_never_leaves_with_the_code_for_requeueing(
    code: int, fields: dict[str, str], left: int, error: str, submitted: Callable[..., SlurmFolder]
) -> None:
    folder = submitted()
    assert afterwards(folder, code, **fields) == left
    assert json.loads((folder.run / "failed.json").read_text()) == {"error": error, "type": "ClusterError"}


def test_what_the_run_said_itself_stays(submitted: Callable[..., SlurmFolder]) -> None:
    folder = submitted(max_restarts=0)
    (folder.run / "failed.json").write_text('{"error": "of the run"}')
    assert afterwards(folder, 1) == 1
    assert (folder.run / "failed.json").read_text() == '{"error": "of the run"}'
    assert rows(folder.run)[0]["requeue"] is False


def test_it_remembers_earlier_attempts_and_looks_for_new_checkpoints(
    submitted: Callable[..., SlurmFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = submitted(max_restarts=100)
    newest = folder.run / "checkpoints/classifier/latest.json"
    newest.parent.mkdir(parents=True)
    newest.write_text("first")
    assert [afterwards(folder, 137) for _ in range(2)] == [REQUEUE] * 2
    newest.write_text("second")
    assert [afterwards(folder, 137) for _ in range(3)] == [REQUEUE, REQUEUE, 137]
    assert [row["saved"] for row in rows(folder.run)] == [["first"]] * 2 + [["second"]] * 3
    assert "without a new checkpoint" in capsys.readouterr().err
    assert "without a new checkpoint" in json.loads((folder.run / "failed.json").read_text())["error"]


def test_the_job_of_a_resumed_run_has_restarts_of_its_own(submitted: Callable[..., SlurmFolder]) -> None:
    folder = submitted(max_restarts=2)
    for job in ("7", "8"):
        assert [afterwards(folder, 137, job=job) for _ in range(3)] == [REQUEUE, REQUEUE, 137]


def test_parts_of_a_chain_are_counted_apart(submitted: Callable[..., SlurmFolder]) -> None:
    folder = submitted(
        parts=(Part(("classifier",), "done-classifier.json"), Part(("cams", "localizer"))), max_restarts=1
    )
    assert afterwards(folder, 1) == REQUEUE
    (folder.run / "done-classifier.json").write_text(MARK)
    assert afterwards(folder, 0) == 0
    assert afterwards(folder, 1, part=1) == REQUEUE
    assert afterwards(folder, 1, part=1) == 1
    assert [row["part"] for row in rows(folder.run)] == ["classifier"] * 2 + ["cams+localizer"] * 2


def test_a_task_of_an_array_tells_of_its_own_run(
    submitted: Callable[..., SlurmFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = submitted(runs=("a", "b"))
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    (folder.run.parent / "a/done.json").write_text(MARK)
    assert afterwards(folder, 2, job="7_1") == 2
    runs = [folder.run.parent / name for name in ("a", "b")]
    assert [[row["job"] for row in rows(run)] for run in runs] == [[], ["7_1"]]
    assert [(run / "failed.json").exists() for run in runs] == [False, True]


def test_the_standard_library_is_enough(submitted: Callable[..., SlurmFolder]) -> None:
    folder = submitted()
    words = [str(folder.run), "--part=0", "--code=85", "--id=7", "--job", line(TimeLimit="UNLIMITED")]
    without_packages = [sys.executable, "-S", "-m", "colocam_dist.slurm.afterwards", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(without_packages, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (REQUEUE, "asked to stop; the job is requeued\n")


def test_nothing_heavy_is_imported_to_decide() -> None:
    heavy = {"torch", "numpy", "pydantic", "yaml", "submitit"}
    code = f"import sys, colocam_dist.slurm.afterwards; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("DataError", "error, which a new start does not mend"),
        ("MemoryLimitError", "out of memory"),
        ("RankLostError", "failure: exit code 86, lost another rank, or hung"),
    ],
)
def test_the_error_of_one_rank_counts_and_not_the_higher_code_of_those_who_lost_it(
    kind: str, reason: str, submitted: Callable[..., SlurmFolder]
) -> None:
    folder = submitted()
    (folder.run / "failed.json").write_text(json.dumps({"error": "no luck", "type": kind}))
    assert afterwards(folder, 86) == (REQUEUE if kind == "RankLostError" else 86)
    assert attempts_of(folder.run)[-1]["reason"] == reason


def test_a_time_that_ends_before_anything_is_saved_does_not_go_on_forever() -> None:
    ends = [{"reason": "time limit", "saved": [], "requeue": True}] * 2
    near = RUNNING | {"RunTime": "00:59:00"}
    assert decide(REQUEUE, near, ends[:1], LIMITS, done=False, saved=[]).requeue
    stopped = decide(REQUEUE, near, ends, LIMITS, done=False, saved=[])
    assert (stopped.reason, stopped.requeue) == ("time limit", False)
    assert "3 times in a row" in stopped.refusal
    assert decide(REQUEUE, near, ends, LIMITS, done=False, saved=["step-1"]).requeue


@pytest.mark.parametrize("new", ["trials/a/checkpoints/localizer/latest.json", "records/b/end.json"])
def test_checkpoints_and_ends_of_the_trials_of_a_study_are_progress(
    new: str, submitted: Callable[..., SlurmFolder]
) -> None:
    folder = submitted(max_restarts=100)
    first = folder.run / "classifiers/c/checkpoints/classifier/latest.json"
    first.parent.mkdir(parents=True)
    first.write_text("first")
    assert [afterwards(folder, 137) for _ in range(2)] == [REQUEUE] * 2
    (folder.run / new).parent.mkdir(parents=True)
    (folder.run / new).write_text("second")
    assert [afterwards(folder, 137) for _ in range(3)] == [REQUEUE, REQUEUE, 137]
    assert [row["saved"] for row in rows(folder.run)] == [["first"]] * 2 + [["first", "second"]] * 3
