"""CLIP-ES over the tiny checkpoint, and frames for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from colocam_dist.clip_es.checkpoint import ClipCheckpoint, load_clip
from colocam_dist.clip_es.gradcam import ClipEs

CLASSES = ("bird", "cat", "train")


@pytest.fixture(scope="session")
def clip(tiny_clip: Path) -> ClipCheckpoint:
    """The tiny checkpoint, loaded. Do not change it."""
    torch.set_num_threads(1)
    return load_clip(tiny_clip)


@pytest.fixture(scope="session")
def model(clip: ClipCheckpoint) -> ClipEs:
    """CLIP-ES for the three classes of the tiny data set."""
    return ClipEs(clip, CLASSES)


@pytest.fixture
def frames() -> Callable[..., Tensor]:
    """Random uint8 frames ``[B, 3, H, W]`` of a few large squares."""

    def make(batch: int, height: int = 40, width: int = 40) -> Tensor:
        generator = torch.Generator().manual_seed(11)
        squares = torch.randint(0, 256, (batch, 3, height // 8, width // 8), dtype=torch.uint8, generator=generator)
        return squares.repeat_interleave(8, 2).repeat_interleave(8, 3)

    return make
