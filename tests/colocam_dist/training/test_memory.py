from __future__ import annotations

import pytest
import torch

from colocam_dist.errors import MemoryLimitError, RunError
from colocam_dist.progress import Position
from colocam_dist.training.memory import is_memory_limit, memory_limit

TOO_LARGE = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (TOO_LARGE, True),
        (MemoryError(), True),
        (RuntimeError("not enough memory: you tried"), True),
        (RuntimeError("shapes"), False),
        (ValueError("not enough memory"), False),
    ],
)
def test_what_is_a_lack_of_memory(error: Exception, is_one: bool) -> None:
    assert is_memory_limit(error) == is_one


def test_a_step_of_training_wants_smaller_micro_batches() -> None:
    found = memory_limit(TOO_LARGE, Position("localizer", 3, "backward"))
    assert isinstance(found, MemoryLimitError), "by whose exit code the supervisor halves them"
    for part in ("CUDA out of memory. Tried to allocate 2.00 GiB.", "backward of step 4", "engine.accumulation"):
        assert part in str(found)
    assert "more\n" not in str(found)


@pytest.mark.parametrize(
    ("phase", "setting"),
    [("cams", "cams.batch"), ("validate", "evaluation.batch"), ("evaluate", "evaluation.batch")],
)
def test_elsewhere_micro_batches_would_not_help(phase: str, setting: str) -> None:
    found = memory_limit(TOO_LARGE, Position("localizer", 3, phase))
    assert type(found) is RunError
    assert f"lower {setting}" in str(found)
