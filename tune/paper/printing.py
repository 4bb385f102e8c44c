"""Tables as text: for the console, as Markdown, as JSON."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tune.paper.figures import Ours
from tune.paper.tables import Block, Cell, Line, PrintedTable

__all__ = ["as_json", "as_markdown", "print_tables"]

NOT_RUN = "not run"
_NARROW = 3  # with more columns, figures stand below each other
_LEGEND = (
    "ours: CorLoc under the threshold rule {rule}; mean ± standard deviation over (runs), or with one run its 95 % "
    "interval over test videos."
)
_PAPER_RULE = " The paper chooses a threshold per class on the test set itself, which is the rule per_class."


class _Notes:
    """Notes below a table, and the letters that stand for them."""

    def __init__(self) -> None:
        self._letters: dict[str, str] = {}

    def letters(self, line: Line) -> str:
        """Those of a row."""
        texts = [text for text in (line.missing, *line.notes) if text]
        for text in texts:
            self._letters.setdefault(text, string.ascii_lowercase[len(self._letters)])
        return ", ".join(self._letters[text] for text in texts)

    @property
    def lines(self) -> list[str]:
        """Each with its letter."""
        return [f"{letter}: {text}" for text, letter in self._letters.items()]


def heading(table: PrintedTable) -> list[str]:
    """What stands between title and figures."""
    told = list(table.remarks)
    if any(line.run for block in table.blocks for line in block.lines) and any(block.title for block in table.blocks):
        told.insert(0, _LEGEND.format(rule=table.rule) + (_PAPER_RULE if table.rule != "per_class" else ""))
    return told


def block_heading(block: Block) -> list[str]:
    """What stands above the figures of a block."""
    if block.of_paper:
        return [block.title] if block.title else []
    why = "; ".join(block.why_not)
    return [f"{block.title}: not to be compared with the paper's figures ({why})"]


def grid(table: PrintedTable, block: Block, notes: _Notes) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a block."""
    if len(table.columns) > _NARROW:
        head = ["", "", *table.columns, "note"]
        return head, [row for line in block.lines for row in _stacked(table, block, line, notes)]
    shown = [_kinds(block, place) for place in range(len(table.columns))]
    several = len(table.columns) > 1
    head = [""]
    for name, kinds in zip(table.columns, shown, strict=True):
        head += [f"{name}: {kind}" if several else kind for kind in kinds]
    rows = []
    for line in block.lines:
        row = [line.name]
        for cell, kinds in zip(line.cells, shown, strict=True):
            row += [_text(table, line, cell, kind) for kind in kinds]
        rows.append([*row, notes.letters(line)])
    return [*head, "note"], rows


def _kinds(block: Block, place: int) -> list[str]:
    """Of a column, what there is anything to say of."""
    cells = [line.cells[place] for line in block.lines]
    kinds = ["published"] if any(cell.published is not None for cell in cells) else []
    kinds.append("ours")
    return kinds + (["difference"] if any(cell.difference is not None for cell in cells) else [])


def _stacked(table: PrintedTable, block: Block, line: Line, notes: _Notes) -> Iterator[list[str]]:
    """Rows of a wide table: the paper's figures, ours, and their differences."""
    kinds = [*(["published"] if block.of_paper else []), *(["ours"] if line.run else [])]
    if any(cell.difference is not None for cell in line.cells):
        kinds.append("difference")
    name, note = line.name, notes.letters(line)
    if not line.run and not line.missing:
        note = ", ".join(text for text in (NOT_RUN, note) if text)
    for kind in kinds:
        yield [name, kind, *(_text(table, line, cell, kind, short=True) for cell in line.cells), note]
        name = note = ""


def _text(table: PrintedTable, line: Line, cell: Cell, kind: str, *, short: bool = False) -> str:
    if kind == "published":
        return "" if cell.published is None else _number(cell.published, table.digits) + "?" * cell.doubtful
    if kind == "difference":
        return "" if cell.difference is None else f"{cell.difference:+.{table.digits or 2}f}"
    if cell.ours is None:
        return "" if line.missing or short else NOT_RUN
    return _own(cell.ours, table.digits, short=short)


def _own(ours: Ours, digits: int | None, *, short: bool) -> str:
    text = _number(ours.mean, digits)
    if short:
        return text
    if ours.std is not None:
        return f"{text} ± {_number(ours.std, digits)} ({ours.runs})"
    if ours.interval is not None:
        return f"{text} [{_number(ours.interval[0], digits)}, {_number(ours.interval[1], digits)}]"
    return text


def _number(value: float, digits: int | None) -> str:
    return f"{value:.4g}" if digits is None else f"{value:.{digits}f}"


def print_tables(tables: list[PrintedTable], console: Console) -> None:
    """To the console."""
    for table in tables:
        notes = _Notes()
        console.print(f"\n[bold]{escape(table.title)}[/bold]")
        for text in heading(table):
            console.print(escape(text))
        for block in table.blocks:
            for text in block_heading(block):
                console.print(f"[bold]{escape(text)}[/bold]")
            head, rows = grid(table, block, notes)
            drawn = Table(*map(escape, head), show_edge=False, pad_edge=False)
            for row in rows:
                drawn.add_row(*map(escape, row))
            console.print(drawn)
            for text in block.statements:
                console.print(f"- {escape(text)}")
        for text in [*table.statements, *notes.lines]:
            console.print(escape(text))


def as_markdown(tables: list[PrintedTable]) -> str:
    """As Markdown."""
    parts: list[str] = []
    for table in tables:
        notes = _Notes()
        parts += [f"## {table.title}", *heading(table)]
        for block in table.blocks:
            parts += [f"**{text}**" for text in block_heading(block)]
            head, rows = grid(table, block, notes)
            parts.append("\n".join(_pipes(row) for row in [head, ["---"] * len(head), *rows]))
            if block.statements:
                parts.append("\n".join(f"- {text}" for text in block.statements))
        below = [*table.statements, *notes.lines]
        if below:
            parts.append("\n".join(f"- {text}" for text in below))
    return "\n\n".join(parts) + "\n"


def _pipes(row: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


def as_json(tables: list[PrintedTable]) -> str:
    """As JSON: the fields of :class:`~tune.paper.tables.PrintedTable`."""
    return json.dumps([asdict(table) for table in tables], indent=1, allow_nan=False, ensure_ascii=False) + "\n"
