"""What is found wrong before a run starts."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from colocam_dist.config import load
from colocam_dist.data.index import ShotIndex
from colocam_dist.errors import ColocamError, DataError
from colocam_dist.training.preflight import check_run

FITS = ("localizer.global_batch=8", "data.n_frames=2", "classifier.global_batch=4", "model.weights=none")


@pytest.mark.parametrize(
    ("settings", "world", "part"),
    [
        (["localizer.global_batch=6"], 2, "localizer.global_batch"),
        (["engine.accumulation=4"], 2, "classifier.global_batch"),
        (["data.shards=nowhere"], 1, "nowhere"),
        (["data.split=nope"], 1, "nope"),
        (["model.weights=no/such.pth"], 1, "no such file of weights"),
        (["classifier.from_run=no/such/run"], 1, "not a run folder"),
    ],
)
def test_it_is_named(settings: list[str], world: int, part: str, tiny_shards: Path) -> None:
    config = load(None, [f"data.shards={tiny_shards}", *FITS, *settings])
    with pytest.raises(ColocamError, match=part):
        check_run(config, world)


@pytest.mark.parametrize("split", ["val", "test"])
def test_splits_without_boxes_are_noticed_before_training(
    split: str, tiny_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = ShotIndex.open

    def without(folder: object, name: str, **more: object) -> ShotIndex:
        index = opened(folder, name, **more)  # type: ignore[arg-type]
        return dataclasses.replace(index, box_frame=index.box_frame[:0]) if name == split else index

    monkeypatch.setattr(ShotIndex, "open", without)
    with pytest.raises(DataError, match=f"split {split} has no boxes"):
        check_run(load(None, [f"data.shards={tiny_shards}", *FITS]), 1)
    trained = [f"data.shards={tiny_shards}", *FITS, "run.stages=[classifier,cams,localizer]"]
    if split == "test":
        check_run(load(None, trained), 1)
    check_run(load(None, [*trained, "run.stages=[cams]"]), 1)


def test_what_a_run_does_not_need_is_not_looked_at(tiny_shards: Path) -> None:
    given = [f"data.shards={tiny_shards}", *FITS]
    check_run(load(None, given), 2)
    check_run(load(None, [*given, "data.split=nope", "run.stages=[classifier,cams,localizer]"]), 2)
    check_run(load(None, [*given, "classifier.global_batch=5", "run.stages=[localizer]"]), 2)


def test_it_looks_without_torch() -> None:
    code = "import sys, colocam_dist.training.preflight; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
