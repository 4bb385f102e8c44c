"""What a GPU has to show of the affinity kernels: right on every kind of frame, and how fast. Run by gpu_check.py.

Shapes: n frames of one window, H = W = size. Truth is the definition in float64, on the device.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from colocam_dist.kernels import COLOR_BACKENDS, FRAME_BACKENDS, PreparedColors, color_affinity, frame_affinity

Operator = Callable[..., tuple[Tensor, Tensor]]
# Largest relative error (value, gradient in L2) of each form.
LIMITS = {
    "histogram": (1e-6, 1e-6),
    "histogram_fp32": (2e-6, 2e-5),  # fp32 sums lose digits in bins of many pixels; that is what packed words are for
    "mixed": (1e-4, 5e-4),
    "exact": (1e-6, 1e-6),
    "grid": (1e-3, 3e-3),
}
# Microseconds to reach at 224 x 224, forward and backward, replayed from a graph.
TARGETS = {4: 60.0, 16: 100.0, 64: 200.0, 1024: 1500.0}
FRAME_TARGET = 1500.0  # 32 frames


def clip(kind: str, n: int, size: int) -> Tensor:
    """uint8 [n, 3, size, size] on the GPU: "moving" clouds with noise, "random", "black" or "letterbox" (a quarter)."""
    generator = torch.Generator(device="cuda").manual_seed(len(kind) + n)
    if kind == "black":
        return torch.zeros(n, 3, size, size, dtype=torch.uint8, device="cuda")
    if kind == "random":
        return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, device="cuda", generator=generator)
    coarse = torch.rand(1, 3, 8, 12, device="cuda", generator=generator)
    wide = torch.nn.functional.interpolate(coarse, size=(size, size + n), mode="bicubic", align_corners=False)[0]
    frames = torch.stack([wide[:, :, frame : frame + size] for frame in range(n)])
    frames = 255.0 * frames + 4.0 * torch.randn(frames.shape, device="cuda", generator=generator)
    frames = frames.clamp(0, 255).to(torch.uint8)
    if kind == "letterbox":
        bar = size // 8
        frames[:, :, :bar] = frames[:, :, -bar:] = 0
    return frames


def blob(n: int, size: int) -> Tensor:
    """float32 [n, size, size] in (0, 1) on the GPU."""
    line = torch.linspace(-1, 1, size, device="cuda")
    disc = torch.sigmoid(6 * (0.35 - line[:, None].square() - line.square()))
    noise = torch.rand(n, size, size, device="cuda", generator=torch.Generator(device="cuda").manual_seed(0))
    return (0.8 * disc + 0.2 * noise).clamp(0.001, 0.999)


def errors() -> list[dict[str, Any]]:
    """Value and gradient of every Triton form against float64, on small windows of every kind."""
    rows = []
    for operator, forms in ((color_affinity, COLOR_BACKENDS), (frame_affinity, FRAME_BACKENDS)):
        for kind in ("moving", "random", "black", "letterbox"):
            frames, fg = clip(kind, 3, 97), blob(3, 97)
            truth = _value_and_gradient(operator, fg.double(), frames, "torch:exact")
            for form in forms:
                ours = _value_and_gradient(operator, fg, frames, f"triton:{form}")
                found = [
                    float((one.double() - other).norm() / other.norm()) for one, other in zip(ours, truth, strict=True)
                ]
                good = all(error <= limit for error, limit in zip(found, LIMITS[form], strict=True))
                rows.append({"operator": operator.__name__, "form": form, "frames": kind, "value": found[0],
                             "gradient": found[1], "good": good})  # fmt: skip
    return rows


def sampled_errors() -> list[dict[str, Any]]:
    """W t at 500 pixels of full windows of 64 frames of 224 px against float64 over all pixels."""
    rows = []
    for kind in ("moving", "letterbox", "black"):
        frames, fg = clip(kind, 64, 224), blob(64, 224)
        _, gradient = _value_and_gradient(color_affinity, fg, frames, "triton:histogram")
        colors = frames.permute(0, 2, 3, 1).reshape(-1, 3).double() / 15.0
        t = (1.0 - 2.0 * fg).flatten().double()
        chosen = torch.randperm(len(t), generator=torch.Generator().manual_seed(0))[:500].cuda()
        truth = torch.stack([(torch.exp(-0.5 * (colors - colors[p]).square().sum(1)) * t).sum() for p in chosen])
        error = float((gradient.flatten()[chosen].double() / 2.0 - truth).norm() / truth.norm())
        rows.append({"frames": kind, "n": 64, "gradient": error, "good": error <= 1e-6})
    return rows


def same_bits() -> bool:
    """Packed words: the same bits in every run, and for frames in any order."""
    frames, fg = clip("moving", 16, 224), blob(16, 224)
    first, again = (_value_and_gradient(color_affinity, fg, frames, "triton:histogram") for _ in range(2))
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1)).cuda()
    moved = _value_and_gradient(color_affinity, fg[order], frames[order], "triton:histogram")
    return (
        all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
        and torch.equal(first[0], moved[0])
        and torch.equal(first[1][order], moved[1])
    )


def other_ways() -> dict[str, bool]:
    """Under torch.compile and autocast, prepared on a side stream, and NaN without a wait."""
    frames, fg = clip("moving", 4, 112), blob(4, 112)
    value, total = color_affinity(fg, frames)
    compiled = torch.compile(lambda maps: color_affinity(maps, frames)[0] * 1.0, fullgraph=True)(fg)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        cast, _ = color_affinity(fg, frames)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        prepared = PreparedColors(frames)
    torch.cuda.current_stream().wait_stream(side)
    bad = fg.clone()
    bad[0, 0, 0] = float("nan")
    return {
        "torch.compile": bool(torch.allclose(compiled, value, rtol=1e-6)),
        "autocast": bool(torch.equal(cast, value)),
        "prepared": all(torch.equal(one, other) for one, other in zip(prepared(fg), (value, total), strict=True)),
        "NaN": bool(color_affinity(bad, frames)[0].isnan()),
    }


def copy_ceiling() -> float:
    """Bytes per second of a copy of 1 GiB, read and written, best of 20."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / (min(_microseconds(lambda: target.copy_(source), 20)) * 1e-6)


def times(ceiling: float) -> list[dict[str, Any]]:
    """Forward and backward, replayed from a CUDA graph and called eagerly, of every form that fits a second."""
    rows = []
    for n in (1, 4, 16, 64, 256, 1024):
        for kind in ("moving",) if n != 64 else ("moving", "letterbox", "black", "random"):
            frames, fg = clip(kind, n, 224), blob(n, 224)
            for form in COLOR_BACKENDS if kind == "moving" else ("histogram",):
                if form != "exact" or n <= 4:
                    row = _timed(color_affinity, f"triton:{form}", fg, frames)
                    floor = 14 * fg.numel() / ceiling * 1e6
                    target = TARGETS.get(n) if form == "histogram" and kind == "moving" else None
                    rows.append({"operator": "color", "form": form, "frames": kind, "n": n, **row,
                                 "floor_us": floor, "target_us": target})  # fmt: skip
            del frames, fg
            torch.cuda.empty_cache()
    frames, fg = clip("moving", 32, 224), blob(32, 224)
    for form in FRAME_BACKENDS:
        row = _timed(frame_affinity, f"triton:{form}", fg, frames)
        target = FRAME_TARGET if form == "grid" else None
        rows.append({"operator": "frame", "form": form, "frames": "moving", "n": 32, **row,
                     "floor_us": 14 * fg.numel() / ceiling * 1e6, "target_us": target})  # fmt: skip
    windows = clip("moving", 32, 224).view(8, 4, 3, 224, 224)
    row = _timed(color_affinity, "triton:histogram", blob(32, 224).view(8, 4, 224, 224), windows)
    rows.append({"operator": "color", "form": "histogram", "frames": "8 windows", "n": 4, **row,
                 "floor_us": 14 * 32 * 224**2 / ceiling * 1e6, "target_us": None})  # fmt: skip
    return rows


def _value_and_gradient(operator: Operator, fg: Tensor, frames: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    leaf = fg.clone().requires_grad_()
    value, _ = operator(leaf, frames, backend=backend)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), gradient


def _timed(operator: Operator, backend: str, fg: Tensor, frames: Tensor) -> dict[str, float]:
    leaf = fg.clone().requires_grad_()

    def step() -> None:
        value, _ = operator(leaf, frames, backend=backend, validate=False)
        (leaf.grad,) = torch.autograd.grad(value.sum(), leaf)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    peak = torch.cuda.max_memory_allocated() - before
    eager = _microseconds(step, 20)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    replayed = sorted(_microseconds(graph.replay, 40))
    return {
        "graph_us_p20": replayed[8],
        "graph_us": statistics.median(replayed),
        "graph_us_p80": replayed[32],
        "eager_us": statistics.median(eager),
        "peak_mb": peak / 1e6,
    }


def _microseconds(work: Callable[[], object], repeats: int) -> list[float]:
    found = []
    for _ in range(repeats + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        found.append(1000.0 * start.elapsed_time(end))
    return found[3:]
