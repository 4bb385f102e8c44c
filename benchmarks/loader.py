"""Speed of the training loader against what users commonly have, on the same frames of the same shards.

    python benchmarks/loader.py --shards DIR [--split train] [--frames 4] [--windows 8] [--workers 0 1 2] [--repeats 3]

Rows: (1) our stream; (2) one JPEG file a frame, PIL, float32, in a map-style Dataset; (3) stock WebDataset that decodes
every frame of a sample; (4) stock WebDataset that decodes the wanted frames only. All deliver the same frames, resized
to 256 px, randomly cropped to 224 px and mirrored. Rows 2 to 4 deliver normalized float32, as their users do; row 1
delivers uint8. The files of row 2 are written to a temporary folder. Times are taken from the second batch on, with the
page cache warm; CPU time is that of this process and its workers, from /proc (Linux only). Pillow is needed for rows 2
to 4.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
import torch
import webdataset as wds
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from colocam_dist.data.index import ShotIndex
from colocam_dist.data.plan import Plan
from colocam_dist.data.stream import WindowSettings, WindowStream

RESIZE, CROP = 256, 224
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def pil_transform(image: Image.Image) -> Tensor:
    """What a PIL user does with a frame: float32 [3, 224, 224]."""
    image = image.convert("RGB").resize((RESIZE, RESIZE), Image.Resampling.BILINEAR)
    top, left, flip = (int(value) for value in torch.randint(RESIZE - CROP + 1, (3,)))
    image = image.crop((left, top, left + CROP, top + CROP))
    if flip % 2:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    return (pixels.float() / 255 - MEAN) / STD


class JpegList(Dataset[Tensor]):
    """One file a frame."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, item: int) -> Tensor:
        with Image.open(self.paths[item]) as image:
            return pil_transform(image)


class Wanted:
    """The wanted frames of a WebDataset sample, by (shot, number of the frame in its shot)."""

    def __init__(self, wanted: set[tuple[str, int]], decoded: bool) -> None:
        self.wanted = wanted
        self.decoded = decoded

    def __call__(self, samples: Iterable[dict[str, Any]]) -> Iterator[Tensor]:
        for sample in samples:
            shot = sample["__key__"].rsplit("__", 1)[0]
            for name, value in sample.items():
                if name.endswith(".jpg") and (shot, int(name[:-4])) in self.wanted:
                    yield pil_transform(value if self.decoded else wds.autodecode.imagehandler("pil")("jpg", value))


def cpu_seconds() -> float:
    """User and system time of this process and all its living descendants (and of children they waited for)."""
    tick, parent, used = os.sysconf("SC_CLK_TCK"), {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            values = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:  # ended meanwhile
            continue
        parent[int(folder.name)] = int(values[1])
        used[int(folder.name)] = sum(int(value) for value in values[11:15]) / tick
    family = {os.getpid()}
    while more := {child for child, of in parent.items() if of in family} - family:
        family |= more
    return sum(used[member] for member in family)


def measure(batches: Iterable[Any], size: Callable[[Any], int]) -> tuple[float, float]:
    """Frames per CPU second and per second of wall time, from the second batch on."""
    iterator = iter(batches)
    next(iterator)
    cpu, wall, frames = cpu_seconds(), time.perf_counter(), 0
    for batch in iterator:
        frames += size(batch)
    wall = time.perf_counter() - wall
    return frames / (cpu_seconds() - cpu), frames / wall


def stock(urls: list[str], wanted: set[tuple[str, int]], decoded: bool, workers: int, batch: int) -> DataLoader[Tensor]:
    """Stock WebDataset pipeline; persistent workers, so that their CPU time can be read at the end."""
    data = wds.WebDataset(urls, shardshuffle=False, workersplitter=wds.split_by_worker, empty_check=False)
    if decoded:
        data = data.decode("pil")
    data = data.compose(Wanted(wanted, decoded)).batched(batch, collation_fn=torch.stack)
    return DataLoader(data, batch_size=None, num_workers=workers, persistent_workers=workers > 0)


def frames_of(stream: WindowStream) -> NDArray[np.int64]:
    """Frames of one epoch in the order of the stream."""
    return np.concatenate([batch.frame_ids_WN.numpy().ravel() for batch in stream])


def slugs(index: ShotIndex) -> list[str]:
    """Member key of every shot without its piece, read from the tars in shot order."""
    keys: list[str] = []
    for path in index.shard_paths:
        for sample in wds.WebDataset(str(path), shardshuffle=False):
            key = sample["__key__"].rsplit("__", 1)[0]
            if not keys or keys[-1] != key:
                keys.append(key)
    return keys


def main() -> None:
    """Measure every row and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--split", default="train")
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)

    index = ShotIndex.open(args.shards, args.split)
    plan = Plan(len(index.shots), args.windows, seed=0, last="drop")
    settings = WindowSettings(args.frames, "adjacent", 1.0, RESIZE, CROP, True)
    frames = frames_of(WindowStream(index, plan, settings))
    batch = args.windows * args.frames
    keys = slugs(index)
    first = np.array([shot.first_frame for shot in index.shots])
    wanted = {(keys[index.frame_shot[f]], int(f - first[index.frame_shot[f]])) for f in frames}
    urls = [str(path) for path in index.shard_paths]

    with tempfile.TemporaryDirectory() as folder:
        files = []
        for frame in frames.tolist():
            with index.shard_paths[index.frame_shard[frame]].open("rb") as shard:
                shard.seek(int(index.frame_offset[frame]))
                files.append(Path(folder, f"{frame}.jpg"))
                files[-1].write_bytes(shard.read(int(index.frame_size[frame])))

        def ours(workers: int) -> tuple[float, float]:
            stream = WindowStream(index, plan, settings, workers=workers)
            try:
                return measure(stream, lambda item: item.images_WNCHW.shape[0] * item.images_WNCHW.shape[1])
            finally:
                stream.close()

        def jpegs(workers: int) -> tuple[float, float]:
            return measure(DataLoader(JpegList(files), batch, num_workers=workers, persistent_workers=workers > 0), len)

        rows: dict[str, Callable[[int], tuple[float, float]]] = {
            "our stream, crc checked, uint8": ours,
            "one JPEG a frame, PIL, float32": jpegs,
            "stock WebDataset, all frames decoded": lambda workers: measure(
                stock(urls, wanted, True, workers, batch), len
            ),
            "stock WebDataset, wanted frames decoded": lambda workers: measure(
                stock(urls, wanted, False, workers, batch), len
            ),
        }
        versions = f"torch {torch.__version__}, OpenCV {cv2.__version__}, Pillow {PIL.__version__}"
        print(
            f"{len(frames)} frames, {len(index.shots)} shots, batches of {args.windows} x {args.frames}; {versions}, "
        )
        print(f"Python {platform.python_version()}, {os.cpu_count()} cores; median of {args.repeats}\n")
        print("| loader | " + " | ".join(f"{w} workers: frames/CPU-s | frames/s" for w in args.workers) + " |")
        print("| --- |" + " --- | --- |" * len(args.workers))
        for name, row in rows.items():
            cells = [np.median([row(workers) for _ in range(args.repeats)], axis=0) for workers in args.workers]
            print(f"| {name} | " + " | ".join(f"{cpu:.0f} | {wall:.0f}" for cpu, wall in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
