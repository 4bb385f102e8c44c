"""Every Triton kernel compiles for a Hopper GPU, without one, and keeps its numbers in registers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.patient

pytest.importorskip("triton")


@pytest.mark.slow
def test_every_kernel_compiles_for_sm_90_without_spills(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    program = Path(__file__).with_name("compile_kernels.py")
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    kernels = [json.loads(line) for line in done.stdout.splitlines()]
    names = {kernel["kernel"] for kernel in kernels}
    assert names >= {"mark", "clear", "splat_words", "splat_floats", "rows_of_bricks", "rows_of_nodes", "times"}
    assert names >= {"slice_rows", "slice_bins", "bins_of_rows", "all_pairs", "splat", "couple", "forms", "slice_grid"}
    for kernel in kernels:
        what = f"{kernel['kernel']} {kernel['constants']}"
        assert kernel["spilled"] == 0, what
        assert 0 < kernel["registers"] <= 168, what  # 12 warps and more stay on a multiprocessor
        if kernel["kernel"].startswith("splat"):
            assert kernel["instructions"]["REDG"] > 0, what  # additions that do not wait for an answer
            assert kernel["instructions"]["ATOMG"] == 0, what
