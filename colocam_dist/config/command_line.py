"""The command line of a training run and of the supervisor: ``--config FILE section.key=value ...``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CommandLine", "Supervision", "parse"]


@dataclass(frozen=True)
class Supervision:
    """What the user typed about the ranks that this process is to start and watch."""

    ranks: int = 1
    max_restarts: int = 0
    grace: float = 120.0  # seconds


@dataclass(frozen=True)
class CommandLine:
    """What the user typed: a file, overrides, whether only to print the result, whether to start ranks (None: no)."""

    config: Path | None
    overrides: tuple[str, ...]
    print_config: bool
    supervision: Supervision | None = None


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
    ours = parser.add_argument_group("ranks that this command starts and watches itself (one machine)")
    ours.add_argument("--ranks", type=int, metavar="N", help=f"processes to start (default {Supervision.ranks})")
    ours.add_argument(
        "--max-restarts",
        type=int,
        metavar="K",
        help=f"how often all ranks are started again after a failure (default {Supervision.max_restarts})",
    )
    ours.add_argument(
        "--grace",
        type=float,
        metavar="SECONDS",
        help=f"how long ranks that are asked to stop may take before they are killed (default {Supervision.grace:g})",
    )
    known = parser.parse_intermixed_args(arguments)
    given = {name: getattr(known, name) for name in ("ranks", "max_restarts", "grace")}
    given = {name: value for name, value in given.items() if value is not None}
    if given.keys() == {"grace"}:
        parser.error("--grace needs --ranks or --max-restarts")
    supervision = Supervision(**given) if given else None
    return CommandLine(known.config, tuple(known.overrides), known.print_config, supervision)
