"""A localizer for other programs: ``python launchers/export.py --run RUN --format torch|onnx --output FILE``.

The file takes uint8 RGB images [B, 3, S, S] and gives foreground maps [B, S, S] and class probabilities [B, K].
"""

from __future__ import annotations

import argparse
from pathlib import Path

from colocam_dist.console import run_console


def main() -> int:
    """Parse, export, print how well the file agrees with the network."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--format", choices=("torch", "onnx"), required=True, help="torch.export program or ONNX")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="ends in .pt2 (torch) or .onnx")
    given = parser.parse_args()
    from colocam_dist.inference.api import Localizer
    from colocam_dist.inference.export import export_localizer

    localizer = Localizer.load(given.run, device="cpu")
    difference = export_localizer(localizer, given.output, given.format)
    print(f"{given.output} agrees with the network to {difference:.1e}")
    print(f"done: {given.output}")
    return 0


if __name__ == "__main__":
    run_console(main)
