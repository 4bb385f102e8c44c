"""What every command does around its work: logging, user errors without a traceback, exit codes."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from colocam_dist.errors import (
    ColocamError,
    ConfigError,
    MemoryLimitError,
    PreemptedError,
    RankLostError,
    ReportedElsewhereError,
)

# Read when torch is imported. The stacks of its native code say nothing that the message of an error does not.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

__all__ = ["OUT_OF_MEMORY", "PREEMPTED", "RANK_LOST", "run_console"]

PREEMPTED = 85
"""Exit code of a run that was asked to stop and can be resumed."""
RANK_LOST = 86
"""Exit code of a rank that hung, or that lost another rank: resuming may help."""
OUT_OF_MEMORY = 87
"""Exit code of a rank that had too little memory: resuming with smaller micro-batches may help."""


def run_console(main: Callable[[], int]) -> None:
    """Run `main` and leave with its exit code.

    A user error prints its message and gives 2, a run that was preempted and can be resumed gives 85, a rank that lost
    another one 86, too little memory 87, Ctrl-C 130.

    Only rank 0 logs below WARNING.
    """
    first = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"
    level = logging.INFO if first else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    try:
        _leave(main())
    except PreemptedError as error:
        if first:
            print(error, file=sys.stderr)
        _leave(PREEMPTED)
    except (RankLostError, MemoryLimitError) as error:
        print(f"error: {error}", file=sys.stderr)
        _leave(RANK_LOST if isinstance(error, RankLostError) else OUT_OF_MEMORY)
    except (ConfigError, ReportedElsewhereError) as error:
        if first:  # all ranks meet these; one message is enough
            print(f"error: {error}", file=sys.stderr)
        _leave(2)
    except ColocamError as error:
        print(f"error: {error}", file=sys.stderr)
        _leave(2)
    except KeyboardInterrupt:
        _leave(130)
    except Exception:
        if not _has_peers():
            raise
        traceback.print_exc()
        _leave(1)


def _has_peers() -> bool:
    """Whether this process is in a process group still, having left a run that others are at work on."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def _leave(code: int) -> NoReturn:
    """End with a code; at once, if an orderly end would wait for peers (NCCL), who wait for this process."""
    if _has_peers():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
