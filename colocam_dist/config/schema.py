"""The one typed schema of a run. Every default of the project stands here and nowhere else.

Defaults are those of the published CoLo-CAM code for YouTube-Objects v1.0 with ResNet-50 where it states them;
recipes in ``configs/`` name what they change. Units: image sides in pixels, rates per step, fractions in [0, 1].
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from colocam_dist.config.locations import KNOWN_SCHEMES, scheme_of
from colocam_dist.config.section import Positive, Section
from colocam_dist.config.slurm import Slurm

__all__ = [
    "ENCODERS",
    "Cams",
    "Checkpoint",
    "ClassifierStage",
    "Colocalization",
    "Config",
    "Data",
    "Engine",
    "Evaluation",
    "FrameCrf",
    "LocalizerStage",
    "Log",
    "Loss",
    "MixedData",
    "Model",
    "Optimizer",
    "PartialCrossEntropy",
    "Remote",
    "Run",
    "Seeds",
    "SizeBarrier",
]

Fraction = Annotated[float, Field(gt=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Side = Annotated[int, Field(ge=32, le=2048)]


def _location(value: object) -> object:
    """A URL as it is, a path in its plain form, so that equal places are equal texts."""
    if isinstance(value, str | Path) and str(value) and scheme_of(str(value)) is None:
        return str(Path(value))
    return value


ENCODERS = ("resnet18", "resnet50", "vgg16", "inceptionv3", "efficientnet_lite0")
"""Those of the project; any other name begins with "timm:"."""


def _encoder(value: object) -> object:
    """A known name, or that of a timm model, which only timm knows."""
    if isinstance(value, str) and value not in ENCODERS and not value.startswith("timm:"):
        close = difflib.get_close_matches(value, ENCODERS, n=1)
        near = f", did you mean {close[0]}?" if close else ""
        raise ValueError(f"unknown encoder; wanted {', '.join(ENCODERS)} or timm:MODEL{near}")
    return value


Location = Annotated[str, Field(min_length=1), BeforeValidator(_location)]


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
    lanes: Positive = 1
    train_split: str = "train"
    validation_split: str = "val"
    split: str = "test"  # the split that `evaluate` scores
    resize: Side = 256
    crop: Side = 224
    flip: bool = True
    n_frames: Annotated[int, Field(ge=1, le=64)] = 4
    sampling: Literal["adjacent", "interval", "gaussian"] = "adjacent"
    central_fraction: Fraction = 0.6
    window_rules: Literal["full", "published"] = "full"
    last: Literal["pad", "drop"] = "pad"
    workers: Annotated[int, Field(ge=0, le=64)] = 2
    max_bad: Annotated[float, Field(ge=0.0, le=1.0)] = 0.01
    missing: Literal["error", "skip"] = "error"
    caveats: tuple[str, ...] = ()  # printed with every figure that comes from this data

    @model_validator(mode="after")
    def _crop_fits(self) -> Data:
        if self.crop > self.resize:
            raise ValueError(f"data.crop ({self.crop}) is larger than data.resize ({self.resize})")
        if self.lanes > 1 and self.block_shards is None:
            raise ValueError(f"data.lanes ({self.lanes}) needs data.block_shards")
        return self


class Model(Section):
    """Encoder, its initial weights, and the decoder's width."""

    encoder: Annotated[str, BeforeValidator(_encoder)] = "resnet50"
    weights: str = "imagenet"  # "imagenet", "none", or the path of a state_dict
    weights_sha256: str | None = None
    output_stride: Literal[8, 16, 32] | None = None  # None: the encoder's own (8 for the WSOL ResNets)
    decoder_channels: tuple[Positive, ...] | None = None  # None: the encoder's own


class Optimizer(Section):
    """SGD with the published step schedule: lr = max(base * gamma ** (epoch // step), floor), epoch from 0."""

    lr: Annotated[float, Field(gt=0.0)] = 0.01
    fast_lr_factor: Annotated[float, Field(gt=0.0)] = 10.0  # for the new layers of the classifier
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    nesterov: bool = True
    weight_decay: NonNegative = 1.0e-4
    lr_gamma: Annotated[float, Field(gt=0.0, le=1.0)] = 0.9
    lr_step: Positive = 5
    lr_floor: NonNegative = 1.0e-7
    warmup_steps: Annotated[int, Field(ge=0)] = 0  # optimizer steps of linear growth from 0; the public code has none


class ClassifierStage(Section):
    """Stage 1: a frame classifier from video tags (public code: 100 epochs, lr 0.001, new layers x10)."""

    epochs: Annotated[int, Field(ge=0)] = 100  # 0 = the untrained network, whose LayerCAM is then the baseline
    global_batch: Positive = 32  # frames per optimizer step, over all ranks and accumulation steps
    optimizer: Optimizer = Optimizer(lr=0.001, lr_step=15)
    from_run: Path | None = None  # take the classifier of another run instead of training one


class Cams(Section):
    """The archive of one low-resolution CAM per training frame, which gives the pseudo-labels of stage 2."""

    method: Literal["layercam"] = "layercam"
    classifier: Literal["best-localization", "best-classification"] = "best-localization"
    folder: Path | None = None  # None: `cams/` inside the shard folder
    batch: Positive = 32


class Seeds(Section):
    """Pseudo-label pixels sampled from a frame's CAM at each step (public code 1000 + 1000, paper 1 + 1)."""

    region: Literal["otsu", "box_of_largest", "all"] = "box_of_largest"
    fg_fraction: Fraction = 0.7  # share of the region, by CAM rank, that may become foreground
    bg_fraction: Fraction = 0.1  # share of the frame, by CAM rank, that may become background
    bg_complement: bool = False  # paper: background = everything outside the Otsu region
    n_fg: Annotated[int, Field(ge=0)] = 1000
    n_bg: Annotated[int, Field(ge=0)] = 1000
    weighted: bool = True
    dilation: Annotated[int, Field(ge=1, le=31)] = 3  # side of the square, odd; 1 = none
    temporal_frames: Annotated[int, Field(ge=1, le=64)] = 1  # TCAM: maximum over so many CAMs, the frame's own last

    @model_validator(mode="after")
    def _odd(self) -> Seeds:
        if self.dilation % 2 == 0:
            raise ValueError(f"localizer.seeds.dilation must be odd (got {self.dilation})")
        return self


class Term(Section):
    """A loss term: active in epochs start_epoch..end_epoch, counted from 1; end_epoch -1 = to the end."""

    weight: NonNegative
    start_epoch: Annotated[int, Field(ge=0)] = 0
    end_epoch: Annotated[int, Field(ge=-1)] = -1


class PartialCrossEntropy(Term):
    """Pseudo-label term, Eq. 1 (public code: mean over labelled pixels)."""

    weight: NonNegative = 1.0


class SizeBarrier(Term):
    """Absolute size constraint as extended log barrier, Eq. 3 (public code: 0.01 times one half)."""

    weight: NonNegative = 0.01
    t_initial: Annotated[float, Field(gt=0.0)] = 1.0
    t_factor: Annotated[float, Field(ge=1.0)] = 1.01
    t_max: Annotated[float, Field(gt=0.0)] = 10.0


class FrameCrf(Term):
    """Per-frame CRF term, Eq. 2. 2e-9 was tuned with a filter that returns 0.55-0.63 of the exact affinity."""

    weight: NonNegative = 2.0e-9
    sigma_rgb: Annotated[float, Field(gt=0.0)] = 15.0
    sigma_xy: Annotated[float, Field(gt=0.0)] = 100.0
    scale: Fraction = 1.0
    backend: str = "auto"


class Colocalization(Term):
    """Multi-frame colour term, Eq. 4-5. `weight` is the paper's lambda_c."""

    weight: NonNegative = 9.0
    mode: Literal["adaptive", "constant"] = "adaptive"
    normalizer: Literal["published", "paper"] = "published"
    paper_floor: Annotated[float, Field(ge=0.0, le=0.5)] = 1.0e-3  # smallest divisor, as a share of all affinities
    sigma_rgb: Annotated[float, Field(gt=0.0)] = 15.0
    ramp_steps: Annotated[int, Field(ge=0)] = 0  # optimizer steps of linear growth; the public code has none
    backend: str = "auto"


class Loss(Section):
    """The four terms of Eq. 5."""

    partial_cross_entropy: PartialCrossEntropy = PartialCrossEntropy()
    size_barrier: SizeBarrier = SizeBarrier()
    frame_crf: FrameCrf = FrameCrf()
    colocalization: Colocalization = Colocalization()


class LocalizerStage(Section):
    """Stage 2: the decoder over the frozen classifier (public code: 10 epochs, lr 0.01, x0.9 every 5 epochs)."""

    epochs: Positive = 10
    global_batch: Positive = 32  # frames per optimizer step; windows = global_batch // n_frames
    optimizer: Optimizer = Optimizer(lr=0.01, lr_step=5)
    seeds: Seeds = Seeds()
    loss: Loss = Loss()


class Engine(Section):
    """Device, precision and how the work is split."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    zero_stage: Literal[0, 1, 2, 3] = 0
    sync_batchnorm: bool = True  # BatchNorm over the frames of all ranks, so that their number does not change the loss
    accumulation: Positive = 1  # micro-batches per optimizer step on each rank
    gradient_clipping: NonNegative = 0.0  # 0 = off
    threads: Annotated[int, Field(ge=0)] = 0  # CPU threads per rank; 0 = cores divided by local ranks
    timeout: Annotated[float, Field(ge=1.0)] = 600.0  # seconds without progress after which a rank counts as hung
    non_finite: Literal["stop", "skip", "roll_back"] = "stop"  # loss or gradients with NaN or infinity
    non_finite_limit: Positive = 3  # such steps in a row after which skip and roll_back give up
    on_out_of_memory: Literal["stop", "halve"] = "stop"  # halve: start again with half the micro-batch (--max-restarts)


class Evaluation(Section):
    """Boxes and CorLoc as published, under three threshold rules."""

    iou: Fraction = 0.5
    thresholds: Annotated[int, Field(ge=2, le=10000)] = 1000
    validation_thresholds: Annotated[int, Field(ge=2, le=10000)] = 250
    validate_every: Positive = 1  # epochs
    bootstrap: Annotated[int, Field(ge=0)] = 1000
    batch: Positive = 32


class Checkpoint(Section):
    """How often the whole training state is written, and how many of them stay."""

    every_steps: Annotated[int, Field(ge=0)] = 0  # 0 = at the end of each epoch only
    keep: Positive | Literal["all"] = 2  # the newest ones
    keep_best: Annotated[int, Field(ge=0)] = 0  # and as many more, the best by validation
    when_full: Literal["stop", "skip"] = "stop"  # no space: end the run, or go on without this checkpoint


class Log(Section):
    """What is reported while the run goes on."""

    every_steps: Positive = 10
    tensorboard: bool = True


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
        return self
