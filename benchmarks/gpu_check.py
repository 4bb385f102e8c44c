"""The checks that need a GPU, in one command: ``python benchmarks/gpu_check.py [--shards DIR]``.

1. The affinity operators on the GPU against the exact form in float64, and their times.
2. Seeds: equal to the CPU's, number for number.
3. One short run of the whole pipeline on generated clips in fp32 and in bf16 (or on ``--shards``).

Prints what it measures and ends with status 1 if a check failed, 2 if there is no GPU. It has not been run yet.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from affinity import blob, header, pictures, row

from colocam_dist.kernels import color_affinity, frame_affinity
from colocam_dist.seeds import SeedSettings, pixel_noise, sample_seeds

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Run every check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, help="shards to train on; default: generated clips")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: nothing was checked", file=sys.stderr)
        return 2
    print(header("cuda"))
    failed = [name for name, good in (operators(), seeds(), *runs(given.shards)) if not good]
    print(f"failed: {', '.join(failed)}" if failed else "all checks passed")
    return int(bool(failed))


def operators() -> tuple[str, bool]:
    """GPU gradients against float64 on the CPU, then a table of times."""
    fg, frames = blob(2, 48), pictures(None, 2, 48)
    good = True
    for operator, limit in ((color_affinity, 1e-5), (frame_affinity, 2e-2)):
        results = []
        for device, dtype, backend in (("cuda", torch.float32, "auto"), ("cpu", torch.float64, "exact")):
            leaf = fg.to(device, dtype).requires_grad_()
            value, _ = operator(leaf, frames.to(device), backend=backend)
            results.append(torch.autograd.grad(value.sum(), leaf)[0].double().cpu())
        error = float((results[0] - results[1]).norm() / results[1].norm())
        print(f"{operator.__name__}: gradient error {error:.1e} (limit {limit:.0e})")
        good &= error < limit
    for size in (112, 224):
        for n in (4, 16, 64):
            row("color_affinity", color_affinity, blob(n, size).cuda(), pictures(None, n, size).cuda())
        row("frame_affinity", frame_affinity, blob(1, size).cuda(), pictures(None, 1, size).cuda())
    return "affinity operators", good


def seeds() -> tuple[str, bool]:
    """The same frames give the same seeds on both devices."""
    cams, frames = blob(8, 112), torch.arange(8)
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
