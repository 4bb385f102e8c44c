"""What to say when memory does not suffice."""

from __future__ import annotations

import torch

from colocam_dist.errors import ColocamError, MemoryLimitError, RunError
from colocam_dist.progress import Position

__all__ = ["is_memory_limit", "memory_limit"]

_BATCHES = {"cams": "cams.batch", "validate": "evaluation.batch", "evaluate": "evaluation.batch"}
"""The setting that says how many frames are in memory at once in a phase without micro-batches."""
_ON_CPU = ("can't allocate memory", "not enough memory", "Cannot allocate memory")


def is_memory_limit(error: BaseException) -> bool:
    """Whether an error says that memory was too little, on a GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and any(text in str(error) for text in _ON_CPU)


def memory_limit(error: BaseException, position: Position) -> ColocamError:
    """The error for the user, with what to lower; a MemoryLimitError if smaller micro-batches would help."""
    got = (str(error).splitlines() or [type(error).__name__])[0][:300]
    batch = _BATCHES.get(position.phase)
    if batch is not None:
        return RunError(
            "there is too little memory",
            where=position,
            got=got,
            fix=f"lower {batch}, which changes no figure, then resume with run.on_exists=resume",
        )
    return MemoryLimitError(
        "there is too little memory",
        where=position,
        got=got,
        fix="double engine.accumulation (same global batch in smaller micro-batches; with --max-restarts, "
        "engine.on_out_of_memory=halve does it), use engine.precision=bf16, or more ranks, then resume with "
        "run.on_exists=resume; or lower data.n_frames or data.crop in a run of another name",
    )
