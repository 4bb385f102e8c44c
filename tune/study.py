"""Search over the settings of runs::

    python -m tune.study --config configs/tune/NAME.yaml [--executor local|slurm|allocation] [section.key=value ...]
    python -m tune.study --config configs/tune/NAME.yaml --resume

Keys that begin with "study." are those of the study; all others are settings that its runs share. See docs/studies.md.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

from colocam_dist.config import dump
from colocam_dist.console import PREEMPTED, run_console
from colocam_dist.errors import ConfigError, RunError
from colocam_dist.files import write_atomically
from colocam_dist.runs.folder import differences
from tune.collect import best_settings, collect
from tune.datasets import check_contents, note_contents
from tune.folder import StudyFolder, settings_of_results
from tune.report import best_point, write_study_report
from tune.running import OpenStudy
from tune.settings import StudyFile, load_study

__all__ = ["main"]


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="python -m tune.study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument(
        "--config", type=Path, required=True, help="YAML file of the study (see configs/tune and configs/paper)"
    )
    made.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that win over the file")
    made.add_argument("--executor", choices=("local", "slurm", "allocation"), help="the same as study.executor=...")
    made.add_argument("--resume", action="store_true", help="go on with the study; it may have become larger")
    made.add_argument("--retry-failed", action="store_true", help="with --resume: try failed trials again")
    what = made.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="check everything, print the points, and do nothing")
    what.add_argument("--report", action="store_true", help="write the report of what there is, and do nothing else")
    what.add_argument("--cancel", action="store_true", help="cancel the jobs of a study with executor slurm")
    return made


def main() -> int:
    """Check, run, report; 0 = the search came to its end with at least one figure."""
    given = parser().parse_intermixed_args()
    executor = [f"study.executor={given.executor}"] if given.executor else []
    file = load_study(given.config, [*given.overrides, *executor])
    folder = StudyFolder(file.study.path)
    if given.retry_failed and not given.resume:
        raise ConfigError("--retry-failed goes with --resume", where="command line")
    if given.report or given.cancel:
        _check_exists(folder)
        study = OpenStudy.at(folder.path)  # as it was done, whatever else the command line says
        return _report(study, finished=_done(folder).is_file()) if given.report else _cancel(study)
    study = OpenStudy(file, folder)
    if given.dry_run:
        return _print_plan(study)
    _check_same(study, resume=given.resume)
    if file.study.search != "tpe":
        study.space.points()  # says what cannot be run
    if file.study.executor == "allocation":
        from tune.allocation import inside, submit_study

        if not inside():
            job = submit_study(study, sys.argv[1:])
            print(f"job {job}: study {file.study.name}")
            print(f"python launchers/submit.py logs|cancel {study.folder.path}")
            return 0
    from tune.driver import run_trials

    command = f"python -m tune.study {shlex.join(sys.argv[1:])}"
    with study.folder.session({"command": command, "executor": file.study.executor}) as session:
        write_atomically(study.folder.settings_path, dump(_resolved(file)))
        note_contents(study.folder.path, file.config().data)
        if given.retry_failed:
            for record in [*study.folder.records("trial"), *study.folder.records("classifier")]:
                record.forget_failure()
        finished = run_trials(study, session)
    code = _report(study, finished=finished)
    if finished and code == 0:
        write_atomically(_done(folder), json.dumps({"stages": ["study"]}) + "\n")
    return code if finished else PREEMPTED


def _resolved(file: StudyFile) -> StudyFile:
    """With every setting of the runs in the file itself, so that a later change of the recipe does not matter."""
    runs = file.config().model_dump(mode="json")
    return StudyFile(study=file.study.model_copy(update={"base": None}), **runs)


def _done(folder: StudyFolder) -> Path:
    """Written when the search is at its end."""
    return folder.path / "done.json"


def _check_exists(folder: StudyFolder) -> None:
    if not folder.settings_path.is_file():
        raise RunError("there is no such study", where=folder.path, fix="look at study.folder and study.name")


def _check_same(study: OpenStudy, *, resume: bool) -> None:
    """A study may become larger, but its runs keep what they have in common.

    Raises:
        RunError: it exists, or not, or its runs would differ from those that it has, in settings or in data.
    """
    if resume:
        _check_exists(study.folder)
    elif study.folder.settings_path.is_file():
        raise RunError(
            "a study of this name exists",
            where=study.folder.path,
            fix="go on with it by --resume, choose another study.name, or remove the folder",
        )
    else:
        return
    before = load_study(study.folder.settings_path)
    changed = differences(settings_of_results(before.config()), settings_of_results(study.file.config()))
    if changed:
        raise RunError(
            "the study to resume has runs with other settings",
            where=study.folder.settings_path,
            got=", ".join(sorted(changed)),
            fix="resume with the same settings (study.* may change), or choose another study.name",
        )
    check_contents(study.folder.path, study.file.config().data)


def _print_plan(study: OpenStudy) -> int:
    settings = study.file.study
    if settings.search == "tpe":
        print(f"{settings.samples} points x {len(settings.seeds)} seeds, proposed one after another")
        return 0
    points = study.space.points()
    for point in points:
        print("  ".join(f"{name}={value}" for name, value in point.items()))
    print(f"{len(points)} trials")
    return 0


def _report(study: OpenStudy, *, finished: bool) -> int:
    result = collect(study, finished=finished)
    best = best_point(result)
    if best is None:
        print(f"no trial has a figure yet; their records are in {study.folder.path / 'records'}")
    else:
        trial = max(best.trials, key=lambda one: one.best.corloc if one.best else float("-inf"))
        write_atomically(study.folder.path / "best.yaml", best_settings(study, trial))
    page = write_study_report(result)
    failed = sum(trial.state == "failed" for trial in result.trials)
    if best is not None:
        shown = ", ".join(f"{name} {value}" for name, value in best.point.items())
        print(f"best: {shown}; {result.rule}: {best.mean:.1f}")
    if failed:
        print(f"{failed} of {len(result.trials)} trials failed; the report says why")
    print(f"done: {page}")
    return 0 if best is not None else 1


def _cancel(study: OpenStudy) -> int:
    from tune.driver import cancel_jobs

    jobs = cancel_jobs(study)
    print("cancelled: " + ", ".join(jobs) if jobs else "no job of the study waits or runs")
    return 0


if __name__ == "__main__":
    run_console(main)
