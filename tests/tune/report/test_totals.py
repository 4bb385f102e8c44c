"""Costs and savings, by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tune.report.totals import own_and_shared, totals
from tune.results import SharedStage, StudyResult, TrialResult

Make = Callable[..., TrialResult]
Study = Callable[..., StudyResult]


def test_sums_by_hand(trial: Make, study: Study) -> None:
    trials = [
        trial(corloc=[1.0] * 10, total_epochs=10, seconds=100.0, gpu_hours=1.0, shared="a"),
        trial(corloc=[1.0] * 3, total_epochs=10, state="stopped", seconds=30.0, gpu_hours=0.25, shared="a"),
        trial(corloc=[], total_epochs=10, state="stopped", seconds=10.0, shared="a"),
        trial(corloc=[1.0], total_epochs=10, state="failed", seconds=5.0, shared="b"),
    ]
    shared = [SharedStage("a", "vgg16", 600.0, 2.0, 40.0, 3), SharedStage("b", "resnet50", 900.0, 3.0, None, 1)]
    found = totals(study(trials, shared=shared))
    assert found.states == {"waiting": 0, "running": 0, "finished": 1, "stopped": 2, "failed": 1}
    assert (found.seconds, found.gpu_hours) == (1645.0, 6.25)
    assert (found.epochs_planned, found.epochs_saved, found.epochs_saved_share) == (40, 17, 17 / 40)
    assert (found.classifiers, found.classifier_users) == (2, 4)
    assert (found.shared_seconds, found.shared_gpu_hours) == (1200.0, 4.0)
    assert [own_and_shared(study(trials, shared=shared), one) for one in trials[::3]] == [(100.0, 200.0), (5.0, 900.0)]


def test_nothing_was_planned_or_shared(trial: Make, study: Study) -> None:
    unused = SharedStage("a", "vgg16", 600.0, 2.0, None, 0)
    result = study([trial(total_epochs=0, shared="gone")], shared=[unused])
    found = totals(result)
    assert (found.epochs_saved_share, found.shared_seconds) == (0.0, 0.0)
    assert own_and_shared(result, result.trials[0]) == (60.0, pytest.approx(0.0))
