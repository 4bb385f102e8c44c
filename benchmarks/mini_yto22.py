"""The figures of docs/results.md: the paper's methods on YouTube-Objects thumbnails and on untouched clips::

    python benchmarks/mini_yto22.py --clips data/clips data.shards=data/yto22-thumbs

Runs (or resumes) the study ``configs/tune/methods.yaml``, scores each of its runs on the clips too, and writes
``benchmarks/results/mini_yto22.json`` and the tables as Markdown. All choices (epoch, threshold, number of frames n)
are made on the validation split; the test split and the clips are only reported.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from colocam_dist.config.locations import location_name  # noqa: E402
from colocam_dist.evaluation.corloc import RULES  # noqa: E402
from colocam_dist.files import write_atomically  # noqa: E402
from tune.collect import collect  # noqa: E402
from tune.folder import StudyFolder  # noqa: E402
from tune.report.figures import mean_interval  # noqa: E402
from tune.results import StudyResult, TrialResult  # noqa: E402
from tune.running import OpenStudy  # noqa: E402
from tune.settings import load_study  # noqa: E402

LAYERCAM = "LayerCAM"
KEYS = {LAYERCAM: "layercam", "F-CAM": "fcam", "TCAM": "tcam"}
CLIPS_SPLIT = "train"


def main() -> None:
    """Run, score, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs/tune/methods.yaml")
    parser.add_argument("--clips", type=Path, help="shards of the clips (frames-csv); left out without them")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/mini_yto22.json")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    given = parser.parse_intermixed_args()
    study = run_study(given.config, given.overrides)
    if given.clips is not None:
        for trial in study.trials:
            score_on_clips(trial, given.clips)
    clips = None if given.clips is None else location_name(given.clips)
    command = f"python benchmarks/mini_yto22.py {' '.join(sys.argv[1:])}"
    found = summary(study, clips, command)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(given.output, json.dumps(found, indent=1) + "\n")
    write_atomically(given.output.with_suffix(".md"), "\n\n".join(tables(found)) + "\n")
    print(f"done: {given.output}")


def run_study(config: Path, overrides: Sequence[str]) -> StudyResult:
    """The finished study; one that was interrupted goes on."""
    path = load_study(config, overrides).study.path
    if not (path / "done.json").is_file():
        resume = ["--resume"] if StudyFolder(path).settings_path.is_file() else []
        command = [sys.executable, "-m", "tune.study", "--config", str(config), *resume, *overrides]
        subprocess.run(command, cwd=ROOT, check=True)
    return collect(OpenStudy.at(path), finished=True)


def score_on_clips(trial: TrialResult, clips: Path) -> None:
    """Evaluate a run on the clips unless that is done; its validation threshold stays that of its own data.

    Raises:
        SystemExit: the figures that are there are those of other clips in a folder of the same name.
    """
    done = clips_metrics(trial.run, location_name(clips))
    if done.is_file():
        scored = json.loads(done.read_text())["shards"]
        if (ROOT / scored).resolve() != (ROOT / clips).resolve():
            sys.exit(f"{done} has the figures of {scored}, not of {clips}: remove {done.parent}, or rename the clips")
    else:
        command = [sys.executable, "launchers/evaluate.py", "--run", str(trial.run)]
        command += [f"data.shards={clips}", f"data.split={CLIPS_SPLIT}"]
        subprocess.run(command, cwd=ROOT, check=True)


def clips_metrics(run: Path, clips: str) -> Path:
    """Where a run's figures on the clips stand."""
    return run / "evaluations" / f"{clips}-{CLIPS_SPLIT}" / "metrics.json"


def summary(study: StudyResult, clips: str | None, command: str) -> dict[str, Any]:
    """Means over seeds with 95 % intervals after Student, by data set and method; percent.

    Raises:
        SystemExit: a trial has no figures.
    """
    missing = [f"{trial.point} seed {trial.seed}: {trial.state}" for trial in study.trials if trial.test is None]
    if missing or not study.trials:
        sys.exit("no figures of " + ("; ".join(missing) or "any trial"))
    names = list(dict.fromkeys(trial.point["method"] for trial in study.trials))
    chosen = max((n for n in names if n not in KEYS), key=lambda name: validation(study, name))
    sets = {"mini_yto22": lambda trial: trial.test}
    if clips is not None:
        sets["clips"] = lambda trial: json.loads(clips_metrics(trial.run, clips).read_text())
    found: dict[str, Any] = {}
    for data, metrics in sets.items():
        every = {(trial.point["method"], trial.seed): metrics(trial)["methods"] for trial in study.trials}
        # All methods of a seed stand on the same classifier, so any of them has its LayerCAM.
        by_method = {LAYERCAM: {seed: methods["layercam"] for (name, seed), methods in every.items() if name == chosen}}
        for name in names:
            by_method[name] = {seed: methods["localizer"] for (one, seed), methods in every.items() if one == name}
        found[data] = {key_of(name): figures(name, by_seed) for name, by_seed in by_method.items()}
        found[data]["colocam"] = {**found[data][key_of(chosen)], "selected_on_validation": chosen}
    return {**found, "validation": {key_of(name): validation(study, name) for name in names}, **facts(study, command)}


def key_of(name: str) -> str:
    """Key of a method in the file: "CoLo-CAM n=4" is "colocam_n4"."""
    return KEYS.get(name, name.lower().replace("-", "").replace("=", "").replace(" ", "_"))


def validation(study: StudyResult, name: str) -> float:
    """Mean over seeds of the figure that choices are made by."""
    return statistics.fmean(t.best.corloc for t in study.trials if t.point["method"] == name and t.best is not None)


def figures(name: str, by_seed: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """What is told of a method: CorLoc by rule with interval and each seed, and the mean of each class."""
    corloc = {}
    for rule in RULES:
        each = {str(seed): one["corloc"][rule] for seed, one in sorted(by_seed.items())}
        mean, low, high = mean_interval(list(each.values()))
        corloc[rule] = {"mean": mean, "low": low, "high": high, "seeds": each}
    classes = next(iter(by_seed.values()))["per_class"]
    per_class = {
        cls: {rule: statistics.fmean(one["per_class"][cls][rule] for one in by_seed.values()) for rule in RULES}
        for cls in classes
    }
    return {"method": name, "corloc": corloc, "classes": per_class}


def facts(study: StudyResult, command: str) -> dict[str, Any]:
    """Under which conditions the figures were made."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    settings = OpenStudy.at(study.folder).file.config()
    return {
        "unit": "percent; mean over seeds with a 95 % interval after Student",
        "command": command,
        "commit": head.stdout.strip() or None,
        "hours": round(sum(t.seconds for t in [*study.trials, *study.shared]) / 3600, 2),
        "seeds": list(study.seeds),
        "image_size": settings.data.crop,
        "caveats": list(study.caveats),
        "versions": {**study.versions, "deepspeed": version("deepspeed"), "processor": platform.machine()},
    }


def tables(found: Mapping[str, Any]) -> list[str]:
    """Markdown: a table of methods and one of classes for each data set."""
    written = []
    for data in (name for name in ("mini_yto22", "clips") if name in found):
        methods = {key: one for key, one in found[data].items() if key != "colocam"}
        head = ["| method | validation | pooled | per class |", "|---|---|---|---|"]
        rows = [" | ".join([one["method"], *(cell(one["corloc"][rule]) for rule in RULES)]) for one in methods.values()]
        written.append("\n".join([f"{data}:", "", *head, *(f"| {row} |" for row in rows)]))
        classes = list(next(iter(methods.values()))["classes"])
        head = [f"| method | {' | '.join(classes)} |", "|---" * (len(classes) + 1) + "|"]
        rows = [
            " | ".join([one["method"], *(f"{one['classes'][cls]['validation']:.0f}" for cls in classes)])
            for one in methods.values()
        ]
        written.append(
            "\n".join([f"{data}, validation threshold, by class:", "", *head, *(f"| {row} |" for row in rows)])
        )
    return written


def cell(one: Mapping[str, Any]) -> str:
    """Mean and interval."""
    if one["low"] is None:
        return f"{one['mean']:.1f}"
    return f"{one['mean']:.1f} [{one['low']:.1f}, {one['high']:.1f}]"


if __name__ == "__main__":
    main()
