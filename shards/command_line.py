"""The options of ``python -m shards.build``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml

from colocam_dist.errors import ConfigError
from shards.arguments import available_cores, number, positive
from shards.images import PictureRule
from shards.sources.base import SPLITS
from shards.sources.video_unit import Cuts

__all__ = ["parse", "picture_rule"]

_YOUTUBE_OBJECTS: dict[str, object] = {
    "input": None,
    "folds": None,
    "allow_partial": False,
    "evaluation_frames": "labeled",
}
# Options that only some sources have, with their defaults; the parser itself defaults to None to see what was given.
_DEFAULTS: dict[str, dict[str, object]] = {
    "frames-csv": {"input": None, "pictures": None},
    "videos": {"input": None, "every": 1, "fps": None, "cuts": "auto", "box_offset": 0, "strict": False},
    "youtube-objects-v1": _YOUTUBE_OBJECTS,
    "youtube-objects-v2.2": _YOUTUBE_OBJECTS,
    "synthetic": {
        "classes": 5,
        "clips_per_class": 24,
        "frames": 16,
        "size": (192, 144),
        "seed": 0,
        "backgrounds": None,
    },
}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse, check that options fit the source, fill in its defaults.

    Raises:
        ConfigError: an option of another source, or an input that is missing.
    """
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
        metavar="DIR",
        help="folder or URL (s3://bucket/data) of the dataset; a build goes on where it stopped",
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
        type=number(0),
        metavar="PX",
        help="make frames with a longer short side smaller, to this; 0 = never (default: 320 for frames above 360 of "
        "videos, else never)",
    )
    add("--quality", type=number(1, 100), default=95, help="JPEG quality of frames that are encoded (default 95)")
    add("--frames-per-piece", type=number(1, 64), default=64, help="frames that share a key in the tar (default 64)")
    add("--shard-mb", type=positive, default=128.0, help="size at which a shard is closed, roughly (default 128)")
    add(
        "--workers",
        type=number(1),
        default=available_cores(),
        help="processes (default: all cores); the bytes stay the same",
    )
    add("--staging", type=Path, metavar="DIR", help="local folder for shards on their way to a URL")
    add("--allow-scheme", action="append", default=[], metavar="NAME", help="allow URLs of another fsspec scheme")
    add(
        "--output-option",
        type=_option,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="option of the URL's fsspec file system, its value in YAML: endpoint_url=http://host:9000, anon=true",
    )
    add(
        "--caveat",
        action="append",
        default=[],
        metavar="TEXT",
        help="what must be said with every figure that comes from this data; may be given several times",
    )
    add(
        "--overwrite",
        action="store_true",
        help="replace what was built from other inputs or options, and remove splits that the input does not have",
    )

    files = parser.add_argument_group("frames-csv, videos, youtube-objects")
    files.add_argument(
        "--input",
        type=Path,
        metavar="PATH",
        help="frames-csv: folder with frames.csv; videos: folder of class/video.mp4, or a CSV file path,class[,split]; "
        "youtube-objects: folder in which the archives were unpacked",
    )
    files.add_argument(
        "--pictures", type=Path, metavar="DIR", help="frames-csv: folder of the pictures (default: that of the tables)"
    )
    videos = parser.add_argument_group("videos")
    videos.add_argument("--every", type=number(1), metavar="K", help="keep every K-th frame (default 1)")
    videos.add_argument("--fps", type=positive, metavar="F", help="keep F frames per second, by their times")
    videos.add_argument(
        "--cuts",
        choices=get_args(Cuts),
        help="how shots are found (default auto: cuts.csv, else PySceneDetect if it is installed, else histogram)",
    )
    videos.add_argument(
        "--box-offset", type=int, metavar="N", help="added to the frame numbers of boxes.csv (default 0)"
    )
    videos.add_argument(
        "--strict", action="store_true", default=None, help="stop if a video cannot be used (default: leave it out)"
    )
    official = parser.add_argument_group("youtube-objects")
    official.add_argument("--folds", type=Path, metavar="DIR", help="official fold files (default: by their rules)")
    official.add_argument(
        "--allow-partial", action="store_true", default=None, help="go on if counts differ from the published ones"
    )
    official.add_argument(
        "--evaluation-frames",
        choices=("labeled", "all"),
        help="frames of val and test to store (default labeled; all: every frame of shots with a labeled one)",
    )
    clips = parser.add_argument_group("synthetic")
    clips.add_argument("--classes", type=int, metavar="N", help="2 to 8 (default 5)")
    clips.add_argument("--clips-per-class", type=int, metavar="N", help="all splits together (default 24)")
    clips.add_argument("--frames", type=int, metavar="N", help="frames of a clip (default 16)")
    clips.add_argument("--size", type=_size, metavar="WxH", help="pixels (default 192x144)")
    clips.add_argument("--seed", type=int, help="another seed gives other clips (default 0)")
    clips.add_argument("--backgrounds", type=Path, metavar="DIR", help="photographs (default: those of scikit-image)")
    return parser


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form 192x144")
    return int(width), int(height)


def _option(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not (equals and key.isidentifier()):
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form key=value")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"the value in '{text}' is not YAML") from error


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


def picture_rule(options: argparse.Namespace) -> PictureRule:
    """How frames are stored: the source's own habit unless --short-side is given."""
    if options.short_side is not None:
        return PictureRule(options.short_side, options.short_side, options.quality)
    if options.source not in ("videos", "synthetic"):  # pictures already
        return PictureRule(0, 0, options.quality)
    # Below 360 the gain in bytes and decoding time is small; above it 320 still feeds crops of 224 and 256 pixels.
    return PictureRule(360, 320, options.quality)
