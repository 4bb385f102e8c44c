"""Settings of the four terms of the localizer's loss (paper Eq. 1-5)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from colocam_dist.config.section import Fraction, NonNegative, Section

__all__ = ["Colocalization", "FrameCrf", "Loss", "PartialCrossEntropy", "SizeBarrier", "Term"]


class Term(Section):
    """A loss term: active in epochs start_epoch..end_epoch, counted from 1; end_epoch -1 = to the end."""

    weight: NonNegative
    start_epoch: Annotated[int, Field(ge=0)] = 0
    end_epoch: Annotated[int, Field(ge=-1)] = -1


class PartialCrossEntropy(Term):
    """Pseudo-label term, Eq. 1 (public code: mean over labeled pixels)."""

    weight: NonNegative = 1.0


class SizeBarrier(Term):
    """Absolute size constraint as extended log barrier, Eq. 3 (public code: 0.01 times one half)."""

    weight: NonNegative = 0.01
    t_initial: Annotated[float, Field(gt=0.0)] = 1.0  # the barrier's t in epoch 1 (z of the paper): larger is steeper
    t_factor: Annotated[float, Field(ge=1.0)] = 1.01  # growth of t with each epoch
    t_max: Annotated[float, Field(gt=0.0)] = 10.0


class FrameCrf(Term):
    """Per-frame CRF term, Eq. 2. 2e-9 was tuned with a filter that returns 0.55-0.63 of the exact affinity."""

    weight: NonNegative = 2.0e-9
    sigma_rgb: Annotated[float, Field(gt=0.0)] = 15.0  # width of the kernel in color, of 0..255
    sigma_xy: Annotated[float, Field(gt=0.0)] = 100.0  # width in pixels of the decoder's map
    scale: Fraction = 1.0  # share of the map's sides at which the term works
    scale_initial: Fraction | None = None  # scale of epoch 1; it grows linearly to `scale` over `scale_epochs` epochs
    scale_epochs: Annotated[int, Field(ge=0)] = 0
    backend: str = "auto"  # of kernels.frame_affinity (docs/kernels.md)

    @model_validator(mode="after")
    def _grows(self) -> FrameCrf:
        if (self.scale_initial is not None) != (self.scale_epochs > 0):
            raise ValueError(
                "localizer.loss.frame_crf: scale_initial and scale_epochs belong together "
                f"(got {self.scale_initial} and {self.scale_epochs})"
            )
        if self.scale_initial is not None and self.scale_initial > self.scale:
            raise ValueError(
                f"localizer.loss.frame_crf.scale_initial ({self.scale_initial}) is larger than scale ({self.scale})"
            )
        return self


class Colocalization(Term):
    """Multi-frame color term, Eq. 4-5. `weight` is the paper's lambda_c."""

    weight: NonNegative = 9.0
    # Divided by its own magnitude, as it is, or both sides of the cut divided by what they have in common with all.
    mode: Literal["adaptive", "constant", "normalized_cut"] = "adaptive"
    normalizer: Literal["published", "paper"] = "published"  # what adaptive divides by: |R - 1'W1|, or R as in Eq. 5
    paper_floor: Annotated[float, Field(ge=0.0, le=0.5)] = 1.0e-3  # smallest divisor, as a share of all affinities
    sigma_rgb: Annotated[float, Field(gt=0.0)] = 15.0  # as in FrameCrf
    ramp_steps: Annotated[int, Field(ge=0)] = 0  # optimizer steps of linear growth; the public code has none
    backend: str = "auto"  # of kernels.color_affinity (docs/kernels.md)


class Loss(Section):
    """The four terms of Eq. 5."""

    partial_cross_entropy: PartialCrossEntropy = PartialCrossEntropy()
    size_barrier: SizeBarrier = SizeBarrier()
    frame_crf: FrameCrf = FrameCrf()
    colocalization: Colocalization = Colocalization()
