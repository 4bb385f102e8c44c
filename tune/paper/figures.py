"""A figure of our own: one number from one run, or from several."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tune.paper.published import Published
from tune.report.figures import number

__all__ = ["SIZE", "Data", "Found", "Ours", "data_of", "found_in", "summary"]

SIZE = 224
"""Pixels, side of the square in which the paper scores."""

_IOU = 0.5


@dataclass(frozen=True)
class Data:
    """On what a run was evaluated.

    Attributes:
        label: the paper's dataset, or else shards, split and size.
        why_not: what speaks against it being one of the paper's test sets; empty = it is one.
    """

    label: str
    why_not: tuple[str, ...] = ()


NO_DATA = Data("")
"""Of figures that are not of any dataset."""


@dataclass(frozen=True)
class Found:
    """A number of one run.

    Attributes:
        value: in the unit of its column.
        data: on which it was found.
        interval: 95 % bootstrap interval over test videos, if there is one.
    """

    value: float
    data: Data = NO_DATA
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Ours:
    """What a cell of a table has to say.

    Attributes:
        mean: over runs.
        runs: how many.
        std: sample standard deviation over runs; None for one.
        interval: 95 % bootstrap interval over test videos, for one run.
    """

    mean: float
    runs: int
    std: float | None = None
    interval: tuple[float, float] | None = None


def data_of(metrics: Mapping[str, Any], paper: Published) -> Data:
    """Whether a metrics.json is about one of the paper's test sets, by what it says itself."""
    scored = next(iter(metrics["methods"].values()))
    frames = {name: scores["frames"] for name, scores in scored["per_class"].items()}
    dataset = next((name for name in paper.datasets if frames == paper.frames(name)), None)
    why = [f"caveat: {caveat}" for caveat in metrics.get("caveats", ())]
    if dataset is None:
        wanted = " or ".join(f"{sum(counts)} ({name})" for name, counts in paper.datasets.items())
        why.append(f"{sum(frames.values())} labeled frames in {len(frames)} classes, by class not those of {wanted}")
    for what, got, expected in (
        ("split", metrics["split"], "test"),
        ("pixels", metrics["size"], SIZE),
        ("IoU", scored["iou"], _IOU),
    ):
        if got != expected:
            why.append(f"{what} {got} instead of {expected}")
    if dataset is not None and not why:
        return Data(dataset)
    return Data(f"{metrics['shards']}, split {metrics['split']}, {metrics['size']} pixels", tuple(why))


def found_in(metrics: Mapping[str, Any], data: Data, figure: str, of: str, rule: str) -> Found | None:
    """A number of a metrics.json.

    Args:
        metrics: its content.
        data: of it.
        figure: method; ``gradcam_pp``, ``gradcam++`` and ``GradCAM++`` are the same.
        of: see :class:`~tune.paper.published.Column`.
        rule: threshold rule.

    Returns:
        None if it does not have it.
    """
    methods = {_plain(name): scores for name, scores in metrics["methods"].items()}
    scores = methods.get(_plain(figure))
    if scores is None:
        return None
    if of == "milliseconds":
        seconds = number(scores.get("seconds_per_frame"))
        return None if seconds is None else Found(1000.0 * seconds, data)
    if of in ("corloc", "std"):
        value, interval = number(scores["corloc"].get(rule)), (scores.get("intervals") or {}).get(rule)
        return None if value is None else Found(value, data, tuple(interval) if interval else None)
    value = number((scores["per_class"].get(of) or {}).get(rule))
    return None if value is None else Found(value, data)


def summary(found: Sequence[Found], of: str) -> Ours | None:
    """What several runs say together; None if they are too few for it."""
    values = [one.value for one in found]
    std = statistics.stdev(values) if len(values) > 1 else None
    if of == "std":
        return None if std is None else Ours(std, len(values))
    if not values:
        return None
    return Ours(statistics.fmean(values), len(values), std, found[0].interval if len(values) == 1 else None)


def _plain(method: str) -> str:
    return re.sub(r"[^a-z0-9]", "", method.lower().replace("++", "pp"))
