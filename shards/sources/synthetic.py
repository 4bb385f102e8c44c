"""Generated clips, written as videos and read like those of any user."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from shards.images import PictureRule
from shards.sources.base import Inputs
from shards.sources.video_unit import VideoOptions
from shards.sources.videos import read_videos
from shards.synthetic.generate import SyntheticOptions, generate_videos

__all__ = ["CAVEAT", "read_synthetic"]

CAVEAT = (
    "Generated clips: drawn classes over photographic backgrounds. The figures show that the machinery works, not how "
    "well the method does on real video."
)


def read_synthetic(
    output: Path, rule: PictureRule, options: SyntheticOptions, *, workers: int, overwrite: bool
) -> Inputs:
    """Generate clips in ``output/videos``, unless they are there already, and list them; each clip is one shot.

    Raises:
        ConfigError: an option is out of range.
        DataError: no backgrounds; the folder holds clips of other options.
    """
    table = generate_videos(output / "videos", options, workers=workers, overwrite=overwrite)
    inputs = read_videos(table, rule, VideoOptions(cuts="none"))
    drawn = {name: value for name, value in asdict(options).items() if name != "backgrounds"}
    facts = {"kind": "synthetic", "options": drawn, "caveats": [CAVEAT]}
    return replace(inputs, receipt={**inputs.receipt, **facts})
