"""Counter-based random numbers on the device: the same frame draws the same numbers on any rank, step and machine.

Shape suffixes: B frames, M numbers per frame, P values of an image.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["content_keys", "frame_normals", "frame_uniforms"]

MASK64 = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def frame_uniforms(frame_ids_B: Tensor, count: int, *, seed: int, epoch: int) -> Tensor:
    """Independent uniform numbers for each frame, a pure function of (seed, epoch, frame id, position).

    SplitMix64 (Steele, Lea, Flood 2014) evaluated at a counter, in wrapping int64 arithmetic, which is the same on
    CPUs and GPUs.

    Args:
        frame_ids_B: int64 ``[B]`` global frame ids.
        count: M, at most 2**24.
        seed: of the run.
        epoch: from 0.

    Returns:
        float32 ``[B, M]`` on the device of `frame_ids_B`, strictly inside (0, 1), in steps of 2**-23.
    """
    if count > 1 << 24:
        raise ValueError(f"frame_uniforms: wanted at most 2**24 numbers per frame, got {count}")
    run = _mix_integer(_mix_integer(seed) + epoch)
    key_B1 = _mix(frame_ids_B.long() + _signed(run))[:, None]
    position_M = torch.arange(count, device=frame_ids_B.device)
    bits_BM = _mix(key_B1 + position_M * _signed(GOLDEN))
    # 23 bits and a half step fit float32 exactly, so neither 0 nor 1 can come out.
    return ((_shift(bits_BM, 41)).float() + 0.5) * 2.0**-23


def frame_normals(frame_ids_B: Tensor, count: int, *, seed: int, epoch: int) -> Tensor:
    """Independent standard normal numbers for each frame: :func:`frame_uniforms` through the inverse distribution.

    Returns:
        float32 ``[B, M]``, within 5.4 of 0. Equal on all machines up to the rounding of ``torch.erfinv``.
    """
    uniforms_BM = frame_uniforms(frame_ids_B, count, seed=seed, epoch=epoch)
    return torch.erfinv(2.0 * uniforms_BM - 1.0) * 2.0**0.5


def content_keys(images_BCHW: Tensor) -> Tensor:
    """A key per image that depends on its values and their places alone, for where there is no frame id.

    Args:
        images_BCHW: uint8 ``[B, C, H, W]``.

    Returns:
        int64 ``[B]`` on the same device, to be used as frame ids. Not a cryptographic hash.
    """
    values_BP = images_BCHW.flatten(1).long()
    place_P = torch.arange(1, values_BP.shape[1] + 1, device=values_BP.device) * _signed(GOLDEN)
    return _mix((values_BP * _mix(place_P)).sum(1))


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shift(z, 31)


def _mix_integer(z: int) -> int:
    z = (z + GOLDEN) & MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
    return z ^ (z >> 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's own is arithmetic."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(z: int) -> int:
    """The int64 with the same bits as the unsigned 64-bit `z`."""
    z &= MASK64
    return z - (1 << 64) if z >> 63 else z
