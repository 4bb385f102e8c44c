"""Look after the checkpoints of a run: ``python -m colocam_dist.training.checkpoint list|verify|export RUN``.

list: what there is, newest first. verify: read every byte of every checkpoint and of the best weights; exit code 1 if
something is damaged. export: one file with the weights, classes and settings that prediction needs, for other programs:
``torch.load(FILE, weights_only=True)`` gives {"state_dict", "sha256", "classes", "config", "stage", "epoch", "step",
"criterion", "score"}, with "config" as the YAML text of the run. If the name of the file ends in ``.safetensors`` it is
of that format, with all but the tensors in its metadata.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch

from colocam_dist.config import dump, load
from colocam_dist.console import run_console
from colocam_dist.errors import RunError
from colocam_dist.files import write_atomically
from colocam_dist.runs.folder import RunFolder
from colocam_dist.runs.weights import read_weights
from colocam_dist.training.checkpoint_files import checkpoints_in

__all__ = ["export", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and do it; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m colocam_dist.training.checkpoint", description="Look after the checkpoints of a run."
    )
    parser.add_argument("action", choices=("list", "verify", "export"))
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="export: .pt or .safetensors (default RUN/localizer.pt)"
    )
    parser.add_argument("--stage", choices=("classifier", "localizer"), default="localizer", help="export: which stage")
    parser.add_argument("--criterion", default="best-localization", help="export: which best weights")
    options = parser.parse_args(arguments)
    folder = RunFolder.open(options.run)
    if options.action == "export":
        target = options.output or options.run / f"{options.stage}.pt"
        export(folder, target, options.stage, options.criterion)
        print(f"{options.stage} ({options.criterion}) is in {target}")
        return 0
    damaged = _show(folder, contents=options.action == "verify")
    return 1 if damaged and options.action == "verify" else 0


def export(folder: RunFolder, target: Path, stage: str, criterion: str) -> None:
    """Write the best weights of a stage with all that is needed to use them, atomically.

    Raises:
        RunError: the run has no such weights, or they are damaged.
    """
    path = folder.weights(stage, criterion)
    if not path.is_file():
        there = ", ".join(sorted(found.stem for found in path.parent.glob("*.pt"))) or "none"
        raise RunError("the run has no such weights", where=path, got=there, fix="see --stage and --criterion")
    facts = {
        **read_weights(path),
        "stage": stage,
        "classes": list(folder.read_json("classes.json") or []),
        "config": dump(load(folder.config_path)),
    }
    if target.suffix == ".safetensors":
        weights = {name: tensor.contiguous() for name, tensor in facts.pop("state_dict").items()}
        text = {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}
        write_atomically(target, safetensors.torch.save(weights, {"format": "pt", **text}))
        return
    buffer = io.BytesIO()
    torch.save(facts, buffer)
    write_atomically(target, buffer.getvalue())


def _show(folder: RunFolder, *, contents: bool) -> int:
    """Print a line for every checkpoint and every file of best weights; returns how many are damaged."""
    damaged = 0
    for place in sorted(path for path in folder.checkpoints("").glob("*") if path.is_dir()):
        for checkpoint in checkpoints_in(place, contents=contents):
            sound = "every byte is as written" if contents else "all files are there"
            state = checkpoint.damage or sound
            damaged += checkpoint.damage is not None
            print(f"{place.name}/{checkpoint.folder.name}  {checkpoint.bytes / 1e6:8.1f} MB  {state}")
        for path in sorted(place.glob("*.pt")):
            state = _weights_state(path) if contents else ""
            damaged += state.startswith("damaged")
            print(f"{place.name}/{path.name}  {path.stat().st_size / 1e6:8.1f} MB  {state}".rstrip())
    return damaged


def _weights_state(path: Path) -> str:
    try:
        content = read_weights(path)
    except RunError as error:
        return f"damaged: {error.got or error.what}"
    return f"every tensor is as written; epoch {content['epoch']}, {content['criterion']} {content['score']:.4g}"


if __name__ == "__main__":
    run_console(main)
