"""Times, errors and memory of the affinities, ours beside peers: ``python benchmarks/crf.py [--frames VIDEO ...]``.

The color term couples all pixels of n frames; the frame term those of one frame by color and position. All methods see
the same pixels in the same process and take turns, so that a machine's drift meets them alike. Errors are of 2 W t at
sampled pixels against float64 over all pixels. KeOps is measured on a part and extrapolated with the square of the
pixels where there are many; such rows say so. Without ``--frames`` (videos or folders of pictures) clips are generated.

Writes crf.csv and crf.png into ``--output`` and prints a table. Peers that are not installed are named and left out.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from crf_methods import PEERS, NotHere, Ours, features, percentile, truth_at
from torch import Tensor

from colocam_dist.kernels import COLOR_BACKENDS, FRAME_BACKENDS

FIELDS = [
    "frames", "term", "n", "size", "method", "forward_p20", "forward_ms", "forward_p80", "both_p20", "both_ms",
    "both_p80", "error", "peak_mb", "times_ours", "note",
]  # fmt: skip


def main() -> int:
    """Measure every case and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--frames", type=Path, nargs="*", default=[None], help="videos or folders of pictures")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--windows", type=int, nargs="+", default=[1, 4, 16, 64], help="frames per window")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("out/crf"))
    given = parser.parse_args()
    print(header(given.device), flush=True)
    rows: list[dict[str, Any]] = []
    for source in given.frames:
        frames = pictures(source, max(given.windows), given.size).to(given.device)
        name = source.stem if source else "generated"
        for n in [n for n in given.windows if n <= len(frames)]:
            rows += case(name, "color", frames[:n], given.peers, given.repeats)
        rows += case(name, "frame", frames[:1], given.peers, given.repeats)
    write(rows, given.output)
    print(table(rows))
    return 0


def case(name: str, term: str, frames: Tensor, peers: list[str], repeats: int) -> list[dict[str, Any]]:
    """All methods on one window, in turns."""
    fg = blob(len(frames), frames.shape[-1]).to(frames.device)
    common = {"frames": name, "term": term, "n": len(frames), "size": frames.shape[-1]}
    rows, methods = [], {}
    for backend in ("auto", *(COLOR_BACKENDS if term == "color" else FRAME_BACKENDS)):
        rows.append(common | {"method": f"ours {backend}"})
        methods[f"ours {backend}"] = lambda backend=backend: Ours(term, backend, fg, frames)
    for peer in peers:
        rows.append(common | {"method": peer})
        methods[peer] = lambda peer=peer: PEERS[peer](term, fg, frames)
    built = {}
    for row in rows:
        try:
            built[row["method"]] = methods[row["method"]]()
        except NotHere as reason:
            row["note"] = str(reason)
    spent = in_turns(built, repeats, frames.device)
    chosen = torch.randperm(fg.numel(), generator=torch.Generator().manual_seed(0))[: 200 if len(frames) < 16 else 50]
    chosen = chosen.to(frames.device)
    truth = truth_at(features(frames, term, torch.float64), (1.0 - 2.0 * fg).double().flatten(), chosen)
    for row in rows:
        work = built.get(row["method"])
        if work is not None:
            factor = getattr(work, "factor", 1.0)
            row["note"] = f"extrapolated x {factor:,.0f}" if factor > 1.0 else ""
            for kind, values in zip(("forward", "both"), spent[row["method"]], strict=True):
                row[f"{kind}_p20"], row[f"{kind}_ms"], row[f"{kind}_p80"] = (
                    factor * percentile(values, share) for share in (0.2, 0.5, 0.8)
                )
            row["peak_mb"] = peak_megabytes(work.both, frames.device)
            product = work.both()
            if product is not None:
                found = product.flatten()[chosen].double()
                row["error"] = float((found - truth).norm() / truth.norm())
            row["times_ours"] = row["both_ms"] / percentile(spent["ours auto"][1], 0.5)
        print(line(row), flush=True)
    return rows


def in_turns(built: dict[str, Any], repeats: int, device: torch.device) -> dict[str, tuple[list[float], list[float]]]:
    """Milliseconds of forward and of both, by method."""
    spent: dict[str, tuple[list[float], list[float]]] = {method: ([], []) for method in built}
    for _ in range(repeats):
        for method, work in built.items():
            if sum(spent[method][1]) < 20_000:  # a slow peer is not measured again and again
                for kind, call in enumerate((work.forward, work.both)):
                    spent[method][kind].append(milliseconds(call, device))
    return spent


def milliseconds(work: Any, device: torch.device) -> float:
    """Of one call, with the device's queue empty before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1000.0 * (time.perf_counter() - started)


def peak_megabytes(work: Any, device: torch.device) -> float | None:
    """By which the peak of one call exceeds what is in use before it; Linux or CUDA."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    status = Path("/proc/self/status")
    if not status.exists():
        return None

    def peak() -> float:
        return next(int(row.split()[1]) / 1000 for row in status.read_text().splitlines() if row.startswith("VmHWM"))

    ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed must be asked for again
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    work()
    return peak() - before


def pictures(source: Path | None, count: int, size: int) -> Tensor:
    """uint8 [up to count, 3, size, size]: short side scaled to size * 8 / 7, then the center."""
    read: list[np.ndarray[Any, Any]] = []
    if source is None:
        rng = np.random.default_rng(0)
        wide = cv2.resize(rng.integers(0, 256, (7, 11, 3), np.uint8), (2 * size + 2 * count, 2 * size))
        for frame in range(count):
            moved = wide[:, 2 * frame : 2 * frame + 2 * size]
            read.append(np.clip(moved + rng.normal(0, 4, moved.shape), 0, 255).astype(np.uint8))
    elif source.is_dir():
        paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
        read = [cv2.imread(str(path)) for path in paths[:count]]
    else:
        video = cv2.VideoCapture(str(source))
        while len(read) < count:
            good, frame = video.read()
            if not good:
                break
            read.append(frame)
        video.release()
    if not read:
        raise SystemExit(f"{source}: wanted a video or a folder with .jpg or .png pictures, found no frame")
    cropped = []
    for frame in read:
        scale = size * 8 / 7 / min(frame.shape[:2])
        scaled = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else 1)
        top, left = (scaled.shape[0] - size) // 2, (scaled.shape[1] - size) // 2
        cropped.append(cv2.cvtColor(scaled[top : top + size, left : left + size], cv2.COLOR_BGR2RGB))
    return torch.from_numpy(np.stack(cropped)).permute(0, 3, 1, 2).contiguous()


def blob(count: int, size: int) -> Tensor:
    """float32 [count, size, size] in (0, 1): a soft disc that moves, with smooth noise."""
    line = torch.linspace(-1, 1, size)
    shift = torch.linspace(-0.3, 0.3, count)[:, None, None]
    disc = torch.sigmoid(6 * (0.35 - line[:, None].square() - (line - shift).square()))
    noise = torch.rand(count, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(noise, size=(size, size), mode="bilinear")[:, 0]
    return (0.7 * disc + 0.3 * smooth).clamp(0.001, 0.999)


def header(device: str) -> str:
    """Where and with what this was measured."""
    answer = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    name = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    arguments = " ".join([Path(sys.argv[0]).name, *(Path(part).name for part in sys.argv[1:])])
    versions = f"torch {torch.__version__}, numpy {np.__version__}, Python {platform.python_version()}"
    return f"python benchmarks/{arguments}\ncommit {answer.stdout.strip() or 'unknown'}, {name}, {versions}\n"


def line(row: dict[str, Any]) -> str:
    """One row of the markdown table."""
    start = f"| {row['frames']} | {row['term']} | {row['n']} | {row['method']} |"
    if "both_ms" not in row:
        return f"{start} | | | | | {row['note']} |"
    error = f"{row['error']:.1e}" if "error" in row else ""
    spread = f"{row['both_p20']:,.1f} / {row['both_ms']:,.1f} / {row['both_p80']:,.1f}"
    memory = "" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}"
    return (
        f"{start} {row['forward_ms']:,.1f} | {spread} | {row['times_ours']:,.1f} | {error} | {memory} | {row['note']} |"
    )


def table(rows: list[dict[str, Any]]) -> str:
    """All rows."""
    head = "| frames | term | n | method | forward ms | both ms p20 / p50 / p80 | x ours | error | peak MB | |\n"
    return head + "|---|---|---|---|---|---|---|---|---|---|\n" + "\n".join(map(line, rows))


def write(rows: list[dict[str, Any]], folder: Path) -> None:
    """crf.csv and crf.png, complete or not at all."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"crf.{os.getpid()}.part"
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(folder / "crf.csv")
    measured = [row for row in rows if row["term"] == "color" and "both_ms" in row]
    names = list(dict.fromkeys(row["frames"] for row in measured))
    figure, axes = plt.subplots(1, len(names), figsize=(4.6 * len(names) + 2.2, 4.2), squeeze=False, sharey=True)
    for axis, name in zip(axes[0], names, strict=True):
        for method in dict.fromkeys(row["method"] for row in measured if row["method"] != "ours auto"):
            points = [
                (row["n"], row["both_ms"]) for row in measured if (row["frames"], row["method"]) == (name, method)
            ]
            style = "-o" if method.startswith("ours") else "--s"
            guessed = any(row["method"] == method and row["note"] for row in measured)
            label = f"{method} (extrapolated)" if guessed else method
            axis.loglog(*zip(*points, strict=True), style, label=label, markersize=4)
        axis.set(title=name, xlabel="frames in the window, n")
        axis.set_xticks(sorted({row["n"] for row in measured}), minor=False)
        axis.minorticks_off()
        axis.xaxis.set_major_formatter("{x:.0f}")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("ms, value and gradient")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.set_layout_engine("constrained")
    figure.savefig(partial, format="png", dpi=150)
    partial.replace(folder / "crf.png")
    plt.close(figure)


if __name__ == "__main__":
    raise SystemExit(main())
