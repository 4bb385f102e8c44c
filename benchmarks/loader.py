"""Speed of the training stream against what users commonly have, on the same frames in one run.

    python benchmarks/loader.py --videos DIR [--native] [--frames 4] [--windows 8] [--workers 0 1 2] [--repeats 3]
    python benchmarks/loader.py --shards DIR ...

With --videos (a folder class/video.mp4), shards are built in a temporary folder as `python -m shards.build` would, or
with frames as large as the videos (--native), and readers that seek in the videos take part; with --shards they do not.
Rows: our stream; one JPEG file a frame and PIL, with the frames of the shards and with those of the videos; stock
WebDataset that decodes every frame of a sample, and one that decodes the wanted frames only; OpenCV (and decord and
torchcodec, where they import) seeking in the videos. All deliver the same adjacent windows, resized to 256 px, randomly
cropped to 224 px and mirrored; the others normalized float32, as their users do, ours uint8 (it is normalized on the
device). Times are taken from the second batch on, with the page cache warm. CPU time and memory are those of this
process and its workers, from /proc (Linux only). Pillow is needed.

Also: memory over ten epochs, our stream by number of frames, what the checksums cost, and the speed of making indexes.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
import torch
import webdataset as wds
from loader_peers import CROP, RESIZE, JpegWindows, VideoWindows, stock, video_readers
from torch.utils.data import DataLoader

from colocam_dist.data.index import ShotIndex
from colocam_dist.data.mixture import OrderSettings, epoch_order
from colocam_dist.data.plan import Plan
from colocam_dist.data.stream import WindowSettings, WindowStream
from shards.dataset import BuildOptions, build_dataset
from shards.images import PictureRule
from shards.index import rebuild_indexes
from shards.sources.video_files import decode
from shards.sources.video_unit import VideoOptions
from shards.sources.videos import read_videos


def family() -> list[Path]:
    """Folders in /proc of this process and all its living descendants."""
    parent = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:  # ended meanwhile
            continue
    members = {os.getpid()}
    while more := {child for child, of in parent.items() if of in members} - members:
        members |= more
    return [Path("/proc", str(member)) for member in members]


def cpu_seconds() -> float:
    """User and system time of the family, and of children that it waited for."""
    stats = [(folder / "stat").read_text().rsplit(")", 1)[1].split()[11:15] for folder in family()]
    return sum(int(value) for stat in stats for value in stat) / os.sysconf("SC_CLK_TCK")


def memory_mib() -> float:
    """Memory of the family in MiB; pages that processes share are divided among them (PSS)."""
    texts = [(folder / "smaps_rollup").read_text() for folder in family()]
    return sum(int(text.split("Pss:")[1].split()[0]) for text in texts) / 1024


def measure(batches: Iterable[Any], size: Callable[[Any], int]) -> tuple[float, float, float]:
    """Frames per CPU second and per second, from the second batch on, and memory at the end."""
    iterator = iter(batches)
    next(iterator)
    cpu, wall, frames = cpu_seconds(), time.perf_counter(), 0
    for batch in iterator:
        frames += size(batch)
    wall, cpu, memory = time.perf_counter() - wall, cpu_seconds() - cpu, memory_mib()
    return frames / max(cpu, 1 / os.sysconf("SC_CLK_TCK")), frames / wall, memory


class Case:
    """The frames of the comparison, and everything that delivers them."""

    def __init__(self, index: ShotIndex, args: argparse.Namespace, files: Path) -> None:
        self.index, self.args = index, args
        windows = [
            [int(frame) for frame in window]
            for batch in self.stream(args.frames)
            for window in batch.frame_ids_WN.numpy()
        ]
        self.batch = args.windows * args.frames
        self.rows: dict[str, Callable[[int], tuple[float, float, float]]] = {
            "our stream, crc checked, uint8": lambda workers: self.ours(args.frames, workers)
        }
        paths = {frame: self.jpeg(files, frame) for frame in {frame for window in windows for frame in window}}
        jpegs = [[paths[frame] for frame in window] for window in windows]
        self.rows["one JPEG a frame of the shards, PIL, float32"] = lambda workers: self.theirs(
            JpegWindows(jpegs), workers
        )
        keys, first = self.slugs(), index.shots.first_frame
        wanted = Counter(
            (keys[index.frame_shot[frame]], frame - int(first[index.frame_shot[frame]]))
            for window in windows
            for frame in window
        )
        urls = [str(path) for path in index.shard_paths]
        for decoded in (True, False):
            name = f"stock WebDataset, {'all' if decoded else 'wanted'} frames decoded"
            self.rows[name] = lambda workers, decoded=decoded: measure(
                stock(urls, dict(wanted), decoded, workers, self.batch), len
            )
        if args.videos:
            places = {path.stem: str(path) for path in args.videos.glob("*/*")}
            spans = [
                (places[index.shots[index.frame_shot[window[0]]].video], [int(index.frame_name[f]) for f in window])
                for window in windows
            ]
            own = self.jpegs_of_videos(files, spans)
            self.rows["one JPEG a frame of the videos, PIL, float32"] = lambda workers: self.theirs(
                JpegWindows(own), workers
            )
            for reader in video_readers():
                self.rows[f"seeking in the videos, {reader}, float32"] = lambda workers, reader=reader: self.theirs(
                    VideoWindows(spans, reader), workers
                )

    def stream(self, n: int, workers: int = 0) -> WindowStream:
        """Our stream of ``--batches`` batches of windows of n frames."""
        settings = OrderSettings(windows=self.args.batches * self.args.windows)
        order = epoch_order(self.index, settings, seed=0, global_batch=self.args.windows)
        window = WindowSettings(n, "adjacent", 1.0, RESIZE, CROP, True)
        return WindowStream(self.index, Plan(order, self.args.windows), window, workers=workers)

    def ours(self, n: int, workers: int) -> tuple[float, float, float]:
        """Measure one epoch of our stream."""
        with closing(self.stream(n, workers)) as stream:
            return measure(stream, lambda batch: batch.mask_WN.numel())

    def theirs(self, data: Any, workers: int) -> tuple[float, float, float]:
        """Measure one pass of a map-style dataset of windows."""
        loader = DataLoader(data, self.args.windows, num_workers=workers, persistent_workers=workers > 0)
        return measure(loader, lambda batch: batch.shape[0] * batch.shape[1])

    def jpeg(self, folder: Path, frame: int) -> Path:
        """A frame in a file of its own."""
        path = folder / f"{frame}.jpg"
        with self.index.shard_paths[self.index.frame_shard[frame]].open("rb") as shard:
            shard.seek(int(self.index.frame_offset[frame]))
            path.write_bytes(shard.read(int(self.index.frame_size[frame])))
        return path

    def jpegs_of_videos(self, folder: Path, spans: list[tuple[str, list[int]]]) -> list[list[Path]]:
        """The frames of the windows in files of their own, as large as the videos, quality 95."""
        paths = [[folder / f"{Path(video).stem}-{frame}.jpg" for frame in frames] for video, frames in spans]
        wanted = {path for window in paths for path in window}
        for video in {video for video, _ in spans}:
            for number, image in enumerate(decode(Path(video))):
                path = folder / f"{Path(video).stem}-{number}.jpg"
                if path in wanted:
                    cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 95])
        return paths

    def slugs(self) -> list[str]:
        """Member key of every shot without its piece, read from the tars in shot order."""
        keys: list[str] = []
        for path in self.index.shard_paths:
            for sample in wds.WebDataset(str(path), shardshuffle=False):
                key = sample["__key__"].rsplit("__", 1)[0]
                if not keys or keys[-1] != key:
                    keys.append(key)
        return keys


def table(case: Case) -> None:
    """Every loader with every number of workers: medians."""
    args = case.args
    print("| loader | " + " | ".join(f"{w} workers: frames/CPU-s | frames/s | MiB" for w in args.workers) + " |")
    print("| --- |" + " --- | --- | --- |" * len(args.workers))
    for name, row in case.rows.items():
        cells = [np.median([row(workers) for _ in range(args.repeats)], axis=0) for workers in args.workers]
        print(f"| {name} | " + " | ".join(f"{c:.0f} | {w:.0f} | {m:.0f}" for c, w, m in cells) + " |", flush=True)


def by_frames(case: Case) -> None:
    """Our stream by length of the window."""
    print("\n| frames of a window | frames/CPU-s, 0 workers |\n| --- | --- |")
    for n in (1, 2, 4, 8, 16):
        print(f"| {n} | {np.median([case.ours(n, 0)[0] for _ in range(case.args.repeats)]):.0f} |", flush=True)


def checksums(case: Case) -> None:
    """Time of crc32 over the frames of an epoch against that of the epoch."""
    frames = [int(frame) for batch in case.stream(case.args.frames) for frame in batch.frame_ids_WN.flatten()]
    contents = []
    for frame in frames:
        with case.index.shard_paths[case.index.frame_shard[frame]].open("rb") as shard:
            shard.seek(int(case.index.frame_offset[frame]))
            contents.append(shard.read(int(case.index.frame_size[frame])))
    crc, whole = [], []
    for _ in range(max(case.args.repeats, 3)):
        began = time.process_time()
        for content in contents:
            zlib.crc32(content)
        crc.append(time.process_time() - began)
        began = time.process_time()
        for _batch in case.stream(case.args.frames):
            pass
        whole.append(time.process_time() - began)
    print(f"\nchecksums: {min(crc) / min(whole):.2%} of the CPU time of the stream")


def ten_epochs(case: Case) -> None:
    """Memory after every epoch of one stream with two workers."""
    sizes = []
    with closing(case.stream(case.args.frames, 2)) as stream:
        for _ in range(10):
            for _batch in stream:
                pass
            gc.collect()
            sizes.append(memory_mib())
    print(f"memory after epochs 1 to 10, 2 workers, MiB: {', '.join(f'{size:.0f}' for size in sizes)}\n")


def indexes(case: Case) -> None:
    """Members (pictures and descriptions) of tars per CPU second when indexes are made again."""
    members = sum(sum(1 for _ in _members(path)) for path in case.index.shard_paths)
    folder, rates = Path(case.index.location), []
    for _ in range(max(case.args.repeats, 3)):
        kept = {path: path.read_bytes() for path in folder.glob("*.idx.npz")}
        try:
            for path in kept:
                path.unlink()
            began = time.process_time()
            rebuild_indexes(folder)
            rates.append(members / (time.process_time() - began))
        finally:
            for path, content in kept.items():
                path.write_bytes(content)
    print(f"\nindexes made again: {np.median(rates):.0f} members per CPU second")


def _members(path: Path) -> Iterable[Any]:
    import tarfile

    with tarfile.open(path) as tar:
        yield from tar


def main() -> None:
    """Measure every row and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--videos", type=Path)
    place.add_argument("--shards", type=Path)
    parser.add_argument("--native", action="store_true")
    parser.add_argument("--split", default="train")
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--batches", type=int, default=30)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        if args.videos:
            rule = PictureRule(0, 0, 95) if args.native else PictureRule(360, 320, 95)
            inputs = read_videos(args.videos, rule, VideoOptions(cuts="none", fractions={"train": 1.0}))
            build_dataset(inputs, Path(scratch, "shards"), BuildOptions(rule))
        index = ShotIndex.open(args.shards or Path(scratch, "shards"), args.split if args.shards else "train")
        Path(scratch, "files").mkdir()
        case = Case(index, args, Path(scratch, "files"))
        sizes = sorted({f"{w}x{h}" for w, h in zip(index.frame_width, index.frame_height, strict=True)})
        versions = f"torch {torch.__version__}, OpenCV {cv2.__version__}, Pillow {PIL.__version__}"
        print(f"{args.batches} batches of {args.windows} windows of {args.frames} frames; {', '.join(sizes)} px;")
        print(f"{versions}, Python {platform.python_version()}, {os.cpu_count()} cores; median of {args.repeats}\n")
        ten_epochs(case)
        table(case)
        by_frames(case)
        checksums(case)
        indexes(case)


if __name__ == "__main__":
    main()
