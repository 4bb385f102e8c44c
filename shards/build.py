"""Build shards: ``python -m shards.build --source SOURCE --output DIR ...``.

Exit code 0 = all wanted splits are finished; 2 = the input or an option is wrong (the message says what).
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from colocam_dist.console import run_console
from colocam_dist.errors import ConfigError
from shards.command_line import parse, picture_rule
from shards.dataset import BuildOptions, SplitSummary, build_dataset
from shards.images import PictureRule
from shards.output import LocalOutput, Output, open_output
from shards.sources.base import Inputs
from shards.sources.frames_csv import read_frames_csv
from shards.sources.synthetic import read_synthetic
from shards.sources.video_tables import DEFAULT_FRACTIONS
from shards.sources.video_unit import VideoOptions
from shards.sources.videos import read_videos
from shards.sources.youtube_objects import YoutubeObjectsOptions
from shards.sources.youtube_objects_v1 import read_youtube_objects_v1
from shards.sources.youtube_objects_v2 import read_youtube_objects_v2
from shards.synthetic.generate import SyntheticOptions

__all__ = ["main"]

_log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, build, print one line per split; returns the exit code."""
    options = parse(arguments)
    fractions, splits = options.splits
    rule = picture_rule(options)
    began = time.monotonic()
    output = open_output(
        options.output,
        staging=options.staging,
        schemes=options.allow_scheme,
        options=dict(options.output_option),
    )
    inputs = _inputs(options, rule, fractions, output)
    if options.caveat:
        caveats = [*inputs.receipt.get("caveats", ()), *options.caveat]
        inputs = replace(inputs, receipt={**inputs.receipt, "caveats": caveats})
    _log.info("input of %d classes is ready after %.1f s", len(inputs.classes), time.monotonic() - began)
    build = BuildOptions(
        rule=rule,
        frames_per_piece=options.frames_per_piece,
        shard_mb=options.shard_mb,
        workers=options.workers,
        splits=splits,
        overwrite=options.overwrite,
    )
    _say_what_was_left_out(inputs)
    for summary in build_dataset(inputs, output, build):
        print(_line(summary))
    return 0


def _inputs(
    options: argparse.Namespace, rule: PictureRule, fractions: dict[str, float] | None, output: Output
) -> Inputs:
    if fractions is not None and options.source not in ("videos", "synthetic"):
        raise ConfigError("this source says which split a frame is in", where="--splits", wanted="names, no shares")
    if options.source == "frames-csv":
        return read_frames_csv(options.input, rule, options.pictures)
    if options.source == "videos":
        how = VideoOptions(
            cuts=options.cuts,
            every=options.every,
            fps=options.fps,
            strict=options.strict,
            box_offset=options.box_offset,
            fractions=fractions,
        )
        return read_videos(options.input, rule, how)
    if options.source in ("youtube-objects-v1", "youtube-objects-v2.2"):
        read = read_youtube_objects_v1 if options.source.endswith("v1") else read_youtube_objects_v2
        what = YoutubeObjectsOptions(options.folds, options.allow_partial, options.evaluation_frames)
        return read(options.input, rule, what)
    if not isinstance(output, LocalOutput):
        raise ConfigError("synthetic clips are written beside their shards", where="--output", wanted="a folder")
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
    return read_synthetic(output.folder, rule, synthetic, workers=options.workers, overwrite=options.overwrite)


def _say_what_was_left_out(inputs: Inputs) -> None:
    skipped = inputs.receipt.get("skipped_videos", [])
    if skipped:
        print(f"{len(skipped)} videos are left out (listed in the manifests): {', '.join(s['path'] for s in skipped)}")


def _line(summary: SplitSummary) -> str:
    shards = f"{summary.shards} shard{'s' * (summary.shards > 1)}"
    kept = f", {summary.kept} of them kept from an earlier build" if summary.kept else ""
    return (
        f"{summary.split}: {summary.shots} shots, {summary.frames} frames, {summary.boxes} boxes, "
        f"{summary.bytes / 1e6:.1f} MB in {shards}{kept}, {summary.seconds:.1f} s"
    )


if __name__ == "__main__":
    run_console(main)
