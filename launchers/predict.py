"""Boxes on new videos, no labels needed: ``python launchers/predict.py --run RUN --input VIDEO --output OUT``.

A folder of videos or pictures works like a video. Given again, the command goes on where it was killed. Under
``torchrun``, ``deepspeed`` or ``srun`` the ranks share the clips.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from colocam_dist.console import run_console


def main() -> int:
    """Parse, predict, print where the results are."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--input", type=Path, required=True, help="a video, a folder of pictures, or a folder of those")
    parser.add_argument(
        "--output", type=Path, required=True, help="folder for predictions.json, .csv and overlay videos"
    )
    parser.add_argument("--threshold", type=float, help="map threshold in (0, 1); default: the run's validation one")
    parser.add_argument(
        "--smoothing",
        choices=("none", "maps", "viterbi"),
        default="none",
        help="over the frames of a clip, whatever the run's evaluation.smoothing is; parameters are the run's",
    )
    parser.add_argument(
        "--boxes", choices=("largest", "all"), default="largest", help="all: several per frame, by evaluation.instances"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--no-video", action="store_true", help="write no overlay videos")
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    from colocam_dist.distributed import find_place
    from colocam_dist.inference.clip_rows import BoxOptions
    from colocam_dist.inference.predict import predict

    place = find_place(os.environ)
    result = predict(
        given.run,
        given.input,
        given.output,
        options=BoxOptions(given.threshold, given.smoothing, given.boxes),
        device=given.device,
        overlays=not given.no_video,
        place=place,
    )
    who = f"rank {place.rank}: " if place.world > 1 else ""
    kept = f"; {result.kept} clips were finished before" if result.kept else ""
    speed = f", {1000 * result.seconds_per_frame:.1f} ms per frame" if result.frames else ""
    print(f"{who}{result.frames} frames of {result.clips} clips{speed}{kept}")
    if result.complete:
        print(f"done: {given.output}")
    else:
        print(f"{who}other ranks are not done; the last one writes {given.output / 'predictions.json'}")
    return 0


if __name__ == "__main__":
    run_console(main)
