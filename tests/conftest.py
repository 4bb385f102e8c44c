"""Fixtures for all rooms: the reference data beside the checkout, a tiny dataset, a SLURM of small shell scripts."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from colocam_dist.slurm import snapshot
from shards.dataset import BuildOptions, build_dataset
from shards.images import PictureRule
from shards.sources.frames_csv import read_frames_csv

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a Triton kernel's module is imported for the first time

AS_IT_IS = PictureRule(keep_up_to=0, short_side=0, quality=95)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data and fixtures beside the checkout."""
    folder = Path(__file__).parents[1].parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"there is no reference data at {folder}")
    return folder


def smooth_picture(seed: int, width: int, height: int) -> NDArray[np.uint8]:
    """uint8 BGR [height, width, 3]: colored clouds, the same for the same seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def jpeg_of(image_BGR: NDArray[np.uint8], quality: int = 95) -> bytes:
    """The picture as JPEG."""
    return cv2.imencode(".jpg", image_BGR, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


@dataclass
class FrameFolder:
    """A folder in the form of the source frames-csv, written shot by shot; `save` writes the tables."""

    root: Path
    frames: list[tuple[object, ...]] = field(default_factory=list)
    boxes: list[tuple[object, ...]] = field(default_factory=list)

    def add_shot(
        self,
        split: str,
        shot: str,
        n_frames: int,
        *,
        size: tuple[int, int] = (53, 41),
        boxes_per_frame: int = 0,
        seed: int = 0,
        apart: int = 1,
    ) -> None:
        """Add the shot "class/video/shot" with frames of (width, height) pixels, whose numbers are `apart`."""
        folder = self.root / shot
        folder.mkdir(parents=True)
        width, height = size
        for frame in range(n_frames):
            path = folder / f"{apart * frame:05d}.jpg"
            path.write_bytes(jpeg_of(smooth_picture(1000 * seed + frame, width, height)))
            name = path.relative_to(self.root).as_posix()
            self.frames.append((split, name, shot.split("/")[0], width, height))
            for box in range(boxes_per_frame):
                x0, y0 = 2.5 + 3 * box + frame, 1.25 + 2 * box
                self.boxes.append((split, name, x0, y0, x0 + width / 2, y0 + height / 3))

    def save(self) -> Path:
        """Write frames.csv, and boxes.csv if there are boxes; returns the folder."""
        self._table("frames.csv", "split,path,class,width,height", self.frames)
        if self.boxes:
            self._table("boxes.csv", "split,path,x0,y0,x1,y1", self.boxes)
        return self.root

    def _table(self, name: str, header: str, rows: list[tuple[object, ...]]) -> None:
        with (self.root / name).open("w", newline="") as stream:
            csv.writer(stream).writerows([header.split(","), *rows])


@pytest.fixture
def frame_folder(tmp_path: Path) -> FrameFolder:
    """An empty FrameFolder."""
    return FrameFolder(tmp_path / "frames")


@pytest.fixture(scope="session")
def picture() -> Callable[[int, int, int], NDArray[np.uint8]]:
    """`smooth_picture`."""
    return smooth_picture


@pytest.fixture(scope="session")
def jpeg() -> Callable[..., bytes]:
    """`jpeg_of`."""
    return jpeg_of


@pytest.fixture(scope="session")
def tiny_frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes; train: 21 shots of 1..9 frames, val and test: 6 shots each, 1 or 2 boxes a frame; odd sizes."""
    folder = FrameFolder(tmp_path_factory.mktemp("tiny") / "frames")
    sizes = ((53, 41), (41, 53), (67, 45))
    seed = 0
    for split, shots in (("train", 7), ("val", 2), ("test", 2)):
        for label, cls in enumerate(("bird", "cat", "train")):
            for shot in range(shots):
                seed += 1
                folder.add_shot(
                    split,
                    f"{cls}/{split}-video-{shot // 2}/shot-{shot % 2:03d}",
                    1 + (3 * shot + 2 * label) % 9,
                    size=sizes[seed % 3],
                    boxes_per_frame=0 if split == "train" else 1 + shot,
                    seed=seed,
                )
    return folder.save()


@pytest.fixture(scope="session")
def tiny_shards(tiny_frames: Path) -> Path:
    """Dataset folder made from `tiny_frames`: several shards a split, pieces of 4 frames. Do not change it: copy it."""
    folder = tiny_frames.parent / "shards"
    options = BuildOptions(AS_IT_IS, frames_per_piece=4, shard_mb=0.04)
    build_dataset(read_frames_csv(tiny_frames, AS_IT_IS), folder, options)
    return folder


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Path]:
    """Makes the folder of a finished and evaluated run with random weights: (path, *settings) -> path."""
    from colocam_dist.config import dump, load
    from colocam_dist.inference.load import build_classifier, build_localizer
    from colocam_dist.runs.folder import RunFolder
    from colocam_dist.runs.weights import save_weights

    def make(path: Path, *settings: str) -> Path:
        small = ("model.encoder=resnet18", "model.decoder_channels=[16,16,8,8,8]", "data.resize=48", "data.crop=40")
        config = load(
            None, ["data.shards=none", f"run.folder={path.parent}", f"run.name={path.name}", *small, *settings]
        )
        folder = RunFolder(path)
        path.mkdir(parents=True)
        folder.config_path.write_text(dump(config))
        folder.write_json("classes.json", ["bird", "cat", "train"])
        localizer = build_localizer(config, build_classifier(config, 3, pretrained=False))
        facts = {"epoch": 1, "criterion": "best-localization", "score": 1.0}
        save_weights(folder.weights("localizer", "best-localization"), localizer, facts)
        folder.write_json("validation.json", {"localizer": {"threshold": 0.7, "corloc": 1.0, "thresholds": 50}})
        folder.write_json("done.json", {})
        return path

    return make


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory, make_run: Callable[..., Path]) -> Path:
    """A finished run of three classes and 40 px, with random weights. Do not change it: copy it."""
    return make_run(tmp_path_factory.mktemp("small") / "run")


@pytest.fixture(scope="session")
def write_video() -> Callable[[Path, int, int], Path]:
    """Writes clouds of color that move, 66 x 50 px: (path, frames, seed) -> path."""

    def write(path: Path, frames: int, seed: int) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (66, 50))
        sky = smooth_picture(seed, 66 + 2 * frames, 50)
        for frame in range(frames):
            writer.write(np.ascontiguousarray(sky[:, 2 * frame : 2 * frame + 66]))
        writer.release()
        return path

    return write


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP checkpoint: 40 pixels in patches of 8, ten image blocks, letters as words. Copy it to change it."""
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed (extra clip)")
    from colocam_dist.models.encoders.timm_pyramid import declare_torchvision_operators

    declare_torchvision_operators()  # transformers imports torchvision
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = "abcdefghijklmnopqrstuvwxyz.,"
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer.from_pretrained(folder).save_pretrained(folder)
    start, end = len(pieces) - 2, len(pieces) - 1
    text = {"vocab_size": len(pieces), "bos_token_id": start, "eos_token_id": end, "pad_token_id": end}
    text |= {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {"hidden_size": 30, "intermediate_size": 40, "num_hidden_layers": 10, "num_attention_heads": 3}
    vision |= {"image_size": 40, "patch_size": 8}
    torch.manual_seed(3)
    # Weights are large, so that maps and texts differ clearly.
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=20, initializer_factor=3.0)
    CLIPModel(config).save_pretrained(folder)
    return folder


SBATCH = """
case "$1" in
--version) echo "slurm-wlm 22.05.8"; exit ;;
--test-only)
  cp "$2" "$here/tested"
  echo "sbatch: Job 9 to start at 2026-11-25T15:40:37 using 2 processors on nodes vn1 in partition main" >&2
  exit ;;
esac
env | grep "^SLURM_" > "$here/environment"
number=$(($(cat "$here/number") + 1))
if [ "$number" -gt "$(cat "$here/last")" ]; then
  echo "sbatch: error: AssocMaxSubmitJobLimit" >&2
  echo "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy" >&2
  exit 1
fi
echo "$number" > "$here/number"
echo "Submitted batch job $number"
"""
SINFO = """
for word; do
  if [ "$word" = --format=%D ]; then cat "$here/free"; exit; fi
done
echo "main|2|4|1000|gpu:2|1:00:00"
echo "long|1|8|2000|(null)|infinite"
"""
SCONTROL = """
[ "$2" = partition ] || exit 1
echo "PartitionName=main AllowGroups=ALL Default=YES QoS=N/A GraceTime=0 MaxNodes=UNLIMITED MaxTime=01:00:00 MinNodes=0"
echo "PartitionName=long AllowGroups=ALL Default=NO QoS=N/A GraceTime=0 MaxNodes=UNLIMITED MaxTime=UNLIMITED MinNodes=0"
"""
SRUN = """
while case "$1" in --*) true ;; *) false ;; esac; do shift; done
exec "$@"
"""


class FakeSlurm:
    """Commands that stand alone on the PATH; their shell lines find the folder as $here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()

    def add(self, program: str, body: str = "") -> Path:
        """Add or replace a command."""
        path = self.bin / program
        head = f"#!/bin/sh\nPATH=/usr/bin:/bin\nhere={shlex.quote(str(self.folder))}\n"
        note = f'printf \'%s\\037\' {program} "$@" >> "$here/calls"\nprintf \'\\036\' >> "$here/calls"\n'
        path.write_text(f"{head}{note}{body}\n")
        path.chmod(0o755)
        return path

    def remove(self, program: str) -> None:
        """Take a command away."""
        (self.bin / program).unlink()

    def calls(self, program: str) -> list[list[str]]:
        """The arguments of each call of a command so far."""
        path = self.folder / "calls"
        calls = [call.split("\037")[:-1] for call in path.read_text().split("\036")[:-1]] if path.exists() else []
        return [words for name, *words in calls if name == program]

    def cluster(self) -> None:
        """Commands of a cluster that takes all that it is given; its first job is 101."""
        bodies = {"sbatch": SBATCH, "sinfo": SINFO, "scontrol": SCONTROL, "srun": SRUN, "scancel": ""}
        for program, body in bodies.items():
            self.add(program, body)
        self.queue()
        self.set("number", "100")
        self.set("last", "999")
        self.set("free", "2")

    def queue(self, *lines: str) -> None:
        """What squeue says: job|state|reason|nodes|elapsed|limit|start."""
        self.set("queue", "".join(f"{line}\n" for line in lines))
        self.add("squeue", 'cat "$here/queue"')

    def set(self, name: str, content: str) -> None:
        """Write a file that a command reads."""
        (self.folder / name).write_text(content)

    def read(self, name: str) -> str:
        """Read a file that a command wrote."""
        return (self.folder / name).read_text()


@pytest.fixture
def fake_slurm(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """No SLURM at first, and nothing else on the PATH."""
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    fake = FakeSlurm(tmp_path_factory.mktemp("slurm"))
    monkeypatch.setenv("PATH", str(fake.bin))
    return fake


@pytest.fixture
def small_package(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that is quickly copied when something is submitted, and an empty working folder."""
    package = tmp_path_factory.mktemp("package") / "colocam_dist"
    package.mkdir()
    (package / "code.py").touch()
    monkeypatch.setattr(snapshot, "_PACKAGE", package)
    monkeypatch.chdir(tmp_path)
    return package
