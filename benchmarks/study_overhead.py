"""What a study costs beyond its trials: the same runs in a study, one at a time, and by hand, one after another::

    python benchmarks/study_overhead.py --config STUDY.yaml [section.key=value ...]

By hand means the command that the study gives for each trial, with the same settings in another folder, started when
the one before it has ended. Start-up (Ray, checks) is the time before the first process of the study, and told apart.
One half follows the other, so the machine must be quiet.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tune.folder import StudyFolder  # noqa: E402
from tune.settings import load_study  # noqa: E402


def by_hand(study: StudyFolder, folder: Path, ranks: int) -> list[float]:
    """Seconds of each run of a study when it is started by hand."""
    found = []
    for record in [*study.records("classifier"), *study.records("trial")]:
        command = [sys.executable, "launchers/train.py", "--config", str(record.path / "settings.yaml")]
        command += ["--ranks", str(ranks), f"run.folder={folder / record.run.parent.name}", "run.on_exists=error"]
        if record.kind == "trial" and record.facts["shared"] is not None:
            command.append(f"classifier.from_run={folder / 'classifiers' / record.facts['shared']}")
        began = time.monotonic()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        found.append(time.monotonic() - began)
    return found


def in_study(config: Path, overrides: list[str]) -> float:
    """Seconds of the whole study, from its command to its end."""
    began = time.monotonic()
    command = [sys.executable, "-m", "tune.study", "--config", str(config), *overrides]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - began


def main() -> None:
    """Run both and print a row as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_intermixed_args()
    fixed = ["study.concurrent=1", "study.scheduler.name=none", "study.executor=local"]
    settings = load_study(given.config, [*given.overrides, *fixed]).study
    study = StudyFolder(settings.path)
    whole = in_study(given.config, [*given.overrides, *fixed])
    session = study.sessions()[0]
    first = min(row["time"] for record in study.path.glob("records/*/attempts.jsonl") for row in _rows(record))
    last = max(row["time"] for record in study.path.glob("records/*/attempts.jsonl") for row in _rows(record))
    folder = study.path.with_name(f"{study.path.name}-by-hand")
    shutil.rmtree(folder, ignore_errors=True)
    each = by_hand(study, folder, settings.ranks)
    between = last - first
    row = {
        "runs": len(each),
        "study_seconds": round(whole, 1),
        "startup_seconds": round(first - session["began"], 1),
        "from_first_start_to_last_end_seconds": round(between, 1),
        "by_hand_seconds": round(sum(each), 1),
        "overhead": round(between / sum(each) - 1, 4),
    }
    print(json.dumps(row))


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


if __name__ == "__main__":
    main()
