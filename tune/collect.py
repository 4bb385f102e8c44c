"""From the folder of a study to what it has found."""

from __future__ import annotations

import json
import math
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from colocam_dist.config import Config, dump, load
from colocam_dist.runs.folder import differences, what_is_computed
from colocam_dist.slurm.record import attempts_of
from tune.datasets import caveats
from tune.folder import Record
from tune.results import EpochRow, SharedStage, StudyResult, TrialResult, TrialState
from tune.running import OpenStudy, concerns

__all__ = ["RULE", "best_settings", "collect"]

RULE = (
    "CorLoc (percent) on the validation split, at the one threshold that is best there for all of its frames, "
    "of the best epoch"
)

_NOT_OF_STAGE_1 = ("localizer", "data.n_frames", "evaluation.cams")  # settings that change nothing in a classifier


def collect(study: OpenStudy, *, command: str = "", finished: bool = False) -> StudyResult:
    """What the study has found so far.

    Args:
        study: whose folder is read.
        command: the last command line.
        finished: whether the search is at its end.
    """
    settings = study.file.study
    records = study.folder.records("trial")
    trials = [_trial(record, number, study) for number, record in enumerate(records, start=1)]
    users = Counter(trial.shared for trial in trials)
    shared = [_shared(record, study, users[record.id]) for record in study.folder.records("classifier")]
    sessions = study.folder.sessions()
    scheduler = settings.scheduler
    details = {
        "asha": f", grace {scheduler.grace}, reduction {scheduler.reduction:g}",
        "median": f", grace {scheduler.grace}, from {scheduler.min_trials} trials on",
        "pbt": f", every {scheduler.every} epochs, quantile {scheduler.quantile:g}",
    }
    return StudyResult(
        name=settings.name,
        folder=study.folder.path,
        rule=RULE,
        dimensions={name: _axis(study, name) for name in study.space.dimensions},
        seeds=settings.seeds,
        trials=trials,
        shared=shared,
        wall_seconds=sum(session["seconds"] for session in sessions),
        sessions=len(sessions),
        command=command or (sessions[-1].get("command", "") if sessions else ""),
        caveats=caveats(study.file.config().data),
        versions={
            **{name: version(name) for name in ("colocam-dist", "torch", "ray")},
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}",
        },
        finished=finished,
        scheduler=scheduler.name + details.get(scheduler.name, ""),
        search=settings.search + (f", {settings.samples} points" if settings.samples else ""),
    )


def _axis(study: OpenStudy, name: str) -> Sequence[Any]:
    one = study.space.dimensions[name]
    if one.range is None:
        return list(one.values.values())
    return [one.range.low, one.range.high, "log" if one.range.log else "linear"]


def _trial(record: Record, number: int, study: OpenStudy) -> TrialResult:
    facts, end = record.facts, record.end or {}
    rows = record.rows("localizer", first=0)
    weights = max(_lineage(record, study), key=lambda row: row["corloc"], default=None)
    if not facts["epochs"]:
        source = study.folder.classifier(facts["shared"]) if facts["shared"] else record
        best = max(source.rows("classifier", first=0), key=lambda row: row["corloc"], default=None)
        rows = [] if best is None else [{**best, "epoch": 0}]
    if "epoch" in end:  # those that the scheduler saw: how many more there are is chance
        rows = [row for row in rows if row["epoch"] <= end["epoch"]]
    seconds, attempts = _seconds(record)
    metrics = record.run / "metrics.json"
    return TrialResult(
        id=record.id,
        number=number,
        point=facts["shown"],
        seed=facts["seed"],
        state=_state(record, attempts),
        epochs=[EpochRow(row["epoch"], row["corloc"], row["classification"]) for row in rows],
        total_epochs=rows[-1]["epoch"] if end.get("replaced") and rows else facts["epochs"],
        seconds=seconds,
        gpu_hours=seconds / 3600 * _gpus(study),
        shared=facts["shared"],
        test=json.loads(metrics.read_text()) if metrics.is_file() and (weights is None or weights in rows) else None,
        error=end.get("error"),
        traceback=end.get("traceback") or None,
        attempts=max(1, attempts),
        run=record.run,
    )


def _lineage(record: Record, study: OpenStudy, before: float = math.inf) -> list[dict[str, Any]]:
    """The validations of stage 2 whose best weights a trial has, up to an epoch.

    What PBT has made of another trial began with the best weights of that one.
    """
    rows = [row for row in record.rows("localizer", first=0) if row["epoch"] < before]
    parent = record.facts["parent"]
    if parent is None:
        return rows
    return [*_lineage(study.folder.trial(parent), study, rows[0]["epoch"] if rows else before), *rows]


def _shared(record: Record, study: OpenStudy, trials: int) -> SharedStage:
    seconds, _ = _seconds(record)
    rows = record.rows("classifier", first=0)
    return SharedStage(
        key=record.id,
        encoder=record.facts["encoder"],
        seconds=seconds,
        gpu_hours=seconds / 3600 * _gpus(study),
        corloc=max((row["corloc"] for row in rows), default=None),
        trials=trials,
    )


def _state(record: Record, attempts: int) -> TrialState:
    end = record.end
    if end is not None:
        state: TrialState = end["state"]
        return state
    if (record.run / "done.json").is_file():
        return "finished"
    return "running" if attempts else "waiting"


def _gpus(study: OpenStudy) -> float:
    if study.file.study.executor != "slurm":
        return study.file.study.resources.gpus
    settings = study.file.config().slurm
    return float(settings.nodes * settings.gpus_per_node)


def _seconds(record: Record) -> tuple[float, int]:
    """Time that processes of a run took in all, and how often they were started; a job that waits takes none."""
    rows: list[Mapping[str, Any]] = [*record.attempts()]
    rows += [{**row, "time": _epoch_seconds(row["time"])} for row in attempts_of(record.run)]
    total, starts = 0.0, 0
    going: Mapping[str, Any] | None = None
    for row in sorted(rows, key=lambda row: row["time"]):
        if row["event"] == "start":
            starts += 1
            if going is not None:  # nobody saw its end
                total += max(0.0, min(record.last_sign, row["time"]) - going["time"])
            going = row
        elif going is not None and row.get("pid") == going.get("pid"):
            total += row["time"] - going["time"]
            going = None
    if going is not None:
        total += max(0.0, record.last_sign - going["time"])
    restarts = record.run / "restarts.jsonl"
    return total, starts + (len(restarts.read_text().splitlines()) if restarts.is_file() else 0)


def _epoch_seconds(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S%z").timestamp()


def best_settings(study: OpenStudy, trial: TrialResult) -> str:
    """A recipe as YAML that trains the best point by itself, its classifier included.

    Head lines say what it is, and what of the trial it does not repeat.
    """
    facts = study.folder.trial(trial.id).facts
    config: Config = study.file.config(facts["settings"])  # its point need not be one of the space as it is now
    place = {"name": f"{study.file.study.name}-best", "folder": Path("runs")}
    config = config.model_copy(update={"run": config.run.model_copy(update=place)})
    best = trial.best
    figure = "" if best is None else f"# Its {RULE}: {best.corloc:.1f} (epoch {best.epoch}, seed {trial.seed}).\n"
    shown = ", ".join(f"{name} {value}" for name, value in trial.point.items())
    if facts["parent"] is not None:
        figure += "# It went on with the weights of other trials, so that this recipe alone does not repeat it.\n"
    if facts["shared"] is not None:
        figure += _other_classifier(study.folder.classifier(facts["shared"]).run, config)
    return f"# The best point of the study {study.file.study.name}: {shown}.\n{figure}{dump(config)}"


def _other_classifier(run: Path, config: Config) -> str:
    """Head lines for a recipe that would train another classifier than the shared one; "" if it is the same."""
    settings = run / "config.yaml"
    if not settings.is_file():
        return ""
    changed = differences(what_is_computed(config), what_is_computed(load(settings)))
    named = sorted(change for change in changed if not concerns(change.partition(" ")[0], _NOT_OF_STAGE_1))
    if not named:
        return ""
    return (
        f"# Its classifier is shared, and was trained with other settings: {', '.join(named)}.\n"
        f"# classifier.from_run={run} takes it; without that, another one is trained.\n"
    )
