"""The page of a study: one HTML file with tables and pictures, beside a table of trials and a file for machines."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from colocam_dist.files import write_atomically
from tune.report.dimension_plots import choice_plot, number_plot
from tune.report.dimensions import Dimension, dimensions_of, leading, text
from tune.report.figures import best_row, class_table, corloc_on_test
from tune.report.points import PointResult, best_point, grouped
from tune.report.study_plots import learning_curves, parallel_coordinates
from tune.report.style import STATE_COLORS, picture
from tune.report.tables import first_line, study_json, trials_csv
from tune.report.totals import own_and_shared, totals
from tune.results import StudyResult, TrialResult

__all__ = ["write_study_report"]

LONGEST_TRIALS = 40  # in the chart of times


@dataclass(frozen=True)
class TimeRow:
    """Seconds of a trial: its own, and its share of a classifier that others use as well."""

    trial: TrialResult
    own: float
    shared: float


def write_study_report(result: StudyResult) -> Path:
    """Write ``report.html``, ``trials.csv`` and ``study.json`` into the study's folder, each atomically.

    The page needs no network and no other file. What is in ``best.yaml`` of the folder is shown, if it is there; and
    trials are linked to the pages of their runs.

    Returns:
        The page.

    Raises:
        OSError: the folder cannot be written to.
    """
    write_atomically(result.folder / "trials.csv", trials_csv(result))
    write_atomically(result.folder / "study.json", study_json(result))
    path = result.folder / "report.html"
    write_atomically(path, _page(result))
    return path


def _page(result: StudyResult) -> str:
    environment = Environment(
        loader=PackageLoader("tune.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        value=text, duration=duration, best=best_row, on_test=corloc_on_test, first_line=first_line, count=_count
    )
    points, dimensions = grouped(result), dimensions_of(result)
    evaluated = _best_evaluated(result.trials)
    settings = result.folder / "best.yaml"
    return environment.get_template("study.html.j2").render(
        result=result,
        points=points,
        best=best_point(result),
        dimensions=dimensions,
        totals=totals(result),
        state_colors=STATE_COLORS,
        test_name=_test_name(result.trials),
        baselines=_baselines(result, best_point(result)),
        of_dimensions=_pictures(dimensions, points),
        curves=_curves(result, dimensions, points),
        parallel=_parallel(dimensions, points),
        evaluated=evaluated,
        classes=class_table(evaluated) if evaluated else {},
        times=_times(result),
        pages={trial.id: link for trial in result.trials if (link := _link(result, trial))},
        best_yaml=settings.read_text(errors="replace") if settings.is_file() else None,
    )


def duration(seconds: float) -> str:
    """Seconds in the one or two units that matter."""
    whole, minutes, hours = round(seconds), round(seconds / 60), round(seconds / 3600)
    if whole < 60:
        words = f"{seconds:.1f} s" if 0 < seconds < 9.95 else f"{whole} s"
    elif whole < 3600:
        words = f"{whole // 60} min {whole % 60:02d} s"
    elif minutes < 48 * 60:
        words = f"{minutes // 60} h {minutes % 60:02d} min"
    else:
        words = f"{hours // 24} d {hours % 24} h"
    return words.replace(" ", "\N{NO-BREAK SPACE}")


def _count(number: int, noun: str) -> str:
    return f"{number}\N{NO-BREAK SPACE}{noun}" if number == 1 else f"{number}\N{NO-BREAK SPACE}{noun}s"


def _has_figure(points: Sequence[PointResult]) -> bool:
    return any(point.mean is not None for point in points)


def _pictures(dimensions: Sequence[Dimension], points: Sequence[PointResult]) -> list[tuple[Dimension, str]]:
    """A picture for each dimension that has several values; numbers first."""
    if not _has_figure(points):
        return []
    several = [one for one in dimensions if len(one.values) > 1]
    lead = leading(several, points)

    def drawn(one: Dimension) -> Figure:
        return number_plot(one, points, lead) if one.numeric else choice_plot(one, points)

    return [(one, picture(drawn(one))) for one in sorted(several, key=lambda one: not one.numeric)]


def _parallel(dimensions: Sequence[Dimension], points: Sequence[PointResult]) -> str | None:
    """None where it would show no more than the picture of a dimension, or a single line."""
    if sum(point.mean is not None for point in points) < 2 or sum(len(one.values) > 1 for one in dimensions) < 2:
        return None
    return picture(parallel_coordinates(dimensions, points))


def _curves(result: StudyResult, dimensions: Sequence[Dimension], points: Sequence[PointResult]) -> str | None:
    """None as long as no trial has been validated after an epoch of stage 2."""
    if not any(row.epoch > 0 for trial in result.trials for row in trial.epochs):
        return None
    return picture(learning_curves(result.trials, leading(dimensions, points), best_point(result)))


def _best_evaluated(trials: Sequence[TrialResult]) -> TrialResult | None:
    """The finished trial with the highest validation CorLoc of those that have test figures by class."""
    found = [trial for trial in trials if trial.state == "finished" and class_table(trial)]
    return max(found, key=lambda trial: (row.corloc if (row := best_row(trial)) else -1.0, -trial.number), default=None)


def _test_name(trials: Sequence[TrialResult]) -> str:
    """The split that trials were evaluated on."""
    splits = {str(trial.test["split"]) for trial in trials if trial.test and "split" in trial.test}
    return " and ".join(sorted(splits)) or "test"


def _baselines(result: StudyResult, best: PointResult | None) -> list[float]:
    """Validation CorLoc of the CAM of the classifiers that the best point uses, percent."""
    keys = {trial.shared for trial in best.trials} if best else set()
    return [stage.corloc for stage in result.shared if stage.key in keys and stage.corloc is not None]


def _times(result: StudyResult) -> list[TimeRow]:
    """The trials that took longest."""
    rows = [TimeRow(trial, *own_and_shared(result, trial)) for trial in result.trials]
    rows = [row for row in rows if row.own + row.shared > 0]
    return sorted(rows, key=lambda row: -row.own - row.shared)[:LONGEST_TRIALS]


def _link(result: StudyResult, trial: TrialResult) -> str | None:
    """Way from the study's page to that of a run, if the run has one."""
    page = trial.run / "report.html"
    return quote(Path(os.path.relpath(page, result.folder)).as_posix()) if page.is_file() else None
