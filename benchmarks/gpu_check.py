"""The checks that need a GPU, in one command: ``python benchmarks/gpu_check.py [--parts PART ...] [--output FILE]``.

``--dry-run`` does ``costs`` in small on a CPU, to see that the command works.

1. ``kernels``: every Triton kernel on the device against the definition in float64, on natural-looking, random,
   all-black and letterboxed frames; the same bits in every run; ``torch.compile``, autocast, side streams.
2. ``times`` from CUDA graphs and events, beside a measured copy ceiling and the times to reach.
3. ``seeds``: equal to the CPU's, number for number.
4. ``costs`` of training and inference at full size (benchmarks/cost.py): ResNet-50, 224 pixels, 32 frames, in every way
   that settings offer, held against the goals, and where the rest of the time goes.
5. ``runs``: one short run of the whole pipeline on generated clips in fp32, in bf16 and compiled (or on ``--shards``).

Prints what it measures, and writes everything as JSON, after each part what there is so far. Ends with status 1 if a
check failed and 2 if there is no GPU. A time that is missed is marked, not failed. It has not been run yet.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cost
import gpu_kernels
import torch
from cost_steps import CLOCKS, WAYS, Case, settings

from colocam_dist.distributed import connect
from colocam_dist.files import write_atomically
from colocam_dist.seeds import SeedSettings, pixel_noise, sample_seeds

ROOT = Path(__file__).parents[1]
PARTS = ("kernels", "times", "seeds", "costs", "runs")
GOALS = {"step_ms": 60.0, "fps": 3000.0}  # of the localizer on an H200
RUNS = {
    "fp32": (),
    "bf16": ("engine.precision=bf16",),
    "compiled": ("engine.precision=bf16", "engine.channels_last=true", "engine.compile=default"),
}


def main() -> int:
    """Run every check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, help="shards to train on; default: generated clips")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all, in this order")
    parser.add_argument("--dry-run", action="store_true", help="costs only, in small, on a CPU")
    parser.add_argument("--output", type=Path, default=Path("gpu_check.json"), help="default: %(default)s")
    given = parser.parse_args()
    if given.dry_run:
        result: dict[str, Any] = {"machine": cost.machine("cpu", "wall")}
        checks = [costs(result, Case("resnet18", 33, 8, 4, torch.device("cpu")), ["plain", "fused"], repeats=2)]
    elif not torch.cuda.is_available():
        print("no CUDA device: nothing was checked", file=sys.stderr)
        return 2
    else:
        result = {"machine": machine()}
        print(json.dumps(result["machine"]))
        checks = []
        parts: dict[str, Callable[[], list[tuple[str, bool]]]] = {
            "kernels": lambda: kernels(result),
            "times": lambda: times(result),
            "seeds": lambda: [seeds()],
            "costs": lambda: [costs(result, Case("resnet50", 224, 32, 4, torch.device("cuda")), list(WAYS), 30)],
            "runs": lambda: runs(given.shards),
        }
        for name in given.parts:
            checks += attempt(name, parts[name])
            save(result, checks, given.output)  # a machine that is lent may be taken back
    save(result, checks, given.output)
    failed = [name for name, good in checks if not good]
    print(f"failed: {', '.join(failed)}" if failed else "all checks passed")
    return int(bool(failed))


def attempt(part: str, work: Callable[[], list[tuple[str, bool]]]) -> list[tuple[str, bool]]:
    """What a part finds; if it ends with an error, that is printed, and the other parts go on."""
    try:
        return work()
    except Exception:
        traceback.print_exc()
        return [(part, False)]


def save(result: dict[str, Any], checks: list[tuple[str, bool]], output: Path) -> None:
    """Write what there is so far."""
    write_atomically(output, json.dumps({**result, "checks": dict(checks)}, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """Where and with what this was measured."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "commit": commit.stdout.strip() or "unknown",
        "system": platform.platform(),
    }


def kernels(result: dict[str, Any]) -> list[tuple[str, bool]]:
    """Errors of every kernel, and the other ways to call them."""
    result["errors"] = gpu_kernels.errors()
    print("| operator | form | frames | value error | gradient error | |\n|---|---|---|---|---|---|")
    for row in result["errors"]:
        verdict = "" if row["good"] else "TOO LARGE"
        found = f"{row['value']:.1e} | {row['gradient']:.1e}"
        print(f"| {row['operator']} | {row['form']} | {row['frames']} | {found} | {verdict} |")
    result["sampled"] = gpu_kernels.sampled_errors()
    for row in result["sampled"]:
        print(f"64 {row['frames']} frames of 224 px: W t at 500 pixels, error {row['gradient']:.1e}")
    result["other_ways"] = gpu_kernels.other_ways() | {"same bits": gpu_kernels.same_bits()}
    return [
        ("kernel errors", all(row["good"] for row in result["errors"] + result["sampled"])),
        *result["other_ways"].items(),
    ]


def times(result: dict[str, Any]) -> list[tuple[str, bool]]:
    """The table of times, which are marked if they are missed, not failed."""
    ceiling = result["copy_bytes_per_s"] = gpu_kernels.copy_ceiling()
    print(f"copy ceiling {ceiling / 1e12:.2f} TB/s; floor = 14 bytes per pixel at that rate")
    result["times"] = gpu_kernels.times(ceiling)
    print("| operator | form | frames | n | graph us p20 / p50 / p80 | eager us | floor us | to reach us | peak MB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in result["times"]:
        target = row["target_us"]
        verdict = "" if target is None else f"{target:.0f}{'' if row['graph_us'] <= target else ' MISSED'}"
        spread = f"{row['graph_us_p20']:.0f} / {row['graph_us']:.0f} / {row['graph_us_p80']:.0f}"
        print(
            f"| {row['operator']} | {row['form']} | {row['frames']} | {row['n']} | {spread} | {row['eager_us']:.0f} "
            f"| {row['floor_us']:.1f} | {verdict} | {row['peak_mb']:.0f} |"
        )
    return []


def seeds() -> tuple[str, bool]:
    """The same frames give the same seeds on both devices."""
    cams, frames = gpu_kernels.blob(8, 112).cpu(), torch.arange(8)
    drawn = []
    for device in ("cpu", "cuda"):
        noise = pixel_noise(frames.to(device), (112, 112), seed=3, epoch=1)
        drawn.append(sample_seeds(cams.to(device), SeedSettings(n_fg=50, n_bg=50), noise).cpu())
    share = float((drawn[0] == drawn[1]).float().mean())
    print(f"seeds: {100 * share:.3f} % of pixels labeled alike on CPU and GPU")
    return "seeds", share > 0.999


def runs(shards: Path | None) -> list[tuple[str, bool]]:
    """A short run at 224 px in each precision."""
    checks = []
    with tempfile.TemporaryDirectory() as folder:
        if shards is None:
            shards = Path(folder) / "shards"
            build = ["-m", "shards.build", "--source", "synthetic", "--output", str(shards), "--size", "320x240"]
            subprocess.run([sys.executable, *build], cwd=ROOT, check=True)
        for name, engine in RUNS.items():
            given = [f"data.shards={shards}", f"run.folder={folder}", f"run.name={name}", *engine]
            given += ["data.resize=256", "data.crop=224", "classifier.epochs=4"]
            given += ["localizer.epochs=4", "localizer.loss.frame_crf.scale=0.25"]
            command = [sys.executable, "launchers/train.py", "--config", "configs/demo.yaml", *given]
            good = subprocess.run(command, cwd=ROOT, check=False).returncode == 0
            if good:
                rows = [json.loads(line) for line in (Path(folder) / name / "metrics.jsonl").open()]
                last = [r for r in rows if r["stage"] == "localizer" and r["kind"] == "train"][-1]
                print(f"{name}: {last['frames_per_s']:.0f} frames/s, {last['memory_gib']:.2f} GiB")
            checks.append((f"run: {name}", good))
    return checks


def costs(result: dict[str, Any], case: Case, ways: list[str], repeats: int) -> tuple[str, bool]:
    """Table 4 in every way, the goals, and where the time of a step goes. Times are marked, not failed."""
    workers = connect(settings(case, "plain").engine)
    clock, case = CLOCKS["wall"], case._replace(device=workers.device)
    try:
        found = {
            "sizes": cost.sizes(case),
            "steps": cost.steps(case, ways, repeats, clock, workers),
            "inference": cost.inference(case, ways, [1, case.frames, 4 * case.frames], repeats, clock),
        }
    finally:
        workers.close()
    result["cost"] = found
    print(cost.tables(found))
    ours = {
        kind: [row for row in cost.measured(found[kind]) if row["method"] == "localizer"]
        for kind in ("steps", "inference")
    }
    if not (ours["steps"] and ours["inference"]):
        return "costs", False
    step = min(ours["steps"], key=lambda row: row["ms_p50"])
    fastest = max(ours["inference"], key=lambda row: row["fps"])
    reached = step["ms_p50"] <= GOALS["step_ms"], fastest["fps"] >= GOALS["fps"]
    verdicts = ["reached" if good else "MISSED" for good in reached]
    print("\nThe goals are for resnet50 at 224 px on an H200.")
    print(f"step: {step['ms_p50']:.1f} ms ({step['way']}), goal {GOALS['step_ms']:.0f} ms: {verdicts[0]}")
    print(f"maps: {fastest['fps']:.0f} frames/s ({fastest['way']}, {fastest['batch']} at once), goal "
          f"{GOALS['fps']:.0f}: {verdicts[1]}")  # fmt: skip
    total = sum(step["parts_ms"].values())
    for name, ms in sorted(step["parts_ms"].items(), key=lambda part: -part[1]):
        print(f"  {100 * ms / total:4.1f} %  {ms:8.2f} ms  {name}")
    return "costs", not any("error" in row for row in found["steps"] + found["inference"])


if __name__ == "__main__":
    raise SystemExit(main())
