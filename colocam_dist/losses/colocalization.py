"""Co-localization (CoLoc): the multi-frame color term of Eq. 4 with the adaptive weight of Eq. 5.

Shape suffixes: W windows (first) or width (last), N frames per window, C = 3 color channels, H height.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from colocam_dist.errors import ConfigError
from colocam_dist.kernels import color_affinity
from colocam_dist.losses.counts import MIN_FRAMES
from colocam_dist.losses.term import TermSettings, counting, mean_where
from colocam_dist.losses.window_group import WindowGroup

__all__ = ["Colocalization", "ColocalizationSettings"]


@dataclass(frozen=True)
class ColocalizationSettings(TermSettings):
    """Weight, epochs and the form of the weight.

    Attributes:
        weight: the paper's lambda_c.
        mode: ``adaptive`` divides each window's value by its own magnitude, held constant for the gradient;
            ``constant`` only multiplies by ``weight`` (values grow with the square of the number of pixels);
            ``normalized_cut`` divides the cut between foreground and background by the affinities of each side with
            everything (Shi and Malik 2000; as a loss Tang et al. 2018), in [0, 2] whatever the number of pixels: 0 for
            regions that share no color, 1 for any constant map above ``paper_floor``, which therefore is no minimum. It
            takes two filters.
        normalizer: the form of the value, which matters for ``adaptive``. ``published``: R - 1'W1 =
            -sum_r S_r' W S_r, as in the public code; its magnitude stays in [1/2, 1] of 1'W1. ``paper``: R itself,
            Eq. 4, which goes to 0 as maps become consistent, or constant at 0 or 1, so that the gradient grows without
            bound: it is (1 - d) / d times as strong as the form that published weights were tuned with, d being
            color_disagreement; about 1.3 at the start and 7 to 11 later on the thumbnails of docs/results.md.
        paper_floor: smallest divisor of the ``paper`` normalizer, as a share of 1'W1 (R itself is at most 1/2 of it),
            and of the normalized cut.
            Below the floor the loss value falls under ``weight`` and the gradient stays bounded. 0 = Eq. 5 to the
            letter, which is 0/0 for a map that is exactly constant at 0 or 1.
        sigma_rgb: width of the color kernel, in steps of 0..255.
        ramp_steps: the weight grows linearly over this many optimizer steps; 0 = full weight at once (public code).
        backend: passed to :func:`colocam_dist.kernels.color_affinity`.
    """

    weight: float = 9.0
    mode: Literal["adaptive", "constant", "normalized_cut"] = "adaptive"
    normalizer: Literal["published", "paper"] = "published"
    paper_floor: float = 1.0e-3
    sigma_rgb: float = 15.0
    ramp_steps: int = 0
    backend: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in ("adaptive", "constant", "normalized_cut") or self.normalizer not in ("published", "paper"):
            raise ValueError(
                "ColocalizationSettings: wanted mode adaptive, constant or normalized_cut and normalizer published or "
                f"paper, got {self.mode!r} and {self.normalizer!r}"
            )
        if not (self.sigma_rgb > 0.0 and 0.0 <= self.paper_floor <= 0.5 and self.ramp_steps >= 0):
            raise ValueError(
                "ColocalizationSettings: wanted sigma_rgb > 0, paper_floor in [0, 0.5] and ramp_steps >= 0, "
                f"got {self.sigma_rgb}, {self.paper_floor} and {self.ramp_steps}"
            )


class Colocalization(nn.Module):
    """Mean over the windows with at least two valid frames of the weighted color term.

    Every pixel of every frame of a window is connected to every other by a Gaussian of their color distance alone, so
    the object may be anywhere in each frame. With the published normalizer the adaptive value is exactly -weight.

    With a group, each of its ranks has a part of every window's frames and returns an equal part of the value; the
    gradient is that of the whole window's value, for training that averages gradients over ranks.
    """

    def __init__(self, settings: ColocalizationSettings, group: WindowGroup | None = None) -> None:
        super().__init__()
        if group is not None and settings.mode == "normalized_cut":
            raise ConfigError(
                "the normalized cut needs its windows whole",
                where="localizer.loss.colocalization.mode",
                got="normalized_cut with engine.window_ranks above 1",
                fix="set engine.window_ranks=1, or mode=adaptive",
            )
        self.settings = settings
        self.group = group

    def ramp(self, step: int | None) -> float:
        """Share of the weight at optimizer step ``step`` (numbered from 0), in (0, 1].

        Raises:
            ValueError: ``ramp_steps`` is set and no step is given.
        """
        if self.settings.ramp_steps == 0:
            return 1.0
        if step is None:
            raise ValueError(
                f"Colocalization: ramp_steps={self.settings.ramp_steps} needs the optimizer step, got None"
            )
        return min(1.0, (step + 1) / self.settings.ramp_steps)

    def forward(
        self,
        fg_WNHW: Tensor,
        images_WNCHW: Tensor,
        mask_WN: Tensor,
        step: int | None = None,
        count: Tensor | None = None,
        frames_W: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Weighted value of the term, and how much the maps disagree with the colors.

        Args:
            fg_WNHW: float ``[W, N, H, W]`` in [0, 1], the foreground map.
            images_WNCHW: uint8 ``[W, N, 3, H, W]``, RGB pixels after crop and flip, never normalized.
            mask_WN: bool ``[W, N]``; frames with False do not count, windows with fewer than two others neither. Of
                weights only whether they are above 0 matters.
            step: optimizer steps made so far in this stage, needed when ``ramp_steps`` is set.
            count: windows to divide by, None = those given here that have two valid frames.
            frames_W: int64 ``[W]``, valid frames of the windows, those on other ranks included; None = all are here.

        Returns:
            float32 scalar loss, 0 with a graph when no window counts; and, without a graph, the mean over the windows
            of R / 1'W1 in [0, 1/2]. The adaptive loss is constant by construction; this share shows progress.
        """
        settings = self.settings
        mask_WN = counting(mask_WN)
        counts_W = (mask_WN.sum(1) if frames_W is None else frames_W) >= MIN_FRAMES
        value_W, total_W = color_affinity(
            fg_WNHW.float(),
            images_WNCHW,
            sigma_rgb=settings.sigma_rgb,
            backend=settings.backend,
            mask=mask_WN & counts_W[:, None],
            process_group=None if self.group is None else self.group.processes,
            averaged=self.group is not None,
            validate=False,  # the training loop decides what to do with a loss that is not finite
        )
        loss_W = value_W - total_W if settings.normalizer == "published" else value_W
        if settings.mode == "normalized_cut":
            loss_W = self._normalized_cut(fg_WNHW, images_WNCHW, mask_WN & counts_W[:, None], value_W, total_W)
        elif settings.mode == "adaptive":
            size_W = loss_W.detach().abs()
            if settings.normalizer == "paper":
                size_W = torch.maximum(size_W, settings.paper_floor * total_W)
            # A window that does not count has 0 / 0; it is left out of the mean below.
            loss_W = loss_W / size_W.masked_fill(~counts_W, 1.0)
        disagreement = mean_where(value_W.detach() / total_W.masked_fill(~counts_W, 1.0), counts_W, count)
        loss = settings.weight * self.ramp(step) * mean_where(loss_W, counts_W, count)
        return (loss, disagreement) if self.group is None else (loss / self.group.size, disagreement / self.group.size)

    def _normalized_cut(
        self, fg_WNHW: Tensor, images_WNCHW: Tensor, mask_WN: Tensor, value_W: Tensor, total_W: Tensor
    ) -> Tensor:
        """``S'W(1 - S) / S'W1 + S'W(1 - S) / (1 - S)'W1``, in [0, 2]; 0 for windows that do not count."""
        settings = self.settings
        # The value is R(S) = 2 (S'W1 - S'WS), so 4 R(S / 2) - R(S) = 2 S'W1: the degrees need no operator of their own.
        half_W, _ = color_affinity(
            fg_WNHW.float() / 2,
            images_WNCHW,
            sigma_rgb=settings.sigma_rgb,
            backend=settings.backend,
            mask=mask_WN,
            validate=False,
        )
        fg_W = 2 * half_W - value_W / 2
        least_W = (settings.paper_floor * total_W).clamp(min=torch.finfo(torch.float32).tiny)
        return value_W / 2 * sum(torch.maximum(side_W, least_W).reciprocal() for side_W in (fg_W, total_W - fg_W))
