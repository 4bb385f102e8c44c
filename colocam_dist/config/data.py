"""Settings of shards, windows and augmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from colocam_dist.config.locations import KNOWN_SCHEMES, scheme_of
from colocam_dist.config.section import Fraction, Positive, Section

__all__ = ["Data", "MixedData", "Remote"]

Side = Annotated[int, Field(ge=32, le=2048)]


def _location(value: object) -> object:
    """A URL as it is, a path in its plain form and without ``~``, so that equal places are equal texts."""
    if isinstance(value, str | Path) and str(value) and scheme_of(str(value)) is None:
        return str(Path(value).expanduser())
    return value


Location = Annotated[str, Field(min_length=1), BeforeValidator(_location)]


class Remote(Section):
    """Shards that lie behind a URL, and the cache of whole shards on a local disk that they come through."""

    cache_folder: Path = Path("~/.cache/colocam_dist/shards")
    cache_gb: Annotated[float, Field(gt=0.0)] = 50.0  # 10^9 bytes, for all processes of a machine together
    tries: Annotated[int, Field(ge=1, le=100)] = 6  # requests for one file, with growing pauses
    timeout: Annotated[float, Field(gt=0.0)] = 30.0  # seconds without a byte after which a request has failed
    ahead: Annotated[int, Field(ge=0, le=1000)] = 8  # micro-batches whose shards are fetched ahead
    schemes: tuple[str, ...] = KNOWN_SCHEMES  # other URLs are refused
    options: dict[str, Any] = Field(default_factory=dict)  # for the fsspec file system, for example {anon: true}


class MixedData(Section):
    """One more data set for training; its classes are among those of the main one."""

    shards: Location
    split: str = "train"
    weight: Annotated[float, Field(gt=0.0)]  # relative to data.weight


class Data(Section):
    """Shards, windows and augmentation (paper 3.1 and 4; public code: resize 256, random crop 224, flip)."""

    shards: Location  # folder or URL
    remote: Remote = Remote()
    mix: tuple[MixedData, ...] = ()
    weight: Annotated[float, Field(gt=0.0)] = 1.0  # share of the main data set in the windows, beside those of `mix`
    balance: Literal["none", "class"] = "none"
    epoch_windows: Positive | None = None  # None: as many windows as there are shots
    min_frames: Positive = 1  # shots with fewer frames are left out of training
    drop_shots: Annotated[int, Field(ge=0)] = 0  # random shots of every class left out of training (paper Table 7)
    drop_seed: Annotated[int, Field(ge=0, lt=2**31)] = 0  # which ones; with the same seed, more include fewer
    block_shards: Positive | None = None  # shards in use at a time (for remote data); None: all windows are mixed
    lanes: Positive = 1  # equal parts of each step, with shards of their own (docs/streaming.md)
    train_split: str = "train"
    validation_split: str = "val"  # epochs and thresholds are chosen on it
    split: str = "test"  # the split that `evaluate` scores
    resize: Side = 256  # frames become squares of this side
    crop: Side = 224  # random in training; validation and evaluation resize to it
    flip: bool = True  # half of the training frames
    n_frames: Annotated[int, Field(ge=1, le=64)] = 4  # n of the paper
    sampling: Literal["adjacent", "interval", "gaussian"] = "adjacent"  # of a window's frames (paper Table 5)
    central_fraction: Fraction = 0.6  # of a shot, from which they are drawn
    window_rules: Literal["full", "published"] = "full"  # published: shorter near a shot's start (docs/streaming.md)
    last: Literal["pad", "drop"] = "pad"  # the epoch's last, incomplete step: filled from its beginning, or left out
    workers: Annotated[int, Field(ge=0, le=64)] = 2  # processes of a rank that read and decode
    max_bad: Annotated[float, Field(ge=0.0, le=1.0)] = 0.01  # share of damaged frames above which a run stops
    missing: Literal["error", "skip"] = "error"  # a shard that is not there
    caveats: tuple[str, ...] = ()  # printed with every figure, after those that the shards bring with them

    @model_validator(mode="after")
    def _crop_fits(self) -> Data:
        if self.crop > self.resize:
            raise ValueError(f"data.crop ({self.crop}) is larger than data.resize ({self.resize})")
        if self.lanes > 1 and self.block_shards is None:
            raise ValueError(f"data.lanes ({self.lanes}) needs data.block_shards")
        return self
