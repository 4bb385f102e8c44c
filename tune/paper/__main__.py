"""Tables and figures of the paper, its figures beside those of studies and benchmarks::

    python -m tune.paper --table 1 3 --study studies/table1 studies/table1-v2.2
    python -m tune.paper --table 4 --cost cost.json

Without anything that was run, it prints what the paper has. See docs/paper.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from colocam_dist.console import run_console
from colocam_dist.errors import ConfigError, RunError
from colocam_dist.evaluation.corloc import RULES
from tune.paper.files import read_clip_es, read_costs, read_crf
from tune.paper.printing import as_json, as_markdown, print_tables
from tune.paper.published import Published, published
from tune.paper.studies import CONFIGS, PaperStudy
from tune.paper.tables import Sources, assemble

__all__ = ["main"]

_WIDE = 200  # characters, where nobody says how wide the console is


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="python -m tune.paper",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--table", nargs="+", required=True, choices=list(published().tables), help="which, in order")
    made.add_argument("--study", nargs="+", type=Path, default=[], help="folders of studies, finished or not")
    made.add_argument("--rule", choices=RULES, default="per_class", help="threshold rule; the paper's is per_class")
    made.add_argument("--cost", type=Path, help="JSON file of costs (Table 4)")
    made.add_argument("--clip-es", nargs="+", type=Path, default=[], help="JSON files of CLIP-ES (Tables 1, 8)")
    made.add_argument("--crf", type=Path, help="crf.csv of benchmarks/crf.py (Fig. 2d)")
    form = made.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="print Markdown")
    form.add_argument("--json", action="store_true", help="print JSON")
    return made


def main() -> int:
    """Read, put together, print."""
    given = parser().parse_args()
    paper = published()
    _check_used(given, paper)
    sources = Sources(
        [PaperStudy(path) for path in given.study],
        read_costs(given.cost) if given.cost else {},
        [read_clip_es(path) for path in given.clip_es],
        read_crf(given.crf) if given.crf else {},
    )
    for study in sources.studies:
        _check_rows(study, given.table, paper)
    tables = [assemble(key, paper, sources, given.rule) for key in given.table]
    if given.markdown:
        print(as_markdown(tables), end="")
    elif given.json:
        print(as_json(tables), end="")
    else:
        print_tables(tables, Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False))
    return 0


def _check_used(given: argparse.Namespace, paper: Published) -> None:
    """Raise unless one of the tables takes figures from each kind of source that is given.

    Raises:
        ConfigError: none does.
    """
    taken = {source for key in given.table for source in paper.tables[key].sources}
    options = {"study": given.study, "cost": given.cost, "clip_es": given.clip_es, "crf": given.crf}
    unused = [name for name, value in options.items() if value and name not in taken]
    if unused:
        raise ConfigError(
            f"--{unused[0].replace('_', '-')} is of no use",
            where="command line",
            got=f"--table {' '.join(given.table)}",
            wanted="one of " + ", ".join(key for key, table in paper.tables.items() if unused[0] in table.sources),
        )


def _check_rows(study: PaperStudy, keys: list[str], paper: Published) -> None:
    """Raise if a study has trials, but none that is a row.

    Raises:
        RunError: it is so.
    """
    tables = [paper.tables[key] for key in keys if paper.tables[key].study]
    found = (
        study.records(table.study, {**row.run, **column.run})
        for table in tables
        for row in table.rows
        if table.source_of(row) == "study"
        for column in table.columns
    )
    if study.trials and not any(found):
        files = ", ".join(sorted({f"{CONFIGS}/{table.study}.yaml" for table in tables}))
        raise RunError(
            "no trial of the study is a row of the tables",
            where=study.path,
            got=f"{study.trials} trials with other settings",
            wanted=f"a study of {files}",
        )


if __name__ == "__main__":
    run_console(main)
