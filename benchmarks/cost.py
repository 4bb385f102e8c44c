"""What each method costs, as the paper's Table 4: ``python benchmarks/cost.py [--device cuda] [--encoders ...]``.

For the classifier with LayerCAM and for the localizer: parameters, multiplications of a frame, the time of one SGD step
(stage 1; and all of stage 2: seeds, four loss terms, backward, optimizer) with its parts, the time of maps for new
frames, and memory. Steps and inference can be done in several ways (``--ways``, see docs/speed.md), which take turns
in one process, so that a machine's drift meets all alike.

"training" is one frame's share of the network's forward and backward pass; its bytes are those that operators move in
float32 when they run one by one; "operators" are all that a step calls, views aside.

Weights are random and frames generated: neither changes the time of the networks, but real frames have fewer colors,
which makes the affinities faster on a CPU. Loading is not included; benchmarks/loader.py measures it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from cost_steps import CLOCKS, TRAINING_ONLY, WAYS, Case, Inference, Step, in_turns, network, peak_bytes, settings
from crf_methods import percentile

from colocam_dist.distributed import Workers, connect
from colocam_dist.errors import ColocamError
from colocam_dist.files import write_atomically
from colocam_dist.flops import count_bytes, count_flops, peak_of

METHODS = ("layercam", "localizer")
ROOT = Path(__file__).parents[1]
# Paper, Table 4: ResNet-50, 224 pixels, batch 32, A100. It has 27.70 GMACs, which a head of 10 channels would give.
PUBLISHED = {
    "layercam": {"parameters": 23.5e6, "learnable": 23.5e6, "macs": 19.07e9, "flops": 38.23e9, "step_ms": 60.0,
                 "frame_ms": 19.99, "fps": 128.0},
    "localizer": {"parameters": 32.5e6, "learnable": 9.0e6, "macs": 27.70e9, "flops": 55.49e9, "step_ms": 840.0,
                  "frame_ms": 10.11, "fps": 464.0},
}  # fmt: skip


def main() -> int:
    """Measure and print; 1 = some way failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", nargs="+", default=["resnet50"])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--size", type=int, default=224, help="side of the frames in pixels (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="frames of an SGD step (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=4, help="n, frames of a window (default: %(default)s)")
    parser.add_argument("--ways", nargs="+", default=["plain"], choices=list(WAYS))
    parser.add_argument("--inference", type=int, nargs="*", default=[1, 32], help="batches (default: 1 32)")
    parser.add_argument("--no-steps", action="store_true", help="inference and sizes only")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS), help="cpu: CPU time, where cores are shared")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 = all cores")
    parser.add_argument("--no-keep-memory", action="store_true", help="engine.keep_memory=false")
    parser.add_argument("--json", type=Path, help="also write everything here")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device", file=sys.stderr)
        return 2
    first = Case(given.encoders[0], given.size, given.batch, given.frames, torch.device(given.device))
    updated = {"threads": given.threads, "keep_memory": not given.no_keep_memory}
    engine = settings(first, "plain").engine.model_copy(update=updated)
    workers = connect(engine)
    result: dict[str, Any] = {"machine": machine(given.device, given.clock), "sizes": [], "steps": [], "inference": []}
    print("\n".join(result["machine"].values()), flush=True)
    try:
        for encoder in given.encoders:
            case = first._replace(encoder=encoder, device=workers.device)
            measure(case, given, workers, result)
    finally:
        workers.close()
    print(tables(result))
    if given.json:
        write_atomically(given.json, json.dumps(result, indent=1))
    return int(len(measured(result["steps"] + result["inference"])) < len(result["steps"] + result["inference"]))


def measure(case: Case, given: argparse.Namespace, workers: Workers, result: dict[str, Any]) -> None:
    """All rows of one encoder."""
    clock = CLOCKS[given.clock]
    result["sizes"] += sizes(case)
    if not given.no_steps:
        result["steps"] += steps(case, given.ways, given.repeats, clock, workers)
    result["inference"] += inference(case, given.ways, given.inference, given.repeats, clock)


def sizes(case: Case) -> list[dict[str, Any]]:
    """Parameters and operations of one frame; exact."""
    rows = []
    for method in METHODS:
        model = network(case, method)
        parameters = list(model.parameters())
        flops = count_flops(model, 1, case.size, backward=False)
        rows.append(
            {
                "encoder": case.encoder,
                "size": case.size,
                "method": method,
                "parameters": sum(p.numel() for p in parameters),
                "learnable": sum(p.numel() for p in parameters if p.requires_grad),
                "macs": flops // 2,
                "flops": flops,
                "training_flops": count_flops(model, 1, case.size, backward=True),
                "training_bytes": count_bytes(model, case.frames, case.size, backward=True) / case.frames,
                "published": published(case, method, "parameters", "learnable", "macs", "flops"),
            }
        )
    return rows


def steps(
    case: Case, ways: Sequence[str], repeats: int, clock: Callable[[], float], workers: Workers
) -> list[dict[str, Any]]:
    """Milliseconds of SGD steps, and of their parts; the memory that a step takes with its weights and momentum."""
    built: dict[tuple[str, str], Step] = {}
    memory: dict[tuple[str, str], int] = {}
    rows: list[dict[str, Any]] = []
    for method, way in itertools.product(METHODS, ways):
        try:
            step = Step(case, method, way, workers)
            step()  # allocates momentum, compiles
            step()
            memory[method, way] = peak_bytes(step, case.device) - step.before
        except (RuntimeError, ColocamError) as error:
            rows.append(failure(case, method, way, error))
            continue
        built[method, way] = step
    spent = in_turns(built, repeats, clock)
    for (method, way), step in built.items():
        parts = [step.parts(clock) for _ in range(min(repeats, 5))]
        seconds = spent[method, way]
        middle = percentile(seconds, 0.5)
        flops = case.frames * count_flops(step.module.model, 1, case.size, backward=True)
        peak = None
        if case.device.type == "cuda":
            peak, _ = peak_of(torch.cuda.get_device_name(), step.engine.precision, tf32=step.engine.tf32)
        rows.append(
            {
                "encoder": case.encoder, "size": case.size, "batch": case.frames, "n": case.n, "method": method,
                "way": way, **spread(seconds), "frames_per_s": case.frames / middle, "tflops": flops / middle / 1e12,
                "mfu": None if peak is None else flops / middle / peak, "peak_mib": memory[method, way] / 2**20,
                "parts_ms": {n: 1e3 * statistics.median(p[n] for p in parts) for n in parts[0]},
                "operators": step.operators(), "published": published(case, method, "step_ms"),
            }
        )  # fmt: skip
    return rows


def inference(
    case: Case, ways: Sequence[str], batches: Sequence[int], repeats: int, clock: Callable[[], float]
) -> list[dict[str, Any]]:
    """Milliseconds a frame, and frames a second, of both methods' maps."""
    built: dict[tuple[str, str, int], Inference] = {}
    rows: list[dict[str, Any]] = []
    for method, way, batch in itertools.product(METHODS, [w for w in ways if w not in TRAINING_ONLY], batches):
        try:
            work = Inference(case, method, way, batch)
            work()
            work()
        except (RuntimeError, ColocamError) as error:
            rows.append(failure(case, method, way, error))
            continue
        built[method, way, batch] = work
    for (method, way, batch), seconds in in_turns(built, repeats, clock).items():
        each = [1.0 / batch * one for one in seconds]
        rows.append(
            {
                "encoder": case.encoder, "size": case.size, "method": method, "way": way, "batch": batch,
                **spread(each), "fps": 1.0 / percentile(each, 0.5),
                "published": published(case, method, "frame_ms", "fps"),
            }
        )  # fmt: skip
    return rows


def failure(case: Case, method: str, way: str, error: Exception) -> dict[str, Any]:
    """A row that says why there are no figures; the other ways are measured all the same."""
    reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
    return {"encoder": case.encoder, "size": case.size, "method": method, "way": way, "error": reason}


def measured(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those with figures."""
    return [row for row in rows if "error" not in row]


def published(case: Case, method: str, *names: str) -> dict[str, float]:
    """What the paper prints, where the case is the paper's."""
    return {name: PUBLISHED[method][name] for name in names} if (case.encoder, case.size) == ("resnet50", 224) else {}


def spread(seconds: list[float]) -> dict[str, float]:
    """Milliseconds."""
    return {f"ms_p{round(100 * share)}": 1e3 * percentile(seconds, share) for share in (0.2, 0.5, 0.8)}


def machine(device: str, clock: str) -> dict[str, str]:
    """Command, commit, machine, versions."""
    answer = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    name = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads of {processor()}"
    arguments = " ".join([Path(sys.argv[0]).name, *(Path(part).name for part in sys.argv[1:])])
    return {
        "command": f"python benchmarks/{arguments}",
        "where": f"commit {answer.stdout.strip() or 'unknown'}, {name}, {clock} time, load {os.getloadavg()[0]:.1f}",
        "versions": f"torch {torch.__version__}, CUDA {torch.version.cuda}, Python {platform.python_version()}",
    }


def processor() -> str:
    """The CPU's name."""
    path = Path("/proc/cpuinfo")
    rows = path.read_text().splitlines() if path.exists() else []
    return next((row.partition(":")[2].strip() for row in rows if row.startswith("model name")), platform.machine())


def tables(result: dict[str, Any]) -> str:
    """Everything as markdown; what the paper prints stands in brackets."""
    size_rows, step_rows, map_rows = [], [], []
    for row in result["sizes"]:
        paper = row["published"]
        cells = [f"{row[name]:,}{beside(paper, name, 1e6)}" for name in ("parameters", "learnable")]
        cells += [f"{row[name] / 1e9:.3f}{beside(paper, name, 1e9)}" for name in ("macs", "flops")]
        size_rows.append([*cells, f"{row['training_flops'] / 1e9:.2f}", f"{row['training_bytes'] / 1e9:.3f}"])
    for row in measured(result["steps"]):
        mfu = "" if row["mfu"] is None else f"{100 * row['mfu']:.1f} %"
        cells = [f"{row['batch']}", row["way"], f"{times(row)}{beside(row['published'], 'step_ms')}"]
        cells += [f"{row['frames_per_s']:.1f}", f"{row['tflops']:.3g}", mfu, f"{row['peak_mib']:.0f}"]
        step_rows.append([*cells, f"{row['operators'] or ''}"])
    for row in measured(result["inference"]):
        cells = [f"{row['batch']}", row["way"], f"{times(row)}{beside(row['published'], 'frame_ms')}"]
        map_rows.append([*cells, f"{row['fps']:.1f}{beside(row['published'], 'fps')}"])
    lines = grid("parameters, learnable, GMACs, GFLOPs, training GFLOPs, training GB", result["sizes"], size_rows)
    columns = "batch, way, step ms p20 / p50 / p80, frames/s, TFLOP/s, mfu, peak MiB, operators"
    lines += grid(columns, measured(result["steps"]), step_rows)
    for row in measured(result["steps"]):
        parts = ", ".join(f"{name} {ms:.3g}" for name, ms in row["parts_ms"].items())
        lines += ["", f"{row['encoder']}, {row['method']}, {row['way']}, ms: {parts}"]
    lines += grid("batch, way, ms a frame p20 / p50 / p80, frames/s", measured(result["inference"]), map_rows)
    for row in (*result["steps"], *result["inference"]):
        if "error" in row:
            lines += ["", f"{row['encoder']}, {row['method']}, {row['way']}: FAILED: {row['error']}"]
    return "\n".join(lines)


def grid(columns: str, rows: Sequence[dict[str, Any]], cells: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table; encoder, size and method stand in front."""
    names = ["encoder, px", "method", *columns.split(", ")]
    heads = [[f"{row['encoder']}, {row['size']}", row["method"]] for row in rows]
    body = [[*head, *rest] for head, rest in zip(heads, cells, strict=True)]
    return ["", *(f"| {' | '.join(line)} |" for line in (names, ["---"] * len(names), *body))]


def times(row: dict[str, Any]) -> str:
    """Three percentiles."""
    return " / ".join(f"{row[f'ms_p{share}']:.3g}" for share in (20, 50, 80))


def beside(paper: dict[str, float], name: str, unit: float = 1.0) -> str:
    """The paper's figure in brackets, if there is one."""
    return f" [{paper[name] / unit:g}]" if name in paper else ""


if __name__ == "__main__":
    raise SystemExit(main())
