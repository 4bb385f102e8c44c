"""A table of the paper beside figures of our own, ready to be printed.

A difference stands only beside figures that were found on the paper's own test set. Figures of any other data come in
blocks of their own, without the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tune.paper.figures import Data, Found, Ours, data_of, found_in, summary
from tune.paper.published import Column, Published, PublishedTable, Row
from tune.paper.studies import PaperStudy

__all__ = ["Block", "Cell", "Line", "PrintedTable", "Sources", "assemble"]

DOUBTFUL = (
    "No number of right frames gives the figures with a question mark, so that they were not found in the way of the "
    "others: no difference is given, and the row's average is no sure target either."
)


@dataclass
class Sources:
    """Where figures of our own may come from.

    Attributes:
        studies: of several that have a row, the first counts.
        costs: see :mod:`tune.paper.files`.
        clip_es: likewise, one for each dataset.
        crf: likewise.
    """

    studies: Sequence[PaperStudy] = ()
    costs: Mapping[str, float] = field(default_factory=dict)
    clip_es: Sequence[Mapping[str, Any]] = ()
    crf: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """A place in a table.

    Attributes:
        published: as the paper prints it; None = it does not, or the block is about other data.
        doubtful: the paper's figure cannot be what it says.
        ours: None = there is none.
        difference: ours - published, where both are comparable.
    """

    published: float | None
    doubtful: bool = False
    ours: Ours | None = None
    difference: float | None = None


@dataclass(frozen=True)
class Line:
    """A row.

    Attributes:
        name: of the row.
        cells: one for each column.
        missing: why there can be no figure of our own; "" = there can.
        notes: further remarks.
    """

    name: str
    cells: tuple[Cell, ...]
    missing: str
    notes: tuple[str, ...]

    @property
    def run(self) -> bool:
        """Whether any of its cells has a figure of our own."""
        return any(cell.ours for cell in self.cells)


@dataclass(frozen=True)
class Block:
    """The part of a table that is about one dataset.

    Attributes:
        title: the dataset; "" = the table is about none.
        of_paper: it has the paper's figures, and differences.
        why_not: why figures of this data must not be compared with the paper's.
        lines: its rows.
        statements: what the paper's text says of columns, with what ours say to it.
    """

    title: str
    of_paper: bool
    why_not: tuple[str, ...]
    lines: tuple[Line, ...]
    statements: tuple[str, ...]


@dataclass(frozen=True)
class PrintedTable:
    """A table.

    Attributes:
        key: its name in commands.
        title: of it.
        rule: threshold rule of our figures.
        digits: after the point.
        columns: names.
        remarks: about the studies.
        blocks: by dataset, the paper's first.
        statements: about the whole table.
    """

    key: str
    title: str
    rule: str
    digits: int | None
    columns: tuple[str, ...]
    remarks: tuple[str, ...]
    blocks: tuple[Block, ...]
    statements: tuple[str, ...]


def assemble(key: str, paper: Published, sources: Sources, rule: str) -> PrintedTable:
    """A table with everything that is known of it.

    Args:
        key: one of ``paper.tables``.
        paper: what it printed.
        sources: where figures of our own may come from.
        rule: threshold rule of CorLoc: "per_class" is that of the paper.
    """
    table = paper.tables[key]
    found = {
        (place, column.name): _found(table, row, column, sources, rule, paper)
        for place, row in enumerate(table.rows)
        for column in table.columns
    }
    named = [Data(dataset) for dataset in table.datasets]
    data = dict.fromkeys([*named, *(one.data for cell in found.values() for one in cell)])
    blocks = []
    for one in data:
        cells = {place: [number for number in numbers if number.data == one] for place, numbers in found.items()}
        blocks.append(_block(table, one, cells, paper))
    return PrintedTable(
        key,
        table.title,
        rule,
        table.digits,
        tuple(column.name for column in table.columns),
        tuple(_remarks(table, sources)) if "study" in table.sources else (),
        tuple(blocks),
        tuple(statement.text for statement in table.statements if not statement.column),
    )


def _found(
    table: PublishedTable, row: Row, column: Column, sources: Sources, rule: str, paper: Published
) -> list[Found]:
    """All numbers for a cell: of each dataset, those of the first study that has any."""
    source = table.source_of(row)
    if source == "cost":
        value = sources.costs.get(f"{column.of}_{row.figure}")
        return [] if value is None else [Found(row.scale * value)]
    if source == "crf":
        return [Found(value) for value in sources.crf.get(row.figure, ())]
    if source == "clip_es":
        scored = [found_in(one, data_of(one, paper), row.figure, column.of, rule) for one in sources.clip_es]
        return [one for one in scored if one is not None]
    kept: list[Found] = []
    if source == "study":
        for study in sources.studies:
            known = {one.data for one in kept}
            numbers = study.found(table.study, {**row.run, **column.run}, row.figure, column.of, rule)
            kept += [one for one in numbers if one.data not in known]
    return kept


def _block(
    table: PublishedTable, data: Data, found: Mapping[tuple[int, str], Sequence[Found]], paper: Published
) -> Block:
    of_paper = not data.why_not and data.label in table.datasets
    lines = []
    for place, row in enumerate(table.rows):
        ours = [summary(found[place, column.name], column.of) for column in table.columns]
        if of_paper and data.label in row.values:
            lines.append(_line(table, row, ours, data.label, paper))
        elif not of_paper and any(ours):
            lines.append(Line(row.name, tuple(Cell(None, ours=one) for one in ours), "", ()))
    why_not = data.why_not
    if not of_paper and not why_not:
        why_not = ("the paper has no such figures",)
    return Block(data.label, of_paper, why_not, tuple(lines), tuple(_statements(table, lines, of_paper=of_paper)))


def _line(table: PublishedTable, row: Row, ours: Sequence[Ours | None], dataset: str, paper: Published) -> Line:
    doubtful = paper.doubtful(table, row, dataset)
    cells = []
    for column, value, one, doubt in zip(table.columns, row.values[dataset], ours, doubtful, strict=True):
        compared = value is not None and one is not None and not doubt and row.compare and column.compare
        difference = one.mean - value if compared and one is not None and value is not None else None
        cells.append(Cell(value, doubt, one, difference))
    notes = [row.note] if row.note else []
    if any(doubtful):
        notes.append(DOUBTFUL)
    return Line(row.name, tuple(cells), paper.reasons[row.missing] if row.missing else "", tuple(notes))


def _statements(table: PublishedTable, lines: Sequence[Line], *, of_paper: bool) -> list[str]:
    """What the paper's text says of columns, and where the highest of our own figures is."""
    said = []
    for statement in table.statements:
        if statement.column:
            peak = _peak(table, lines, statement.column)
            text = statement.text if of_paper else f"{statement.column}:"
            said += [f"{text} {peak}".strip()] if of_paper or peak else []
    return said


def _peak(table: PublishedTable, lines: Sequence[Line], column: str) -> str:
    place = [one.name for one in table.columns].index(column)
    known = [(ours.mean, line.name) for line in lines if (ours := line.cells[place].ours) is not None]
    if len(known) < 2:
        return ""
    best, name = max(known, key=lambda one: one[0])
    return f"Ours is highest at {name} ({best:.1f}), of {len(known)} rows that were run."


def _remarks(table: PublishedTable, sources: Sources) -> list[str]:
    said = []
    for study in sources.studies:
        changed = study.other_settings(table.study)
        said.append(
            f"{study.path}: {study.states}"
            + (f"; settings other than those of configs/paper/{table.study}.yaml: {changed}" if changed else "")
        )
    return said
