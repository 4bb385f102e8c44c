"""The one typed schema of a run. Defaults stand in this folder; recipes in ``configs/`` name what they change.

Defaults are those of the published CoLo-CAM code for YouTube-Objects v1.0 with ResNet-50 where it states them. Others
are ``data.n_frames`` (4, as in the paper's text; the code's command has 2), ``data.window_rules``, ``engine.precision``
(there mixed) and ``engine.sync_batchnorm``; and the weight of the frame CRF acts 1.7 times as strong with the exact
affinity (recipes have 1.2e-9). The dataclasses of losses, seeds and CAMs repeat the
defaults, for use alone; a test holds them equal. Units: image sides in pixels, rates per step, fractions in [0, 1].
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from colocam_dist.config.data import Data
from colocam_dist.config.evaluation import Evaluation
from colocam_dist.config.machine import Checkpoint, Engine, Log
from colocam_dist.config.model import Model
from colocam_dist.config.section import Section
from colocam_dist.config.slurm import Slurm
from colocam_dist.config.stages import Cams, ClassifierStage, LocalizerStage

__all__ = ["Config", "Run"]


class Run(Section):
    """Where the run lives and what it does."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=120)] = "run"
    folder: Path = Path("runs")
    on_exists: Literal["error", "resume"] = "error"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    stages: tuple[Literal["classifier", "cams", "localizer", "evaluate"], ...] = (
        "classifier",
        "cams",
        "localizer",
        "evaluate",
    )


class Config(Section):
    """A whole run: everything that `launchers/train.py` needs to know."""

    run: Run = Run()
    data: Data
    model: Model = Model()
    classifier: ClassifierStage = ClassifierStage()
    cams: Cams = Cams()
    localizer: LocalizerStage = LocalizerStage()
    engine: Engine = Engine()
    evaluation: Evaluation = Evaluation()
    checkpoint: Checkpoint = Checkpoint()
    log: Log = Log()
    slurm: Slurm = Slurm()
    fault: str = ""  # for tests only, see colocam_dist/training/faults.py

    @model_validator(mode="after")
    def _window_fits_batch(self) -> Config:
        if self.data.n_frames > self.localizer.global_batch:
            raise ValueError(
                f"localizer.global_batch ({self.localizer.global_batch} frames) is smaller than one window of "
                f"data.n_frames ({self.data.n_frames}) frames"
            )
        if self.data.crop % self.model.map_stride:
            raise ValueError(
                f"data.crop ({self.data.crop}) is no multiple of model.map_stride ({self.model.map_stride})"
            )
        return self

    @model_validator(mode="after")
    def _window_can_be_shared(self) -> Config:
        ranks = self.engine.window_ranks
        if self.data.n_frames % ranks:
            raise ValueError(
                f"engine.window_ranks ({ranks}) ranks cannot share windows of data.n_frames ({self.data.n_frames}) "
                "frames equally"
            )
        backend = self.localizer.loss.colocalization.backend
        if ranks > 1 and backend.endswith("exact"):
            raise ValueError(
                f"engine.window_ranks ({ranks}) needs histograms, not localizer.loss.colocalization.backend={backend}"
            )
        if ranks > 1 and self.localizer.loss.colocalization.mode == "normalized_cut":
            raise ValueError(
                f"engine.window_ranks ({ranks}) needs localizer.loss.colocalization.mode adaptive or constant: the "
                "normalized cut needs its windows whole"
            )
        return self
