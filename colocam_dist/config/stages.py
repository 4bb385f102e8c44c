"""Settings of the two training stages, of the CAMs between them, and of their optimizers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from colocam_dist.config.loss import Loss
from colocam_dist.config.section import Fraction, NonNegative, Positive, Section

__all__ = [
    "CamName",
    "Cams",
    "ClassifierStage",
    "Ema",
    "LocalizerStage",
    "Optimizer",
    "Presence",
    "Seeds",
    "SmoothGradCam",
]

CamName = Literal["cam", "gradcam", "gradcam++", "xgradcam", "layercam", "smoothgradcam++"]


class Optimizer(Section):
    """SGD with the published step schedule: lr = max(base * gamma ** (epoch // step), floor), epoch from 0."""

    lr: Annotated[float, Field(gt=0.0)] = 0.01  # the base; not scaled with batch or ranks
    fast_lr_factor: Annotated[float, Field(gt=0.0)] = (
        10.0  # stage 1: of the head and the encoder's last part (ResNet: layer4; timm: the head)
    )
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    nesterov: bool = True
    weight_decay: NonNegative = 1.0e-4
    lr_gamma: Annotated[float, Field(gt=0.0, le=1.0)] = 0.9
    lr_step: Positive = 5  # epochs
    lr_floor: NonNegative = 1.0e-7
    warmup_steps: Annotated[int, Field(ge=0)] = 0  # optimizer steps of linear growth from 0; the public code has none


class ClassifierStage(Section):
    """Stage 1: a frame classifier from video tags (public code: 100 epochs, lr 0.001, head and last part x10)."""

    epochs: Annotated[int, Field(ge=0)] = 100  # 0 = the untrained network, whose CAM is then the baseline
    global_batch: Positive = 32  # frames per optimizer step, over all ranks and accumulation steps
    optimizer: Optimizer = Optimizer(lr=0.001, lr_step=15)
    train_encoder: bool = True  # False: only the head learns (at fast_lr_factor times the rate), which is much cheaper
    from_run: Path | None = None  # take the classifier of another run instead of training one


class SmoothGradCam(Section):
    """Smooth Grad-CAM++, wherever it is used (public code: 4 noisy copies, noise of 0.3 on normalized pixels)."""

    samples: Positive = 4
    noise: NonNegative = 0.068  # standard deviation, as a share of the range of pixels
    activations: Literal["noisy", "clean"] = "noisy"  # summed feature maps: mean over copies, or the frame's


class Cams(Section):
    """The archive of one low-resolution CAM per training frame, which gives the pseudo-labels of stage 2."""

    method: CamName = "layercam"  # also selects the epoch of stage 1 that localizes best
    smooth: SmoothGradCam = SmoothGradCam()
    classifier: Literal["best-localization", "best-classification"] = "best-localization"  # which epoch's weights
    folder: Path | None = None  # None: `cams/` inside the shard folder; of remote shards, in run.folder
    batch: Positive = 32


class Seeds(Section):
    """Pseudo-label pixels sampled from a frame's CAM at each step (public code 1000 + 1000, paper 1 + 1)."""

    # Where foreground is sampled: above Otsu's threshold (paper), in the box of the largest such component, anywhere.
    region: Literal["otsu", "box_of_largest", "all"] = "box_of_largest"
    fg_fraction: Fraction = 0.7  # share of the region, by CAM rank, that may become foreground
    bg_fraction: Fraction = 0.1  # share of the frame, by CAM rank, that may become background
    bg_complement: bool = False  # paper: background = everything outside the Otsu region
    n_fg: Annotated[int, Field(ge=0)] = 1000  # pixels of foreground, before dilation
    n_bg: Annotated[int, Field(ge=0)] = 1000
    weighted: bool = True  # foreground in proportion to the CAM; False: each pixel of the region alike
    dilation: Annotated[int, Field(ge=1, le=31)] = 3  # side of the square, odd; 1 = none
    temporal_frames: Annotated[int, Field(ge=1, le=64)] = 1  # TCAM: maximum over so many CAMs, the frame's own last
    refresh_epoch: Annotated[int, Field(ge=0)] = 0  # first epoch, from 1, with the decoder's map as CAM; 0 = never
    refresh_share: Fraction = 1.0  # of the decoder's map in its mixture with the archived CAM

    @model_validator(mode="after")
    def _odd(self) -> Seeds:
        if self.dilation % 2 == 0:
            raise ValueError(f"localizer.seeds.dilation must be odd (got {self.dilation})")
        return self


class Presence(Section):
    """What becomes of training frames in which the frozen classifier hardly sees the tag's class (paper 5)."""

    mode: Literal["none", "weight", "drop"] = "none"
    relative: bool = False  # presence is p(tag | frame) over the window's largest, instead of p itself
    threshold: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1  # frames below it count as masked ones
    power: Annotated[float, Field(gt=0.0)] = 1.0  # mode weight: the others weigh presence ** power

    @model_validator(mode="after")
    def _drops_something(self) -> Presence:
        if self.mode == "drop" and self.threshold == 0.0:
            raise ValueError("localizer.presence.mode=drop needs a localizer.presence.threshold above 0")
        return self


class Ema(Section):
    """Exponential moving average of the decoder, which is then validated, kept as best weights and exported."""

    decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0  # of one optimizer step's weights; 0 = off


class LocalizerStage(Section):
    """Stage 2: the decoder over the frozen classifier (public code: 10 epochs, lr 0.01, x0.9 every 5 epochs)."""

    epochs: Positive = 10
    global_batch: Positive = 32  # frames per optimizer step; windows = global_batch // n_frames
    optimizer: Optimizer = Optimizer(lr=0.01, lr_step=5)
    seeds: Seeds = Seeds()
    presence: Presence = Presence()
    ema: Ema = Ema()
    loss: Loss = Loss()
