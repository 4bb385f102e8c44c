"""The command line that all launchers share: ``--config FILE section.key=value ...``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CommandLine", "parse"]


@dataclass(frozen=True)
class CommandLine:
    """What the user typed: a file, overrides, and whether only to print the result."""

    config: Path | None
    overrides: tuple[str, ...]
    print_config: bool


def parse(description: str, arguments: Sequence[str] | None = None) -> CommandLine:
    """Parse a launcher's command line.

    ``--local_rank`` is accepted and ignored, because the ``deepspeed`` launcher appends it; ranks come from the
    environment. Exits with status 2 and a usage line on anything else that is unknown.
    """
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument("--config", type=Path, help="YAML file with the settings of the run (see configs/)")
    parser.add_argument("--print-config", action="store_true", help="print the resolved settings as YAML and exit")
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that win over the file")
    known = parser.parse_intermixed_args(arguments)
    return CommandLine(known.config, tuple(known.overrides), known.print_config)
