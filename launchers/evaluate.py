"""Score a run: ``python launchers/evaluate.py --run RUN [data.split=test] [data.shards=DIR]``.

Other data than the run's own go into ``RUN/evaluations/<shards>-<split>``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from colocam_dist.config import load
from colocam_dist.console import run_console
from colocam_dist.runs.folder import RunFolder


def main() -> int:
    """Parse, evaluate, print where metrics and report are."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--run", type=Path, required=True, help="folder of a run")
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings other than the run's")
    given = parser.parse_intermixed_args()
    folder = RunFolder.open(given.run)
    config = load(folder.config_path, given.overrides)
    from colocam_dist.distributed import connect
    from colocam_dist.inference.evaluate import evaluate_run

    workers = connect(config.engine)
    together = False
    try:
        target = evaluate_run(config, folder, workers)
        together = True
    finally:
        workers.close(together=together)
    if workers.is_main:
        print(f"done: {target / 'report.html'}")
    return 0


if __name__ == "__main__":
    run_console(main)
