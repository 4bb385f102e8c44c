"""Golden losses: every recipe of ``configs/`` trains 20 optimizer steps of each stage, and all digits are kept.

::

    .venv/bin/python tests/golden/record.py                # compare with the golden files
    .venv/bin/python tests/golden/record.py --write        # record anew, for a change that is meant to change numbers
    .venv/bin/python tests/golden/record.py --write demo   # one recipe

A recipe runs as it is but for a tiny data set, 32 pixels, two windows a step, random first weights and float32, in one
process and one thread. The digits shall not depend on the machine, so whatever chooses its arithmetic by the CPU is
held to its most common form (`CPU_INDEPENDENT`), and oneDNN and NNPACK are off.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parents[2]
RECIPES = tuple(sorted((path.stem for path in (ROOT / "configs").glob("*.yaml")), reverse=True))  # the longest first
STEPS = 20  # of each stage: EPOCHS times 9 shots in steps of 2 windows, the last of which is filled up with a repeat
EPOCHS, WINDOWS = 4, 2
SHOTS = {"train": 3, "val": 1}  # of each of three classes
SMALL = (
    *("run.stages=[classifier,cams,localizer]", "data.resize=40", "data.crop=32", "data.workers=0"),
    *("model.weights=none", "engine.device=cpu", "engine.precision=fp32", "engine.threads=1"),
    *(f"classifier.epochs={EPOCHS}", f"classifier.global_batch={WINDOWS}", f"localizer.epochs={EPOCHS}"),
    *(f"evaluation.validate_every={EPOCHS}", "checkpoint.keep=1", "log.every_steps=1", "log.tensorboard=false"),
)
UNREPEATABLE = ("frames_per_s", "data_wait", "tflops", "mfu", "memory_gib")  # of what a training step reports
PINNED = ("torch", "numpy", "opencv-python-headless")

CPU_INDEPENDENT = {
    "ATEN_CPU_CAPABILITY": "default",
    "CUDA_VISIBLE_DEVICES": "",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4",  # exp, log and others of libm
    "JSIMD_FORCENONE": "1",  # libjpeg-turbo
    "MKL_CBWR": "COMPATIBLE",
    "MKL_NUM_THREADS": "1",
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_CORETYPE": "Prescott",
    "OPENBLAS_NUM_THREADS": "1",
    "OPENCV_CPU_DISABLE": "SSE4.1,SSE4.2,AVX,FP16,AVX2,AVX512-SKX",
    "OPENCV_IPP": "disabled",
    "OPENCV_OPENCL_RUNTIME": "disabled",
}


def golden_file(recipe: str) -> Path:
    """Where the digits of a recipe are kept."""
    return Path(__file__).parent / f"{recipe}.json"


def versions() -> dict[str, str]:
    """What the digits may depend on; they are comparable only where all of it is as recorded."""
    found = {name: importlib.metadata.version(name).partition("+")[0] for name in PINNED}
    return found | {"machine": f"{platform.system()} {platform.machine()}"}


def record(recipe: str, *more: str) -> dict[str, Any]:
    """Train in a process of its own; the settings `more` win over all others.

    Raises:
        RuntimeError: the run failed; with its output.
    """
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        done = subprocess.run(
            [sys.executable, __file__, "--inside", folder, recipe, *more],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | CPU_INDEPENDENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{recipe} ended with exit code {done.returncode}:\n{done.stdout}")
        return json.loads((Path(folder) / "recording.json").read_text())


def record_all(recipes: Iterable[str]) -> list[dict[str, Any]]:
    """Recordings of several recipes, made by two processes at a time."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(record, recipes))


def first_difference(golden: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    """The first step and term of `found` that is not exactly the golden one, with both values; None if all are."""
    if golden["data_sha256"] != found["data_sha256"]:
        hashes = f"{golden['data_sha256']} recorded, {found['data_sha256']} now"
        return f"the data are others (SHA-256 of the shards: {hashes})"
    for old, new in zip(golden["steps"], found["steps"], strict=False):
        for name in old | new:
            if old.get(name) != new.get(name):
                place = f"{old['stage']}, step {old['step']}, {name}"
                return f"{place}: recorded {_readable(old.get(name))}, now {_readable(new.get(name))}"
    counts = len(golden["steps"]), len(found["steps"])
    return None if counts[0] == counts[1] else f"{counts[0]} steps recorded, {counts[1]} now"


def explain(recipe: str, golden: Mapping[str, Any], difference: str) -> str:
    """What a developer needs to know about a difference."""
    return (
        f"{recipe}: {difference}\n  recorded on {golden['recorded_on']}, this is {_this_machine()}\n"
        f"  if numbers are meant to change: .venv/bin/python tests/golden/record.py --write {recipe}"
    )


def _readable(digits: object) -> str:
    return f"{digits} ({float.fromhex(digits):.9g})" if isinstance(digits, str) and "0x" in digits else f"{digits}"


def _this_machine() -> str:
    """Processor and C library: not compared, since they should not matter, but the first suspects if they do."""
    try:
        model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        model = None
    return f"{model[1] if model else platform.processor()}, {' '.join(platform.libc_ver())}"


def _write_data(folder: Path) -> Path:
    """Shards of three classes: 9 shots of 1 to 9 frames for training and 3 for validation."""
    from shards.dataset import BuildOptions, build_dataset
    from shards.sources.frames_csv import read_frames_csv
    from tests.conftest import AS_IT_IS, FrameFolder

    frames = FrameFolder(folder / "frames")
    for split, shots in SHOTS.items():
        for label, cls in enumerate(("bird", "cat", "train")):
            for shot in range(shots):
                frames.add_shot(
                    split,
                    f"{cls}/{split}-video-{shot // 2}/shot-{shot % 2:03d}",
                    1 + (3 * shot + 2 * label) % 9,
                    size=((53, 41), (41, 53), (67, 45))[(shot + label) % 3],
                    boxes_per_frame=int(split == "val"),
                    seed=len(frames.frames),
                )
    options = BuildOptions(AS_IT_IS, frames_per_piece=4, shard_mb=0.04)
    build_dataset(read_frames_csv(frames.save(), AS_IT_IS), folder / "shards", options)
    return folder / "shards"


def _train(folder: Path, recipe: str, more: Sequence[str]) -> None:
    """Run the recipe and leave ``recording.json`` in the folder."""
    import torch

    from colocam_dist.config import load
    from colocam_dist.training import pipeline

    steps: list[dict[str, Any]] = []

    class FullPrecision(pipeline.MetricsLog):
        """Keeps the digits that the file rounds away."""

        def write(self, stage: str, kind: str, epoch: int, step: int, values: Mapping[str, Any]) -> None:
            if kind == "train":
                digits = {name: float(value).hex() for name, value in values.items() if name not in UNREPEATABLE}
                steps.append({"stage": stage, "step": step, **digits})

    torch.backends.mkldnn.set_flags(False)
    torch.backends.nnpack.set_flags(False)
    shards = _write_data(folder)
    hashed = hashlib.sha256(b"".join(shard.read_bytes() for shard in sorted(shards.rglob("*.tar"))))
    path = ROOT / "configs" / f"{recipe}.yaml"
    settings = [f"data.shards={shards}", f"run.folder={folder / 'runs'}", *SMALL]
    settings.append(f"localizer.global_batch={WINDOWS * load(path, settings).data.n_frames}")
    with mock.patch.object(pipeline, "MetricsLog", FullPrecision):
        pipeline.run(load(path, [*settings, *more]))
    recording = {
        "versions": versions(),
        "recorded_on": _this_machine(),
        "data_sha256": hashed.hexdigest(),
        "steps": steps,
    }
    (folder / "recording.json").write_text(json.dumps(recording))


def _save(recipe: str, recording: Mapping[str, Any]) -> None:
    """One line a step, so that a change can be read as one."""
    head = json.dumps({name: value for name, value in recording.items() if name != "steps"}, indent=1)[:-2]
    lines = ",\n".join(f"  {json.dumps(step)}" for step in recording["steps"])
    golden_file(recipe).write_text(f'{head},\n "steps": [\n{lines}\n ]\n}}\n')


def main() -> int:
    """Compare or write; 1 = there are differences."""
    parser = argparse.ArgumentParser(description="Golden losses of the recipes: compare, or record anew.")
    parser.add_argument("--write", action="store_true", help="record anew")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("recipes", nargs="*", help="names of files in configs/ (default: all)")
    given = parser.parse_args()
    if given.inside is not None:
        _train(given.inside, given.recipes[0], given.recipes[1:])
        return 0
    recipes = given.recipes or RECIPES
    differences = 0
    for recipe, recording in zip(recipes, record_all(recipes), strict=True):
        if given.write:
            _save(recipe, recording)
            continue
        golden = json.loads(golden_file(recipe).read_text())
        difference = first_difference(golden, recording)
        differences += difference is not None
        sys.stdout.write((explain(recipe, golden, difference) if difference else f"{recipe}: all digits equal") + "\n")
    return int(differences > 0)


if __name__ == "__main__":
    sys.exit(main())
