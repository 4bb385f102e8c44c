"""The settings of a study: one file with a section ``study`` beside sections of run settings that all trials share."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from colocam_dist.config import Config
from colocam_dist.config.load import load_model
from colocam_dist.config.section import Positive, Section

__all__ = ["Range", "Resources", "Scheduler", "StudyFile", "StudySettings", "as_overrides", "load_study"]


class Range(Section):
    """Numbers between two bounds."""

    low: float
    high: float
    log: bool = False  # uniform in the logarithm
    integer: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low:g}) is not below high ({self.high:g})")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range begins above 0 (got low {self.low:g})")
        if self.integer and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError(f"a range of integers has integers as bounds (got {self.low:g} and {self.high:g})")
        return self


def _kind(written: Any) -> str | None:
    """Which form a dimension is written in, so that errors speak of this form only."""
    if isinstance(written, list):
        return "values"
    if isinstance(written, Mapping):
        return "choices" if not written or any(isinstance(one, Mapping) for one in written.values()) else "range"
    return "range" if isinstance(written, Range) else None


Written = Annotated[
    Annotated[Range, Tag("range")]
    | Annotated[list[Any], Tag("values")]
    | Annotated[dict[str, dict[str, Any]], Tag("choices")],
    Discriminator(
        _kind,
        custom_error_type="dimension",
        custom_error_message="wanted a list of values, {low: ..., high: ...}, or choices with names and settings",
    ),
]
"""A dimension as it stands in the file."""

_POWER_OF_TEN = re.compile(r"[-+]?\d+(\.\d*)?e[-+]?\d+", re.IGNORECASE)
_DIMENSION = "study.space."


class Scheduler(Section):
    """Who ends trials early, or changes them on the way. Time is counted in epochs of stage 2."""

    name: Literal["none", "asha", "median", "pbt"] = "none"
    grace: Positive = 1  # epochs that every trial is given
    reduction: Annotated[float, Field(gt=1.0)] = 3.0  # asha: of so many trials one goes on
    min_trials: Positive = 3  # median: with fewer of them nothing is ended
    every: Positive = 1  # pbt: epochs between changes
    quantile: Annotated[float, Field(gt=0.0, le=0.5)] = 0.25  # pbt: share that copies, and share that is copied


class Resources(Section):
    """What one trial is given on this machine; with executor "slurm" the section ``slurm`` of the run says it."""

    cpus: Annotated[float, Field(gt=0.0)] = 1.0
    gpus: Annotated[float, Field(ge=0.0)] = 0.0  # 0.5: two trials share a GPU; 2: two ranks
    ranks: Positive | None = None  # None: one for each whole GPU, at least one


class StudySettings(Section):
    """What is searched, how, and who does the trials."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)] = "study"
    folder: Path = Path("studies")
    base: Path | None = None  # recipe of the runs; the file's other sections win over it
    space: Annotated[dict[str, Written], Field(min_length=1)]
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = (0,)
    search: Literal["grid", "random", "tpe"] = "grid"
    samples: Positive | None = None  # points, for "random" and "tpe"
    search_seed: Annotated[int, Field(ge=0)] = 0
    scheduler: Scheduler = Scheduler()
    executor: Literal["local", "slurm", "allocation"] = "local"
    concurrent: Positive | None = None  # trials at a time; None: as many as fit (slurm: 8)
    retries: Annotated[int, Field(ge=0)] = 2  # new starts of a trial after failures that are not the user's
    resources: Resources = Resources()
    one_classifier_for: tuple[str, ...] = ("localizer", "data.n_frames", "data.sampling")  # it has the base's values
    ask_slurm_every: Annotated[float, Field(ge=0.5)] = 30.0  # seconds between questions about all jobs together

    @field_validator("space", mode="after")
    @classmethod
    def _numbers(cls, space: dict[str, Any]) -> dict[str, Any]:
        """YAML takes 1e-3 for a text, but reports have to order such values."""
        return {
            name: [float(one) if isinstance(one, str) and _POWER_OF_TEN.fullmatch(one) else one for one in written]
            if isinstance(written, list)
            else written
            for name, written in space.items()
        }

    @model_validator(mode="after")
    def _fits(self) -> StudySettings:
        if (self.samples is None) != (self.search == "grid"):
            raise ValueError(
                "study.samples is wanted with study.search random or tpe"
                if self.samples is None
                else "study.samples is of no use with study.search=grid"
            )
        ranges = [name for name, values in self.space.items() if isinstance(values, Range)]
        if self.search == "grid" and ranges:
            raise ValueError(f"a grid wants lists of values, but {', '.join(ranges)} has low and high")
        if not self.seeds:
            raise ValueError("study.seeds is empty")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"study.seeds has a seed twice ({list(self.seeds)})")
        if self.search == "tpe" and len(self.seeds) > 1 and self.scheduler.name != "none":
            raise ValueError(
                "tpe learns from the mean over seeds, which trials that are ended early do not have: "
                "take one seed, or study.scheduler.name=none"
            )
        if self.scheduler.name == "pbt" and (self.search == "tpe" or len(self.seeds) > 1):
            raise ValueError("pbt is a search of its own: take study.search random or grid, and one seed")
        return self

    @property
    def ranks(self) -> int:
        """Processes of a local trial."""
        return self.resources.ranks or max(1, int(self.resources.gpus))

    @property
    def path(self) -> Path:
        """Where the study lives."""
        return self.folder / self.name


class StudyFile(BaseModel):
    """A whole file: ``study``, and sections of :class:`~colocam_dist.config.Config`, checked with each trial."""

    model_config = ConfigDict(extra="allow", frozen=True)

    study: StudySettings

    @property
    def run_settings(self) -> list[str]:
        """Overrides of the recipe that all trials share."""
        return list(as_overrides(self.model_extra or {}))

    def config(self, overrides: Sequence[str] = ()) -> Config:
        """The checked settings of a run.

        Raises:
            ConfigError: see :func:`colocam_dist.config.load`.
        """
        return load_model(Config, self.study.base, [*self.run_settings, *overrides], source="study")


def load_study(path: Path | None, overrides: Sequence[str] = ()) -> StudyFile:
    """Read a study; ``study.*`` of the overrides are its own, the others those of its runs.

    ``study.space.NAME=...`` sets a dimension, whose name may have dots.

    Raises:
        ConfigError: everything that is wrong with the study or with the settings that its runs share.
    """
    file = load_model(StudyFile, path, [_with_whole_name(text) for text in overrides])
    file.config()
    return file


def _with_whole_name(override: str) -> str:
    name, equals, value = override.partition("=")
    if not equals or not name.startswith(_DIMENSION):
        return override
    return f"{_DIMENSION[:-1]}={{{json.dumps(name.removeprefix(_DIMENSION))}: {value}}}"


def as_overrides(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Nested settings as ``section.key=value``; keys may have dots themselves."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from as_overrides(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={json.dumps(value)}"
