"""What every command does around its work: logging, user errors without a traceback, exit codes."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

from colocam_dist.errors import ColocamError, ConfigError, PreemptedError, ReportedElsewhereError

__all__ = ["PREEMPTED", "run_console"]

PREEMPTED = 85
"""Exit code of a run that was asked to stop and can be resumed."""


def run_console(main: Callable[[], int]) -> None:
    """Run `main` and leave with its exit code.

    A user error prints its message and gives 2, a run that was preempted and can be resumed gives 85, Ctrl-C 130.

    Only rank 0 logs below WARNING.
    """
    first = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"
    level = logging.INFO if first else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    try:
        sys.exit(main())
    except PreemptedError as error:
        if first:
            print(error, file=sys.stderr)
        sys.exit(PREEMPTED)
    except (ConfigError, ReportedElsewhereError) as error:
        if first:  # all ranks meet these; one message is enough
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except ColocamError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
