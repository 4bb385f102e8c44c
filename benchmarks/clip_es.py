"""The paper's CLIP-ES baseline (its Table 8) on a labeled split.

``python benchmarks/clip_es.py --clip FOLDER --shards DIR [--run RUN] [--output FILE] [section.key=value ...]``

Prints nine rows: the true class (GT), the class that a run's classifier predicts (PR, with ``--run``) or every class in
turn (AVG) is given to CLIP-ES, which makes an initial CAM, one with the background list, and one refined on top; CorLoc
under our three threshold rules, with the published figures beside it. The classes are those of the run, else of the
shards. Nothing is downloaded: the checkpoint is a local folder as transformers saves it (published: CLIP ViT-B/16).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from colocam_dist.config import Config, load
from colocam_dist.console import run_console
from colocam_dist.runs.folder import RunFolder

SIZE = 224


def main(arguments: list[str] | None = None) -> int:
    """Parse, score, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--clip", type=Path, required=True, help="folder of a CLIP checkpoint")
    parser.add_argument("--shards", required=True, help="folder or URL of shards whose val and test have boxes")
    parser.add_argument("--run", type=Path, help="folder of a run: its classifier predicts the classes of PR")
    parser.add_argument("--size", type=int, default=SIZE, help="side of the square frames, pixels (%(default)s)")
    parser.add_argument("--words", type=Path, help="YAML file: what to call a class in its prompt, by name of class")
    parser.add_argument(
        "--rivals",
        choices=("classes", "none"),
        default="classes",
        help="what a class is compared with in the initial CAM: the other classes, or nothing (%(default)s)",
    )
    parser.add_argument("--output", type=Path, help="JSON file for all figures")
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings other than the run's")
    given = parser.parse_intermixed_args(arguments)
    run = None if given.run is None else RunFolder.open(given.run)
    own = None if run is None else run.config_path
    settings = [f"data.shards={given.shards}", *given.overrides]
    resize = max(given.size, load(own, settings).data.resize)
    config = load(own, [*settings, f"data.crop={given.size}", f"data.resize={resize}"])
    from colocam_dist.distributed import connect

    workers = connect(config.engine)
    try:
        score(given, run, config, load(own, settings), workers)
    finally:
        workers.close()
    return 0


def score(given: argparse.Namespace, run: RunFolder | None, config: Config, own: Config, workers: Any) -> None:
    """Score the table and print it; `own` are the settings of the run on the given shards."""
    from colocam_dist.clip_es.checkpoint import load_clip
    from colocam_dist.clip_es.gradcam import ClipEs
    from colocam_dist.clip_es.published import format_table, warnings_about
    from colocam_dist.clip_es.table import predicted_classes, score_table
    from colocam_dist.clip_es.words import read_words, words_of
    from colocam_dist.data.opening import open_split
    from colocam_dist.files import write_atomically
    from colocam_dist.inference.evaluate import run_classes
    from colocam_dist.inference.load import load_classifier
    from colocam_dist.inference.score import Scorer

    val, test = (open_split(config.data, split) for split in (config.data.validation_split, config.data.split))
    classes = test.classes if run is None else run_classes(run)
    words = words_of(classes, read_words(given.words) if given.words else None)
    model = ClipEs(load_clip(given.clip), words)
    count = config.evaluation.thresholds
    scorers = (
        Scorer(val, config, workers, count, classes=classes),
        Scorer(test, config, workers, count, classes=classes),
    )
    predicted = None
    if run is not None:
        classifier = load_classifier(own, run, len(classes), "best-classification")
        predicted = tuple(predicted_classes(classifier, index, own, workers, classes) for index in (val, test))
    table = score_table(model, classes, scorers, predicted, initial=given.rivals)
    if not workers.is_main:
        return
    said = warnings_about(test, config)
    print(f"CLIP-ES on {given.shards}, split {test.split}: {table.frames} frames of {table.videos} videos, CorLoc in %")
    print(f"checkpoint {given.clip}, {given.size} pixels, {workers.device}; prompts: {', '.join(words)}")
    print("\n".join([format_table(table), *said]))
    if given.output:
        facts = {
            "shards": given.shards,
            "split": test.split,
            "clip": str(given.clip),
            "run": None if given.run is None else str(given.run),
            "size": given.size,
            "rivals": given.rivals,
            "classes": dict(zip(classes, words, strict=True)),
            "caveats": said,
            "classification": table.classification,
            "zero_shot": table.zero_shot,
            "milliseconds": table.milliseconds,
            "rows": [row.to_dict() for row in table.rows],
        }
        write_atomically(given.output, json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    run_console(main)
