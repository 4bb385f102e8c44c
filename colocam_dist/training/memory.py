"""What to say when memory does not suffice."""

from __future__ import annotations

import torch

from colocam_dist.errors import MemoryLimitError

__all__ = ["is_memory_limit", "memory_limit"]

_ON_CPU = ("can't allocate memory", "not enough memory", "Cannot allocate memory")


def is_memory_limit(error: BaseException) -> bool:
    """Whether an error says that memory was too little, on a GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and any(text in str(error) for text in _ON_CPU)


def memory_limit(error: BaseException, position: str) -> MemoryLimitError:
    """The error for the user, with what to lower."""
    return MemoryLimitError(
        "there is too little memory",
        where=position,
        got=(str(error).splitlines() or [type(error).__name__])[0][:300],
        fix="double engine.accumulation (same global batch in smaller micro-batches; with --max-restarts, "
        "engine.on_out_of_memory=halve does it), lower data.n_frames or data.crop, use engine.precision=bf16, or more "
        "ranks; then resume with run.on_exists=resume",
    )
