"""The checks that need a GPU, in one command: ``python benchmarks/gpu_check.py [--kernels-only] [--output FILE]``.

1. Every Triton kernel on the device against the definition in float64, on natural-looking, random, all-black and
   letterboxed frames; the same bits in every run; ``torch.compile``, autocast, side streams.
2. Times from CUDA graphs and events, beside a measured copy ceiling and the times to reach.
3. Seeds: equal to the CPU's, number for number.
4. One short run of the whole pipeline on generated clips in fp32 and in bf16 (or on ``--shards``).

Prints what it measures, the table of times last, and writes everything as JSON. Ends with status 1 if a check failed
and 2 if there is no GPU. A time that is missed is marked, not failed. It has not been run yet.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import gpu_kernels
import torch

from colocam_dist.seeds import SeedSettings, pixel_noise, sample_seeds

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Run every check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, help="shards to train on; default: generated clips")
    parser.add_argument("--kernels-only", action="store_true", help="leave out seeds and runs")
    parser.add_argument("--output", type=Path, default=Path("gpu_check.json"), help="default: %(default)s")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: nothing was checked", file=sys.stderr)
        return 2
    result: dict[str, Any] = {"machine": machine()}
    print(json.dumps(result["machine"]))
    checks = kernels(result)
    if not given.kernels_only:
        checks += [seeds(), *runs(given.shards)]
    result["checks"] = dict(checks)
    times(result)
    partial = given.output.with_name(f"{given.output.name}.part")
    partial.write_text(json.dumps(result, indent=1))
    partial.replace(given.output)
    failed = [name for name, good in checks if not good]
    print(f"failed: {', '.join(failed)}" if failed else "all checks passed")
    return int(bool(failed))


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


def times(result: dict[str, Any]) -> None:
    """The table of times."""
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


def seeds() -> tuple[str, bool]:
    """The same frames give the same seeds on both devices."""
    cams, frames = gpu_kernels.blob(8, 112).cpu(), torch.arange(8)
    drawn = []
    for device in ("cpu", "cuda"):
        noise = pixel_noise(frames.to(device), (112, 112), seed=3, epoch=1)
        drawn.append(sample_seeds(cams.to(device), SeedSettings(n_fg=50, n_bg=50), noise).cpu())
    share = float((drawn[0] == drawn[1]).float().mean())
    print(f"seeds: {100 * share:.3f} % of pixels labelled alike on CPU and GPU")
    return "seeds", share > 0.999


def runs(shards: Path | None) -> list[tuple[str, bool]]:
    """A short run at 224 px in each precision."""
    checks = []
    with tempfile.TemporaryDirectory() as folder:
        if shards is None:
            shards = Path(folder) / "shards"
            build = ["-m", "shards.build", "--source", "synthetic", "--output", str(shards), "--size", "320x240"]
            subprocess.run([sys.executable, *build], cwd=ROOT, check=True)
        for precision in ("fp32", "bf16"):
            settings = [f"data.shards={shards}", f"run.folder={folder}", f"run.name={precision}"]
            settings += ["data.resize=256", "data.crop=224", f"engine.precision={precision}", "classifier.epochs=4"]
            settings += ["localizer.epochs=4", "localizer.loss.frame_crf.scale=0.25"]
            command = [sys.executable, "launchers/train.py", "--config", "configs/demo.yaml", *settings]
            good = subprocess.run(command, cwd=ROOT, check=False).returncode == 0
            if good:
                rows = [json.loads(line) for line in (Path(folder) / precision / "metrics.jsonl").open()]
                last = [r for r in rows if r["stage"] == "localizer" and r["kind"] == "train"][-1]
                print(f"{precision}: {last['frames_per_s']:.0f} frames/s, {last['memory_gib']:.2f} GiB")
            checks.append((f"run in {precision}", good))
    return checks


if __name__ == "__main__":
    raise SystemExit(main())
