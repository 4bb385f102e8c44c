"""What the paper printed, from ``published.yaml``, and which of it can be trusted."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from colocam_dist.config.section import Section

__all__ = ["CLOSE", "Column", "Published", "PublishedTable", "Row", "Statement", "attainable", "published"]

CLOSE = 0.1
"""Percent: printed figures are partly rounded, partly truncated to one decimal."""

Measured = Literal["study", "cost", "clip_es", "crf"]


class Column(Section):
    """A column of numbers.

    Attributes:
        name: as it is printed.
        of: which number: a class, "corloc", "std" (of CorLoc over runs), "milliseconds" (per frame), or in a table of
            costs the method.
        run: its part of the point in the study's space.
        compare: its figures do not depend on the machine.
    """

    name: str
    of: str = "corloc"
    run: dict[str, Any] = Field(default_factory=dict)
    compare: bool = True


class Row(Section):
    """A line of a table.

    Attributes:
        name: as it is printed.
        run: its part of the point in the study's space.
        figure: method in metrics.json, or the key in the file of measurements.
        ours: where a figure of our own comes from, if not from where the table's others do.
        missing: key of the reason why there is none.
        note: printed below the table.
        scale: what a measurement is multiplied with.
        compare: its figures do not depend on the machine.
        values: by dataset ("" for none), one for each column; None = not printed in the paper.
    """

    name: str
    run: dict[str, Any] = Field(default_factory=dict)
    figure: str = "localizer"
    ours: Measured | None = None
    missing: str = ""
    note: str = ""
    scale: float = 1.0
    compare: bool = True
    values: dict[str, tuple[float | None, ...]]


class Statement(Section):
    """What the text says.

    Attributes:
        text: in our words.
        column: about whose figures it is; the highest of our own is named behind it. "" = about the whole table.
    """

    text: str
    column: str = ""


class PublishedTable(Section):
    """A table or a figure of the paper.

    Attributes:
        title: first words of its printed form.
        study: stem of its file in configs/paper; "" if no study makes it.
        ours: where figures of our own come from.
        digits: after the point; None = four in all.
        columns: in order.
        rows: in order.
        statements: printed below.
    """

    title: str
    study: str = ""
    ours: Measured = "study"
    digits: int | None = 1
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    statements: tuple[Statement, ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> PublishedTable:
        for row in self.rows:
            for dataset, values in row.values.items():
                if len(values) != len(self.columns):
                    raise ValueError(f"{self.title}, {row.name}, {dataset}: {len(values)} values")
        return self

    @property
    def datasets(self) -> list[str]:
        """Those that it has figures of, in order."""
        return list(dict.fromkeys(dataset for row in self.rows for dataset in row.values))

    def source_of(self, row: Row) -> Measured | None:
        """Where a row's figure of our own comes from; None if there is none."""
        return None if row.missing else row.ours or self.ours

    @property
    def sources(self) -> set[Measured]:
        """Where all figures of our own come from."""
        return {source for row in self.rows if (source := self.source_of(row))}


class Published(Section):
    """All of it.

    Attributes:
        classes: of both datasets, in label order.
        datasets: labeled test frames of each class, by dataset.
        reasons: why a row has no figure of our own, by key.
        tables: by the name that commands give them.
    """

    classes: tuple[str, ...]
    datasets: dict[str, tuple[int, ...]]
    reasons: dict[str, str]
    tables: dict[str, PublishedTable]

    def frames(self, dataset: str) -> Mapping[str, int]:
        """Labeled test frames by class."""
        return dict(zip(self.classes, self.datasets[dataset], strict=True))

    def doubtful(self, table: PublishedTable, row: Row, dataset: str) -> Sequence[bool]:
        """For each column, whether no number of right frames gives the printed figure.

        Only for figures by class that were counted in frames by the paper's authors themselves.
        """
        frames = {} if row.missing else self.frames(dataset) if dataset in self.datasets else {}
        return [
            value is not None and column.of in frames and not attainable(value, frames[column.of])
            for column, value in zip(table.columns, row.values[dataset], strict=True)
        ]


def attainable(percent: float, frames: int) -> bool:
    """Whether some number of ``frames`` is ``percent`` of them, up to the last printed digit."""
    return any(abs(percent - 100.0 * right / frames) < CLOSE for right in range(frames + 1))


@functools.cache
def published() -> Published:
    """The content of ``published.yaml``."""
    return Published.model_validate(yaml.safe_load(Path(__file__).with_name("published.yaml").read_text("utf-8")))
