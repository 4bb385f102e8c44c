"""What leaves the loader: batches of windows for training and of frames for evaluation.

Shapes: W windows (images: also width, last), N frames of a window or of an evaluation batch, C channels (3), H height,
h w height and width of an archived CAM.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["FrameBatch", "WindowBatch"]

_Batch = TypeVar("_Batch", "WindowBatch", "FrameBatch")


@dataclass
class WindowBatch:
    """One micro-batch of one rank.

    Args:
        images_WNCHW: uint8 RGB, cropped and flipped frame by frame.
        mask_WN: bool, False for a frame that only fills its place: a copy in a shot shorter than the window, or a
            neighbor's pixels in place of a damaged frame.
        labels_W: int64 class of the shot.
        crops_WN3: int32 (top, left, flip) of every frame, in pixels of the resized frame.
        frame_ids_WN: int64 id of the frame that the pixels (and the CAM) come from.
        shot_ids_W: int64.
        substituted_W: bool, True for a window that stands in for the planned one, of which no frame could be read.
        cams_WNhw: float16 archived maps of whole frames, uncropped, or None; each may be the maximum over several
            frames (:func:`colocam_dist.data.build.temporal_cams`).
        replaced: damaged frames that were replaced in planned windows; those of substitutes belong to the place where
            their own window stands in the plan.
        skipped_shots: shots without an undamaged frame in their window, passed over for the next one in plan order.
    """

    images_WNCHW: Tensor
    mask_WN: Tensor
    labels_W: Tensor
    crops_WN3: Tensor
    frame_ids_WN: Tensor
    shot_ids_W: Tensor
    substituted_W: Tensor
    cams_WNhw: Tensor | None
    replaced: int
    skipped_shots: int

    def to(self, device: torch.device | str, non_blocking: bool = True) -> WindowBatch:
        """The batch on ``device``; copies overlap with computing only if the batch is in pinned memory."""
        return _each_tensor(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def part(self, part: int, parts: int) -> WindowBatch:
        """The windows with every `parts`-th of their frames, beginning with number `part`; views where possible."""
        some = slice(part, None, parts)
        return replace(
            self,
            images_WNCHW=self.images_WNCHW[:, some],
            mask_WN=self.mask_WN[:, some],
            crops_WN3=self.crops_WN3[:, some],
            frame_ids_WN=self.frame_ids_WN[:, some],
            cams_WNhw=None if self.cams_WNhw is None else self.cams_WNhw[:, some],
        )

    def pin_memory(self) -> WindowBatch:
        """The batch in page-locked memory (DataLoader's thread calls this)."""
        return _each_tensor(self, Tensor.pin_memory)


@dataclass
class FrameBatch:
    """Whole frames for evaluation.

    Args:
        images_NCHW: uint8 RGB, resized to the square evaluation size.
        frame_ids_N: int64.
        labels_N: int64 class of the frame's shot.
        valid_N: bool, False for a damaged frame, whose picture is black (only where damaged frames are let pass).
    """

    images_NCHW: Tensor
    frame_ids_N: Tensor
    labels_N: Tensor
    valid_N: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = True) -> FrameBatch:
        """The batch on ``device``; copies overlap with computing only if the batch is in pinned memory."""
        return _each_tensor(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> FrameBatch:
        """The batch in page-locked memory (DataLoader's thread calls this)."""
        return _each_tensor(self, Tensor.pin_memory)


def _each_tensor(batch: _Batch, change: Callable[[Tensor], Tensor]) -> _Batch:
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    changed: dict[str, Any] = {name: change(value) for name, value in values.items() if isinstance(value, Tensor)}
    return replace(batch, **changed)
