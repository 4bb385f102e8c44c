"""Freed memory stays with the process; in processes of their own, because it cannot be undone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = """
import resource, sys
import torch
from colocam_dist.allocator import keep_memory
if sys.argv[1] == "keep":
    assert keep_memory()
faults = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(4_000_000), torch.ones(12_000_000)]
    del tensors
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(faults[-1])
"""


def faults(way: str) -> int:
    """Pages that the last of several equal rounds had to ask the system for."""
    done = subprocess.run([sys.executable, "-c", CODE, way], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_a_second_round_touches_no_new_pages() -> None:
    assert faults("keep") < 100 < 10_000 < faults("plain")
