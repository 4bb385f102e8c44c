"""Build shards: ``python -m shards.build --source frames-csv|videos|synthetic --output DIR ...``.

Exit code 0 = all wanted splits are finished; 2 = the input or an option is wrong (the message says what).
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from colocam_dist.console import run_console
from colocam_dist.errors import ConfigError
from shards.dataset import BuildOptions, SplitSummary, build_dataset
from shards.images import PictureRule
from shards.sources.base import SPLITS, Inputs
from shards.sources.frames_csv import read_frames_csv
from shards.sources.synthetic import read_synthetic
from shards.sources.videos import DEFAULT_FRACTIONS, VideoOptions, read_videos
from shards.synthetic.generate import SyntheticOptions

__all__ = ["main"]

_log = logging.getLogger(__name__)

# Options that only some sources have, with their defaults; the parser itself defaults to None to see what was given.
_DEFAULTS: dict[str, dict[str, object]] = {
    "frames-csv": {"input": None},
    "videos": {"input": None, "every": 1, "cuts": "histogram", "box_offset": 0, "skip_bad": False},
    "synthetic": {
        "classes": 5,
        "clips_per_class": 24,
        "frames": 16,
        "size": (192, 144),
        "seed": 0,
        "backgrounds": None,
    },
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, build, print one line per split; returns the exit code."""
    options = _parse(arguments)
    fractions, splits = options.splits
    rule = _picture_rule(options)
    began = time.monotonic()
    inputs = _inputs(options, rule, fractions)
    _log.info("input of %d classes is ready after %.1f s", len(inputs.classes), time.monotonic() - began)
    build = BuildOptions(
        rule=rule,
        frames_per_piece=options.frames_per_piece,
        shard_mb=options.shard_mb,
        workers=options.workers,
        splits=splits,
        overwrite=options.overwrite,
    )
    for summary in build_dataset(inputs, options.output, build):
        print(_line(summary))
    return 0


def _inputs(options: argparse.Namespace, rule: PictureRule, fractions: dict[str, float] | None) -> Inputs:
    if options.source == "frames-csv":
        if fractions is not None:
            raise ConfigError("frames.csv says which split a frame is in", where="--splits", wanted="names, no shares")
        return read_frames_csv(options.input, rule)
    if options.source == "videos":
        return read_videos(
            options.input,
            rule,
            VideoOptions(options.cuts, options.every, options.skip_bad, options.box_offset, fractions),
        )
    synthetic = SyntheticOptions(
        classes=options.classes,
        clips_per_class=options.clips_per_class,
        frames=options.frames,
        width=options.size[0],
        height=options.size[1],
        seed=options.seed,
        backgrounds=options.backgrounds,
        fractions=fractions or DEFAULT_FRACTIONS,
    )
    return read_synthetic(options.output, rule, synthetic, workers=options.workers, overwrite=options.overwrite)


def _picture_rule(options: argparse.Namespace) -> PictureRule:
    if options.short_side is not None:
        return PictureRule(options.short_side, options.short_side, options.quality)
    if options.source == "frames-csv":
        return PictureRule(0, 0, options.quality)
    # Below 360 the gain in bytes and decoding time is small; above it 320 still feeds crops of 224 and 256 pixels.
    return PictureRule(360, 320, options.quality)


def _line(summary: SplitSummary) -> str:
    shards = f"{summary.shards} shard{'s' * (summary.shards > 1)}"
    kept = f", {summary.kept} of them kept from an earlier build" if summary.kept else ""
    return (
        f"{summary.split}: {summary.shots} shots, {summary.frames} frames, {summary.boxes} boxes, "
        f"{summary.bytes / 1e6:.1f} MB in {shards}{kept}, {summary.seconds:.1f} s"
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = _parser().parse_args(arguments)
    mine = _DEFAULTS[options.source]
    for name in sorted({name for defaults in _DEFAULTS.values() for name in defaults}):
        given = getattr(options, name) is not None
        if given and name not in mine:
            users = " or ".join(source for source, defaults in _DEFAULTS.items() if name in defaults)
            raise ConfigError(
                f"--{name.replace('_', '-')} means nothing to this source",
                got=options.source,
                wanted=f"--source {users}",
            )
        if not given:
            setattr(options, name, mine.get(name))
    if "input" in mine:
        if options.input is None:
            raise ConfigError(f"--source {options.source} needs --input")
        if not options.input.exists():
            raise ConfigError("--input does not exist", got=options.input)
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m shards.build", description="Build tar shards with an index.")
    add = parser.add_argument
    add("--source", required=True, choices=tuple(_DEFAULTS), help="kind of input")
    add(
        "--output",
        required=True,
        type=Path,
        metavar="DIR",
        help="folder of the dataset; a build goes on where it stopped",
    )
    add(
        "--splits",
        type=_splits,
        default=(None, ()),
        metavar="LIST",
        help="splits to write (train,val), or for videos without a split column, and for synthetic clips, shares "
        "(default train=0.7,val=0.15,test=0.15)",
    )
    add(
        "--short-side",
        type=_number(0),
        metavar="PX",
        help="make frames with a longer short side smaller, to this; 0 = never (default: never for frames-csv, else "
        "320 for frames above 360)",
    )
    add("--quality", type=_number(1, 100), default=95, help="JPEG quality of frames that are encoded (default 95)")
    add("--frames-per-piece", type=_number(1, 64), default=64, help="frames that share a key in the tar (default 64)")
    add("--shard-mb", type=_positive, default=128.0, help="size at which a shard is closed, roughly (default 128)")
    add("--workers", type=_number(1), default=_cores(), help="processes (default: all cores); the bytes stay the same")
    add("--overwrite", action="store_true", help="replace what was built from other inputs or options")

    files = parser.add_argument_group("frames-csv and videos")
    files.add_argument(
        "--input",
        type=Path,
        metavar="PATH",
        help="frames-csv: folder with frames.csv; videos: folder of class/video.mp4, or a CSV file path,class[,split]",
    )
    videos = parser.add_argument_group("videos")
    videos.add_argument("--every", type=_number(1), metavar="K", help="keep every K-th frame (default 1)")
    videos.add_argument("--cuts", choices=("histogram", "none"), help="how shots are found (default histogram)")
    videos.add_argument(
        "--box-offset", type=int, metavar="N", help="added to the frame numbers of boxes.csv (default 0)"
    )
    videos.add_argument("--skip-bad", action="store_true", default=None, help="leave out videos that cannot be decoded")
    clips = parser.add_argument_group("synthetic")
    clips.add_argument("--classes", type=int, metavar="N", help="2 to 8 (default 5)")
    clips.add_argument("--clips-per-class", type=int, metavar="N", help="all splits together (default 24)")
    clips.add_argument("--frames", type=int, metavar="N", help="frames of a clip (default 16)")
    clips.add_argument("--size", type=_size, metavar="WxH", help="pixels (default 192x144)")
    clips.add_argument("--seed", type=int, help="another seed gives other clips (default 0)")
    clips.add_argument("--backgrounds", type=Path, metavar="DIR", help="photographs (default: those of scikit-image)")
    return parser


def _number(low: int, high: int | None = None) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"{text} is not in {low}..{'' if high is None else high}")
        return value

    return number


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form 192x144")
    return int(width), int(height)


def _splits(text: str) -> tuple[dict[str, float] | None, tuple[str, ...]]:
    """Shares (or None) and names of the splits to write."""
    parts = [part.partition("=") for part in text.split(",")]
    names = tuple(name for name, _, _ in parts)
    unknown = [name for name in names if name not in SPLITS]
    if unknown or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of different splits out of {', '.join(SPLITS)}")
    if not any(equals for _, equals, _ in parts):
        return None, names
    fractions = {name: float(share or "nan") for name, _, share in parts}
    if not (all(0 < share <= 1 for share in fractions.values()) and abs(sum(fractions.values()) - 1) < 1e-6):
        raise argparse.ArgumentTypeError(f"the shares in '{text}' are not positive numbers that sum to 1")
    return fractions, ()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    run_console(main)
