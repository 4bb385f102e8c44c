"""Studies that were never run: one trial by one, or a realistic one with everything that can happen to a trial."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from colocam_dist.evaluation.corloc import ClassScores, CorLoc
from tune.results import EpochRow, SharedStage, StudyResult, TrialResult, TrialState

CLASSES = ("aeroplane", "bird", "boat", "car", "cat", "cow", "dog", "horse", "motorbike", "train")
ENCODERS = {"resnet50": 46.0, "vgg16": 43.0, "inceptionv3": 39.0}
TRACEBACK = """Traceback (most recent call last):
  File "launchers/train.py", line 41, in main
    engine.step(loss)
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.31 GiB <on device 0> & no more
"""


def _metrics(layercam: float, localizer: float | None, draw: np.random.Generator) -> dict[str, Any]:
    """The content of metrics.json, in the form that evaluation gives it."""
    found = {}
    for name, value in (("layercam", layercam), ("localizer", localizer)):
        if value is None:
            continue
        spread = draw.normal(0.0, 11.0, len(CLASSES))
        by_class = np.clip(value + spread - spread.mean(), 1.0, 99.0)
        scores = {c: ClassScores(40, v, v + 2.0, v + 5.0) for c, v in zip(CLASSES, by_class.tolist(), strict=True)}
        corloc = {"validation": value, "pooled": value + 1.5, "per_class": value + 4.0}
        intervals = dict.fromkeys(corloc)
        tau = {"validation": 0.4, "pooled": 0.42}
        found[name] = CorLoc(corloc, corloc, intervals, corloc, tau, 80.0, scores, 400, 30, 0.5).to_dict()
    return {"methods": found, "classes": list(CLASSES), "split": "test", "unit": "percent"}


@pytest.fixture
def metrics() -> Callable[[float, float | None], dict[str, Any]]:
    """Makes the content of metrics.json from CorLoc of LayerCAM and of the localizer."""
    return lambda layercam, localizer: _metrics(layercam, localizer, np.random.default_rng(0))


@pytest.fixture
def trial(tmp_path: Path) -> Callable[..., TrialResult]:
    """Makes a finished trial of three epochs, but for what is said of it."""
    numbers = itertools.count(1)

    def make(
        point: Mapping[str, Any] | None = None,
        corloc: Sequence[float] = (10.0, 20.0, 15.0),
        *,
        seed: int = 0,
        state: TrialState = "finished",
        **other: Any,
    ) -> TrialResult:
        number = other.pop("number", None) or next(numbers)
        epochs = [EpochRow(epoch, value, 70.0) for epoch, value in enumerate(corloc, 1)]
        facts: dict[str, Any] = {
            "id": f"{number:010x}",
            "number": number,
            "point": {"data.n_frames": 4} if point is None else point,
            "seed": seed,
            "state": state,
            "epochs": epochs,
            "total_epochs": 3,
            "seconds": 60.0,
            "gpu_hours": 0.0,
            "shared": None,
            "test": None,
            "error": None,
            "traceback": None,
            "attempts": 1,
            "run": tmp_path / "trials" / f"{number:010x}",
        }
        return TrialResult(**{**facts, **other})

    return make


@pytest.fixture
def study(tmp_path: Path) -> Callable[..., StudyResult]:
    """Makes a study of trials."""

    def make(
        trials: Sequence[TrialResult], dimensions: Mapping[str, Sequence[Any]] | None = None, **other: Any
    ) -> StudyResult:
        facts: dict[str, Any] = {
            "name": "small",
            "folder": tmp_path,
            "rule": "Highest CorLoc over epochs on split val.",
            "dimensions": {"data.n_frames": [2, 4, 8]} if dimensions is None else dimensions,
            "seeds": [0],
            "trials": trials,
            "shared": [],
            "wall_seconds": 100.0,
            "sessions": 1,
            "command": "python launchers/tune.py --config study.yaml",
            "caveats": [],
        }
        return StudyResult(**{**facts, **other})

    return make


def _fake_trial(folder: Path, number: int, point: dict[str, Any], seed: int) -> TrialResult:
    """A trial whose CorLoc depends on its point, with luck; a twentieth fail, most of the bad ones are stopped."""
    draw = np.random.default_rng(number)
    base, n, weight = ENCODERS[point["model.encoder"]], point["data.n_frames"], point[WEIGHT]
    height = base + 14.0 * np.exp(-((np.log10(weight + 0.05) - 0.6) ** 2)) * (n / 8) ** 0.4 + draw.normal(0, 1.3)
    curve = height - 22.0 * np.exp(-np.arange(1, 11) / 2.2) + draw.normal(0, 0.7, 10)
    stop = 1 if height < base + 3.5 else 3 if height < base + 7.0 and base < 45 else 10
    state: TrialState = "finished" if stop == 10 else "stopped"
    if number % 23 == 7:
        state, stop = "failed", number % 3
    test = _metrics(base - 6.0, float(curve.max()) - 3.0 + draw.normal(), draw) if state == "finished" else None
    seconds = 40.0 + stop * (70.0 + 25.0 * n) * (1.4 if base > 45 else 1.0) + draw.uniform(0, 60)
    return TrialResult(
        id=f"{0x3F91AB27 * number:010x}"[-10:],
        number=number,
        point=point,
        seed=seed,
        state=state,
        epochs=[EpochRow(epoch, float(value), 82.0) for epoch, value in enumerate(curve[:stop], 1)],
        total_epochs=10,
        seconds=seconds,
        gpu_hours=seconds / 3600,
        shared=f"{point['model.encoder']}-{seed}",
        test=test,
        error="OutOfMemoryError: CUDA out of memory <on device 0> & no more\nmore words" if state == "failed" else None,
        traceback=TRACEBACK if state == "failed" else None,
        attempts=3 if state == "failed" else 1 + (number % 17 == 0),
        run=folder / "trials" / str(number),
    )


WEIGHT = "localizer.loss.colocalization.weight"


@pytest.fixture
def realistic(tmp_path: Path) -> StudyResult:
    """Backbones x n x lambda_c with three seeds, stopped by ASHA; some trials failed."""
    space: dict[str, Sequence[Any]] = {
        "model.encoder": list(ENCODERS),
        "data.n_frames": [2, 4, 8],
        WEIGHT: [0.0, 0.1, 1.0, 3.0, 9.0],
    }
    seeds = (0, 1, 2)
    corners = [dict(zip(space, corner, strict=True)) for corner in itertools.product(*space.values())]
    order = [(seed, corner) for seed in seeds for corner in corners]
    trials = [_fake_trial(tmp_path, number, corner, seed) for number, (seed, corner) in enumerate(order, 1)]
    shared = [
        SharedStage(f"{encoder}-{seed}", encoder, 3000.0 + base, 0.84, base - 5.0 + seed, 15)
        for encoder, base in ENCODERS.items()
        for seed in seeds
    ]
    return StudyResult(
        name="mini-backbones",
        folder=tmp_path,
        rule="Highest validation CorLoc over the epochs of a trial, at the one threshold that is best on split val.",
        dimensions=space,
        seeds=seeds,
        trials=trials,
        shared=shared,
        wall_seconds=19_412.0,
        sessions=2,
        command="python launchers/tune.py --config configs/study.yaml study.executor=local",
        caveats=["Frames of the test split were drawn from the public evaluation set: 400 of 1,781."],
        versions={"python": "3.12", "torch": "2.8.0", "ray": "2.60.0"},
        finished=True,
        scheduler="asha, grace 1, reduction 3",
        search="grid, 45 points",
    )
