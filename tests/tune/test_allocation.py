"""What a job that holds a study does; the job itself is in tests/slurm."""

from __future__ import annotations

import pytest

from tune.allocation import driver_words


@pytest.mark.parametrize(
    ("given", "begun", "requeued", "words"),
    [
        (["--config", "s.yaml"], False, False, ["--config", "s.yaml"]),
        (["--config", "s.yaml"], True, True, ["--config", "s.yaml", "--resume"]),
        (["--resume", "--retry-failed", "a.b=1"], True, False, ["--resume", "--retry-failed", "a.b=1"]),
        (["--resume", "--retry-failed", "a.b=1"], True, True, ["--resume", "a.b=1"]),
    ],
)
def test_failures_are_forgotten_by_the_first_start_of_a_job_only(
    given: list[str], begun: bool, requeued: bool, words: list[str]
) -> None:
    assert driver_words(given, begun=begun, requeued=requeued) == words
