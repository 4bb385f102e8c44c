"""What every command does around its work: logging, user errors without a traceback, exit codes."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

from colocam_dist.errors import ColocamError, ConfigError, ReportedElsewhereError

__all__ = ["run_console"]


def run_console(main: Callable[[], int]) -> None:
    """Run `main` and leave with its exit code; a user error prints its message and gives 2, Ctrl-C gives 130.

    Only rank 0 logs below WARNING.
    """
    first = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"
    level = logging.INFO if first else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    try:
        sys.exit(main())
    except (ConfigError, ReportedElsewhereError) as error:
        if first:  # all ranks meet these; one message is enough
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except ColocamError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
