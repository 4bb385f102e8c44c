"""Pseudo-label pixels ("seeds") sampled from the CAMs of a batch of frames (paper Eq. 1 and section 3.1).

Two published recipes are settings of one procedure:

- the public code (the defaults): the foreground is drawn from the strongest 70 % of the bounding box of the largest
  Otsu component, the background from the weakest 10 % of the frame, 1000 pixels each, dilated by 3 x 3;
- the paper: one foreground pixel from the Otsu region and one background pixel from its complement, no dilation;
  ``SeedSettings(region="otsu", fg_fraction=1.0, bg_complement=True, n_fg=1, n_bg=1, dilation=1)``.

Shape suffixes: B frames, H and W the frame's pixels, P = H * W, V the 256 gray values (or histogram bins).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from colocam_dist.noise import frame_uniforms

__all__ = [
    "BACKGROUND",
    "FOREGROUND",
    "IGNORE",
    "SeedDraw",
    "SeedSettings",
    "box_of_largest",
    "otsu_threshold",
    "pixel_noise",
    "sample_seeds",
]

FOREGROUND, BACKGROUND, IGNORE = 1, 0, -255
BINS = 256


@dataclass(frozen=True)
class SeedSettings:
    """How seeds are drawn. The defaults are those of the public code's CoLo-CAM command.

    Attributes:
        region: where the foreground may lie: ``otsu``, all pixels at or above the CAM's Otsu threshold;
            ``box_of_largest``, the filled bounding box of the largest 4-connected Otsu component; ``all``, the frame.
        fg_fraction: share of the region, strongest pixels first, that may become foreground; in (0, 1].
        bg_fraction: share of the frame, weakest pixels first, that may become background; in (0, 1].
        bg_complement: instead, every pixel below the Otsu threshold may become background.
        n_fg: foreground pixels drawn per frame, fewer when there are fewer candidates.
        n_bg: likewise for the background.
        weighted: foreground pixels are drawn with probability proportional to the CAM, else uniformly. The background
            is always uniform.
        dilation: side in pixels (odd) of the square that each drawn pixel grows to; 1 = no growth.

    Raises:
        ValueError: a value outside its range.
    """

    region: Literal["otsu", "box_of_largest", "all"] = "box_of_largest"
    fg_fraction: float = 0.7
    bg_fraction: float = 0.1
    bg_complement: bool = False
    n_fg: int = 1000
    n_bg: int = 1000
    weighted: bool = True
    dilation: int = 3

    def __post_init__(self) -> None:
        if self.region not in ("otsu", "box_of_largest", "all"):
            raise ValueError(f"seeds.region: wanted otsu, box_of_largest or all, got {self.region!r}")
        for name, fraction in (("fg_fraction", self.fg_fraction), ("bg_fraction", self.bg_fraction)):
            if not 0.0 < fraction <= 1.0:
                raise ValueError(f"seeds.{name}: wanted a share in (0, 1], got {fraction}")
        if self.n_fg < 0 or self.n_bg < 0:
            raise ValueError(f"seeds.n_fg, seeds.n_bg: wanted counts >= 0, got {self.n_fg} and {self.n_bg}")
        if self.dilation < 1 or self.dilation % 2 == 0:
            raise ValueError(f"seeds.dilation: wanted an odd side >= 1, got {self.dilation}")


@torch.no_grad()
def otsu_threshold(cams_BHW: Tensor) -> Tensor:
    """Otsu's threshold of each map, on floor(255 cam), with 256 bins between the map's own minimum and maximum.

    Follows the convention of scikit-image for float images: the threshold is the center of a bin, so it is not an
    integer. All sums are of integers, hence the result does not depend on the device or the order of additions.

    Args:
        cams_BHW: float ``[B, H, W]`` in [0, 1].

    Returns:
        float64 ``[B]`` on the scale 0..255; compare with ``255 * cam`` by ``>=``. A map whose floor(255 cam) is
        constant has its own gray value as threshold.
    """
    gray_BP = (cams_BHW.float() * 255.0).floor().long().flatten(1)
    low_B1, high_B1 = gray_BP.amin(1, keepdim=True), gray_BP.amax(1, keepdim=True)
    span_B1 = high_B1 - low_B1
    histogram_BV = torch.zeros(len(gray_BP), BINS, dtype=torch.int64, device=gray_BP.device)
    # Gray values are integers, so the bin of each is exact: (value - low) / ((high - low) / 256), the last bin closed.
    bins_BP = ((gray_BP - low_B1) * BINS // span_B1.clamp(min=1)).clamp(max=BINS - 1)
    histogram_BV.scatter_add_(1, bins_BP, torch.ones_like(bins_BP))
    # Centers are affine in the bin's number, so the between-class variance has its maximum at the same bin for both.
    moment_BV = histogram_BV * torch.arange(BINS, device=gray_BP.device)
    count_BV, sum_BV = histogram_BV.cumsum(1)[:, :-1], moment_BV.cumsum(1)[:, :-1]
    count_above_BV, sum_above_BV = gray_BP.shape[1] - count_BV, moment_BV.sum(1, keepdim=True) - sum_BV
    # Above the last occupied bin a class is empty; there the other mean counts as 0 and the weight makes the product 0.
    means_BV = sum_BV.double() / count_BV.clamp(min=1), sum_above_BV.double() / count_above_BV.clamp(min=1)
    between_BV = count_BV.double() * count_above_BV.double() * (means_BV[0] - means_BV[1]).square()
    best_B = between_BV.argmax(1).double()
    return low_B1[:, 0] + (best_B + 0.5).where(span_B1[:, 0] > 0, 0.0) * span_B1[:, 0].double() / BINS


def box_of_largest(blobs_BHW: Tensor) -> Tensor:
    """Bounding box of the largest 4-connected component of each mask.

    As in the public code the far corner is clipped to the last pixel and then excluded, so a box that touches the
    right or lower border misses its last column or row.

    Args:
        blobs_BHW: bool ``[B, H, W]``.

    Returns:
        int64 ``[B, 4]`` of x0, y0, x1, y1 in pixels: the box covers columns x0..x1-1 and rows y0..y1-1; all zero for
        an empty mask. The first component in raster order wins a tie.
    """
    return _BoxesOfLargest(blobs_BHW).boxes()


class _BoxesOfLargest:
    """:func:`box_of_largest` in two parts: masks leave the device when it is made, boxes come to it when asked for."""

    def __init__(self, blobs_BHW: Tensor) -> None:
        self._device = blobs_BHW.device
        bytes_BHW = blobs_BHW.to(torch.uint8)
        self._copied: torch.cuda.Event | None = None
        if blobs_BHW.is_cuda:
            self._blobs_BHW = torch.empty(bytes_BHW.shape, dtype=torch.uint8, pin_memory=True)
            self._blobs_BHW.copy_(bytes_BHW, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()
        else:
            self._blobs_BHW = bytes_BHW

    def boxes(self) -> Tensor:
        """int64 ``[B, 4]``; the host waits for the masks only, not for what the device was given to do since."""
        if self._copied is None:
            return torch.from_numpy(_boxes(self._blobs_BHW.numpy()))
        self._copied.synchronize()
        return torch.from_numpy(_boxes(self._blobs_BHW.numpy())).pin_memory().to(self._device, non_blocking=True)


def _boxes(blobs_BHW: NDArray[np.uint8]) -> NDArray[np.int64]:
    height, width = blobs_BHW.shape[1:]
    boxes = np.zeros((len(blobs_BHW), 4), np.int64)
    # One frame at a time on the CPU. Measured on one core, 32 frames of 224 px: OpenCV 6 ms, batched pointer jumping
    # with tensor operations 380 ms, flooding by max-pooling 4.5 s.
    for box, blob in zip(boxes, blobs_BHW, strict=True):
        stats = cv2.connectedComponentsWithStats(blob, connectivity=4)[2][1:]  # row 0 is the background
        if len(stats):
            x, y, w, h, _ = stats[stats[:, cv2.CC_STAT_AREA].argmax()]
            box[:] = x, y, min(x + w, width - 1), min(y + h, height - 1)
    return boxes


def pixel_noise(frame_ids_B: Tensor, size: Sequence[int], *, seed: int, epoch: int) -> Tensor:
    """Random numbers for :func:`sample_seeds` that are a pure function of (seed, epoch, frame id, pixel).

    With them a frame gets the same seeds on any rank, in any batch and after a resume.

    Args:
        frame_ids_B: int64 ``[B]`` global frame ids.
        size: height and width of the frames in pixels.
        seed: of the run.
        epoch: from 0.

    Returns:
        float32 ``[B, 2, H, W]`` in (0, 1) on the device of ``frame_ids_B``: background first, as in the maps.
    """
    height, width = size
    return frame_uniforms(frame_ids_B, 2 * height * width, seed=seed, epoch=epoch).view(-1, 2, height, width)


@torch.no_grad()
def sample_seeds(
    cams_BHW: Tensor,
    settings: SeedSettings,
    noise: Tensor | torch.Generator | None = None,
    mask_B: Tensor | None = None,
) -> Tensor:
    """Draw foreground and background seeds in every frame.

    The draw is without replacement: among independent exponential variables divided by the weights, the smallest n are
    a weighted sample without replacement (Efraimidis and Spirakis 2006; the same as Gumbel top-n). Random numbers
    belong to pixels, so masks and the contents of other frames do not change a frame's seeds.

    Args:
        cams_BHW: float ``[B, H, W]`` in [0, 1], aligned with the frames (:func:`colocam_dist.cams.crop_cams`).
        settings: see :class:`SeedSettings`.
        noise: uniform numbers ``[B, 2, H, W]`` in (0, 1] from :func:`pixel_noise`; or a generator on the device of
            ``cams_BHW``, through which alone the seeds then depend on run, step and rank; None takes torch's global
            generator.
        mask_B: bool ``[B]``; a frame with False gets no seeds.

    Returns:
        int64 ``[B, H, W]``: 1 foreground, 0 background, -255 ignored. A constant CAM gives no seeds; a pixel that both
        dilated sets claim is ignored.

    Raises:
        ValueError: wrong shapes.
    """
    return SeedDraw(cams_BHW, settings, noise, mask_B).labels()


class SeedDraw:
    """:func:`sample_seeds` in two parts, between which a GPU can be given other work.

    The largest component of a mask is found on the host. Made first and asked for its labels after the network's
    forward pass has been queued, it does so while the device is busy.
    """

    @torch.no_grad()
    def __init__(
        self,
        cams_BHW: Tensor,
        settings: SeedSettings,
        noise: Tensor | torch.Generator | None = None,
        mask_B: Tensor | None = None,
    ) -> None:
        """Begin. The arguments are those of :func:`sample_seeds`.

        Raises:
            ValueError: wrong shapes.
        """
        if cams_BHW.dim() != 3 or (mask_B is not None and mask_B.shape != cams_BHW.shape[:1]):
            mask_shape = None if mask_B is None else tuple(mask_B.shape)
            raise ValueError(
                f"sample_seeds: wanted CAMs [B, H, W] and mask [B], got {tuple(cams_BHW.shape)}, {mask_shape}"
            )
        self._settings = settings
        self._noise_B2P = _uniforms(cams_BHW, noise).flatten(2)
        self._cams_BHW = cams_BHW.float()
        cams_BP = self._cams_BHW.flatten(1)
        usable_B = cams_BP.amin(1) < cams_BP.amax(1)
        if mask_B is not None:
            usable_B = usable_B & mask_B
        self._usable_B = usable_B
        threshold_B1 = otsu_threshold(self._cams_BHW)[:, None]
        self._blobs_BP = (cams_BP.double() * 255.0 >= threshold_B1) & usable_B[:, None]
        boxed = settings.region == "box_of_largest"
        self._boxes = _BoxesOfLargest(self._blobs_BP.view_as(cams_BHW)) if boxed else None

    @torch.no_grad()
    def labels(self) -> Tensor:
        """What :func:`sample_seeds` returns."""
        settings, cams_BHW, blobs_BP = self._settings, self._cams_BHW, self._blobs_BP
        bg_noise_BP, fg_noise_BP = self._noise_B2P.unbind(1)
        cams_BP, usable_B1 = cams_BHW.flatten(1), self._usable_B[:, None]
        region_BP = self._region() & usable_B1
        if settings.fg_fraction < 1.0:
            region_BP = _strongest(cams_BP, region_BP, settings.fg_fraction)
        if settings.bg_complement:
            outside_BP = ~blobs_BP
        else:
            outside_BP = _strongest(-cams_BP, torch.ones_like(blobs_BP), settings.bg_fraction)
        weights_BP = cams_BP + 1e-8 if settings.weighted else torch.ones_like(cams_BP)
        fg_BP = _draw(weights_BP, region_BP, settings.n_fg, fg_noise_BP)
        bg_BP = _draw(torch.ones_like(cams_BP), outside_BP & usable_B1, settings.n_bg, bg_noise_BP)
        fg_BHW, bg_BHW = (_dilate(drawn_BP.view_as(cams_BHW), settings.dilation) for drawn_BP in (fg_BP, bg_BP))
        labels_BHW = torch.full(cams_BHW.shape, IGNORE, dtype=torch.int64, device=cams_BHW.device)
        return labels_BHW.masked_fill_(fg_BHW & ~bg_BHW, FOREGROUND).masked_fill_(bg_BHW & ~fg_BHW, BACKGROUND)

    def _region(self) -> Tensor:
        if self._settings.region == "otsu":
            return self._blobs_BP
        if self._boxes is None:
            return torch.ones_like(self._blobs_BP)
        height, width = self._cams_BHW.shape[1:]
        x0, y0, x1, y1 = self._boxes.boxes()[:, :, None].unbind(1)
        rows_H = torch.arange(height, device=self._cams_BHW.device)
        cols_W = torch.arange(width, device=self._cams_BHW.device)
        in_rows_BH, in_cols_BW = (rows_H >= y0) & (rows_H < y1), (cols_W >= x0) & (cols_W < x1)
        return (in_rows_BH[:, :, None] & in_cols_BW[:, None, :]).flatten(1)


def _strongest(values_BP: Tensor, among_BP: Tensor, fraction: float) -> Tensor:
    """Of each row's pixels in ``among_BP``, the floor(fraction * count) with the largest values (ties: first pixel)."""
    keep_B1 = (among_BP.sum(1, keepdim=True).double() * fraction).floor()
    order_BP = values_BP.masked_fill(~among_BP, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank_P = torch.arange(values_BP.shape[1], device=values_BP.device)
    return torch.zeros_like(among_BP).scatter_(1, order_BP, rank_P < keep_B1)


def _uniforms(cams_BHW: Tensor, noise: Tensor | torch.Generator | None) -> Tensor:
    """Numbers in (0, 1] of shape [B, 2, H, W]."""
    batch, height, width = cams_BHW.shape
    if not isinstance(noise, Tensor):
        # torch draws from [0, 1); a 0 would never arrive.
        return 1.0 - torch.rand(batch, 2, height, width, generator=noise, device=cams_BHW.device)
    if noise.shape != (batch, 2, height, width):
        raise ValueError(f"sample_seeds: wanted noise {(batch, 2, height, width)}, got {tuple(noise.shape)}")
    return noise


def _draw(weights_BP: Tensor, candidates_BP: Tensor, n: int, noise_BP: Tensor) -> Tensor:
    """Mask of at most n candidates per row, drawn without replacement with probability proportional to the weight."""
    arrival_BP = -noise_BP.log() / weights_BP
    arrival_BP = arrival_BP.masked_fill(~candidates_BP, torch.inf)
    first_Bn, index_Bn = arrival_BP.topk(min(n, arrival_BP.shape[1]), dim=1, largest=False, sorted=False)
    return torch.zeros_like(candidates_BP).scatter_(1, index_Bn, first_Bn.isfinite())


def _dilate(mask_BHW: Tensor, side: int) -> Tensor:
    if side == 1:
        return mask_BHW
    return F.max_pool2d(mask_BHW[:, None].float(), side, stride=1, padding=side // 2)[:, 0] > 0
