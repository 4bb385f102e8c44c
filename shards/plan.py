"""Plan a run before there is one: ``python -m shards.plan --shards DIR --ranks R --workers K --global-batch G``.

Prints steps, bytes per rank, shards in use, what caches need to hold, and how long ranks would wait for data. Nothing
is read but the index, and some frames to see what one costs on this machine (unless --frame-ms says it). For machines
that are not here: --times makes the data larger by copies, --ranks may be any number.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np

from colocam_dist.console import run_console
from colocam_dist.data.frames import FrameReader, augment
from colocam_dist.data.index import ShotIndex
from colocam_dist.errors import ConfigError
from shards.arguments import number, positive, say_bytes
from shards.simulate import Cluster, Dataset, Forecast, forecast, lru_traffic

__all__ = ["frame_seconds", "main", "wait_share"]

_TIMED = 200  # frames


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, forecast, print a table."""
    options = _parser().parse_args(arguments)
    if options.lanes > 1 and options.block_shards is None:
        raise ConfigError(
            "lanes need blocks of shards",
            where="--lanes",
            got=f"{options.lanes} lanes, all windows mixed",
            wanted="--block-shards beside it",
            fix="give --block-shards as well, as training needs data.block_shards for data.lanes",
        )
    index = ShotIndex.open(options.shards, options.split)
    data = Dataset.of(index, options.times)
    cluster = Cluster(options.ranks, min(options.ranks_per_node, options.ranks), options.workers)
    began = time.perf_counter()
    epoch = forecast(
        data,
        cluster,
        global_batch=options.global_batch,
        n_frames=options.n_frames,
        central_fraction=options.central_fraction,
        block_shards=options.block_shards,
        lanes=options.lanes,
        seed=options.seed,
    )
    planned = time.perf_counter() - began
    per_frame = options.frame_ms / 1000 if options.frame_ms else frame_seconds(index, options.resize)
    rows = _rows(data, cluster, epoch, options.global_batch)
    rows.append(
        ("cost of a frame", f"{per_frame * 1000:.2f} ms of one core" + ("" if options.frame_ms else ", timed now"))
    )
    supply = max(cluster.workers, 1) / per_frame
    rows.append(("a rank's loader gives", f"{supply:.0f} frames/s = {supply / epoch.frames_per_step:.2f} steps/s"))
    if options.cache_gb:
        fetched = lru_traffic(epoch.shards_by_step, data.shard_bytes, int(options.cache_gb * 1e9))
        rows.append((f"fetched by a node, cache of {options.cache_gb:g} GB", f"{say_bytes(fetched)} an epoch"))
    else:
        fetched = int(epoch.node_fetch_bytes.max())
    if options.step_time:
        line = options.node_mb_per_s * 1e6 if options.node_mb_per_s else None
        waited = wait_share(epoch, cluster, per_frame, options.step_time, fetched, line)
        rows.append(("predicted data wait", f"{waited:.1%} of the time at {options.step_time:g} s a step"))
    rows.append(("planned in", f"{planned:.2f} s"))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:{width}}  {value}")
    return 0


def wait_share(
    epoch: Forecast,
    cluster: Cluster,
    frame_seconds: float,
    step_seconds: float,
    fetched: int,
    node_bytes_per_s: float | None,
) -> float:
    """Part of the time that a rank waits for data, in [0, 1).

    The slowest of computing, reading and fetching sets the pace; they overlap as long as there are workers.

    Args:
        epoch: the forecast.
        cluster: who reads; without workers a rank reads between its steps.
        frame_seconds: of one core for one frame.
        step_seconds: of computing for one step.
        fetched: bytes that a node fetches in the epoch.
        node_bytes_per_s: its line; None = local data.
    """
    reading = epoch.frames_per_step * frame_seconds / max(cluster.workers, 1)
    fetching = fetched / epoch.steps / node_bytes_per_s if node_bytes_per_s else 0.0
    pace = max(step_seconds, reading, fetching) if cluster.workers else max(step_seconds + reading, fetching)
    return 1 - step_seconds / pace


def frame_seconds(index: ShotIndex, resize: int) -> float:
    """Seconds that one core of this machine takes to read, check, decode and crop a frame (median over some)."""
    reader, rng, spent = FrameReader(index), np.random.default_rng(0), []
    for frame in rng.integers(index.n_frames, size=_TIMED).tolist():
        began = time.process_time()
        image = reader.read(frame, short_side=resize)
        augment(image, resize=resize, crop=resize * 7 // 8, rng=rng)
        spent.append(time.process_time() - began)
    reader.close()
    return float(np.median(spent))


def _rows(data: Dataset, cluster: Cluster, epoch: Forecast, global_batch: int) -> list[tuple[str, str]]:
    total = data.bytes
    fetch = epoch.node_fetch_bytes
    return [
        ("data", f"{data.n_shots} shots of {data.frames} frames"),
        ("its shards", f"{data.n_shards}, {say_bytes(total)}"),
        ("cluster", f"{cluster.ranks} ranks on {cluster.nodes} nodes, {cluster.workers} workers a rank"),
        ("steps an epoch", f"{epoch.steps} of {global_batch} windows, {epoch.share} a rank"),
        (
            "read by a rank",
            f"{say_bytes(epoch.rank_bytes.mean())} of pictures an epoch (most: {say_bytes(epoch.rank_bytes.max())})",
        ),
        ("shards of a node", f"{_range(epoch.node_shards)} of {data.n_shards}, {say_bytes(fetch.max())}"),
        ("shards in use at once on a node", f"{epoch.live_shards}"),
        ("cache that a node needs", f"{say_bytes(epoch.live_bytes)} to fetch every shard once an epoch"),
        ("fetched by all nodes", f"{say_bytes(fetch.sum())} an epoch = {fetch.sum() / total:.1f} x the data"),
    ]


def _range(counts: np.ndarray) -> str:
    return f"{counts.max()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m shards.plan", description="Plan a run before there is one.")
    add = parser.add_argument
    add("--shards", required=True, metavar="DIR", help="folder or URL of the dataset")
    add("--split", default="train", help="default train")
    add("--times", type=number(1), default=1, metavar="N", help="as if there were N times as many shards (default 1)")
    add("--ranks", type=number(1), required=True, metavar="R", help="processes that train")
    add("--ranks-per-node", type=number(1), default=8, metavar="N", help="of them on one machine (default 8)")
    add("--workers", type=number(0), default=2, metavar="K", help="reading processes of a rank (default 2)")
    add("--global-batch", type=number(1), required=True, metavar="G", help="windows of one step on all ranks together")
    add("--n-frames", type=number(1), default=4, help="frames of a window (default 4)")
    add("--central-fraction", type=positive, default=0.6, help="part of a shot that is used (default 0.6)")
    add("--block-shards", type=number(1), metavar="B", help="shards of a block (default: all windows are mixed)")
    add(
        "--lanes",
        type=number(1),
        default=1,
        metavar="L",
        help="parts of the data that advance side by side (default 1)",
    )
    add("--seed", type=int, default=0)
    add("--resize", type=number(1), default=256, help="side in pixels to which frames are resized (default 256)")
    add("--frame-ms", type=positive, help="milliseconds of one core per frame (default: timed on this machine)")
    add("--cache-gb", type=positive, help="size of a node's cache, to see what it would fetch")
    add("--node-mb-per-s", type=positive, help="megabytes per second of a node's line to the storage")
    add("--step-time", type=positive, metavar="S", help="seconds of computing per step, to see the data wait")
    return parser


if __name__ == "__main__":
    run_console(main)
