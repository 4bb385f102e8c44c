"""The report page: one HTML file with everything in it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from colocam_dist.runs.folder import write_atomically

__all__ = ["ClassRow", "Example", "MethodScores", "ReportData", "VideoRow", "write_report"]

RULES = {
    "validation": "one threshold, chosen on the validation split: what you can have in practice",
    "pooled": "one threshold, chosen on this split with its labels: an oracle",
    "per_class": "a threshold per class, chosen on this split with its labels: the oracle that published tables print",
}


@dataclass(frozen=True)
class MethodScores:
    """Figures of one method, percent; `corloc`, `intervals` and `top1` by threshold rule."""

    name: str
    description: str
    corloc: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float] | None]
    top1: Mapping[str, float]
    classification: float
    frames: int
    seconds_per_frame: float


@dataclass(frozen=True)
class ClassRow:
    """One class: labelled frames, and CorLoc in percent by method and rule."""

    name: str
    frames: int
    corloc: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class VideoRow:
    """One video: labelled frames, and CorLoc in percent by method at the validation threshold."""

    name: str
    cls: str
    frames: int
    corloc: Mapping[str, float]


@dataclass(frozen=True)
class Example:
    """A JPEG or PNG picture with a caption."""

    picture: bytes
    caption: str

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return _data_uri(self.picture)


@dataclass(frozen=True)
class ReportData:
    """Everything that the page shows. Text may hold any characters: it is escaped.

    Attributes:
        title: name of the run.
        subtitle: what was evaluated.
        facts: short (name, value) pairs below it.
        caveats: sentences that travel with the figures.
        methods: from the simplest to the headline one, at least one.
        classes: one row per class.
        videos: one row per video.
        curves: PNG pictures by stage.
        examples_best: frames where the last method gains most on the first.
        examples_worst: frames where it loses most.
        strips: frames across a shot.
        config_yaml: the resolved settings.
        versions: (package, version).
    """

    title: str
    subtitle: str
    facts: Sequence[tuple[str, str]]
    caveats: Sequence[str]
    methods: Sequence[MethodScores]
    classes: Sequence[ClassRow]
    videos: Sequence[VideoRow]
    curves: Mapping[str, bytes]
    examples_best: Sequence[Example]
    examples_worst: Sequence[Example]
    strips: Sequence[Example]
    config_yaml: str
    versions: Sequence[tuple[str, str]]


def write_report(path: Path, data: ReportData) -> None:
    """Write the page, atomically. It needs no network and no other file."""
    loader = PackageLoader("colocam_dist.report", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    curves = {stage: _data_uri(picture) for stage, picture in data.curves.items()}
    page = environment.get_template("report.html.j2").render(data=data, rules=RULES, curves=curves)
    write_atomically(path, page)


def _data_uri(picture: bytes) -> str:
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
