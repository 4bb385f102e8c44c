"""The report page: one HTML file with everything in it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from colocam_dist.files import write_atomically
from colocam_dist.report.overlays import METHOD_COLORS, TRUTH_COLOR

__all__ = ["ClassRow", "Example", "MethodScores", "ReportData", "Table", "VideoRow", "write_report"]

RULES = {
    "validation": "One threshold, fixed on the validation split: what a user can have.",
    "pooled": "One threshold, the best on this split, chosen with its labels: an oracle.",
    "per_class": "The best threshold of each class on this split, chosen with its labels: an oracle; published tables "
    "report this.",
}


@dataclass(frozen=True)
class MethodScores:
    """Figures of one method, in percent; `corloc`, `intervals` and `top1` by threshold rule.

    Attributes:
        name: as in the rows of classes and videos.
        description: one line.
        corloc: under the rules "validation", "pooled" and "per_class".
        intervals: (low, high) under the same rules; None where not computed.
        top1: CorLoc that also asks for the right class, at least under "validation"; None if there is no classifier.
        classification: share of frames classified right.
        frames: labeled frames.
        seconds_per_frame: time of network, map and box.
    """

    name: str
    description: str
    corloc: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float] | None]
    top1: Mapping[str, float] | None
    classification: float
    frames: int
    seconds_per_frame: float


@dataclass(frozen=True)
class ClassRow:
    """One class: labeled frames, and CorLoc in percent by method and rule."""

    name: str
    frames: int
    corloc: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class VideoRow:
    """One video: labeled frames, and CorLoc in percent by method at the validation threshold."""

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
class Table:
    """More figures about the methods: a title, a line about them, and rows of texts, each as long as the header."""

    title: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


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
        tables: more figures.
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
    tables: Sequence[Table] = ()


def write_report(path: Path, data: ReportData) -> None:
    """Write the page, atomically. It needs no network and no other file.

    Raises:
        ValueError: no method.
    """
    if not data.methods:
        raise ValueError("write_report: wanted at least one method, got none")
    environment = Environment(
        loader=PackageLoader("colocam_dist.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    marks = {method.name: METHOD_COLORS[method.name] for method in data.methods if method.name in METHOD_COLORS}
    page = environment.get_template("report.html.j2").render(
        data=data,
        rules=RULES,
        marks={"true box": TRUTH_COLOR, **marks},
        curves={stage: _data_uri(picture) for stage, picture in data.curves.items()},
    )
    write_atomically(path, page)


def _data_uri(picture: bytes) -> str:
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
