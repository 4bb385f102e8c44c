"""Compile every Triton kernel for sm_90 and print what it takes, one JSON line each. Needs no GPU.

A program of its own, because Triton either interprets or compiles in a process.
"""

from __future__ import annotations

import json
import re

import torch

from colocam_dist.kernels import triton_color
from colocam_dist.kernels.compiling import compiled_for
from colocam_dist.kernels.triton_color import TritonColorForm
from colocam_dist.kernels.triton_exact import exact_product
from colocam_dist.kernels.triton_frame import grid_product, grid_tables


def main() -> None:
    """Go through the forms with sizes as in training; nothing is computed."""
    frames = torch.zeros(1, 4, 3, 224, 224, dtype=torch.uint8)
    fg = torch.zeros(1, 4, 224, 224)
    frame_mask = torch.ones(1, 4, 1, 1, dtype=torch.bool).expand(fg.shape)
    with compiled_for(90) as kernels:
        for packed, mixed in ((True, False), (False, False), (False, True)):
            form = TritonColorForm(15.0, packed=packed, mixed=mixed)
            core_t, _ = form.cores(fg, frames, frame_mask)
            form.cores(fg, frames, None)
            form.ones_core(frames, None)
            form.t_core(fg, frames, None)
            form.product(frames, core_t)
            triton_color.DIRECT = 0
            form.product(frames, core_t)
            triton_color.DIRECT = 1 << 19
        exact_product(frames, fg, fg, 15.0, None)
        exact_product(frames, fg, fg, 15.0, 100.0)
        for weights in (None, torch.ones_like(fg)):
            for tolerance in (1e-2, 1e-3):
                tables = grid_tables(224, 224, 15.0, 100.0, tolerance, fg.device)
                grid_product(fg[0], frames[0], None if weights is None else weights[0], tables, True)
    for kernel in kernels:
        counts = {
            name: len(re.findall(rf"\b{name}\b", kernel.instructions)) for name in ("REDG", "ATOMG", "HGMMA", "HMMA")
        }
        print(json.dumps(kernel._asdict() | {"instructions": counts, "code": len(kernel.instructions)}))


if __name__ == "__main__":
    main()
