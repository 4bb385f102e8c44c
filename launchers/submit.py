"""Submit a run to SLURM, and look after it::

    python launchers/submit.py --config FILE slurm.partition=P slurm.nodes=2 slurm.gpus_per_node=4 [section.key=value]
    python launchers/submit.py status|logs|cancel|resume RUN

See docs/slurm.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from colocam_dist.console import run_console
from colocam_dist.slurm import commands_of_users as user

COMMANDS = {"status": user.status, "logs": user.logs, "cancel": user.cancel, "resume": user.resume}


def parser_of_submit() -> argparse.ArgumentParser:
    """Options of submitting."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", type=Path, help="YAML file with the settings of the run (see configs/)")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that win over the file")
    parser.add_argument("--dry-run", action="store_true", help="print plan and batch script, and submit nothing")
    parser.add_argument("--follow", action="store_true", help="stay and tell what happens until the job is over")
    parser.add_argument("--chain", action="store_true", help="one job for each stage, one after another")
    parser.add_argument(
        "--array",
        action="append",
        default=[],
        metavar="section.key=V,V,...",
        help="one run for each value (given several times: for each combination)",
    )
    parser.add_argument("--like", type=Path, metavar="RUN", help="an earlier run by whose speed the time is foretold")
    return parser


def main() -> int:
    """Parse, and do what was asked for."""
    words = sys.argv[1:]
    if words and words[0] in COMMANDS:
        command = argparse.ArgumentParser(prog=f"submit.py {words[0]}", description=COMMANDS[words[0]].__doc__)
        command.add_argument("run", type=Path, help="folder of the run, or of an array")
        if words[0] == "logs":
            command.add_argument("--rank", type=int, help="only of this rank")
            command.add_argument("--lines", type=int, default=40, help="at the end of each log (default 40)")
        if words[0] == "resume":
            command.add_argument("--new-code", action="store_true", help="run today's code, not that of the submission")
            command.add_argument("--follow", action="store_true", help="stay and tell what happens")
            command.add_argument("overrides", nargs="*", metavar="section.key=value", help="other settings")
        return COMMANDS[words[0]](command.parse_intermixed_args(words[1:]))
    return user.submit(parser_of_submit().parse_intermixed_args(words))


if __name__ == "__main__":
    run_console(main)
