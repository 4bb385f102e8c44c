"""Requests to a server that may fail: tried again, with growing pauses, a bounded number of times."""

from __future__ import annotations

import asyncio
import errno
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from colocam_dist.errors import ColocamError, DataError

__all__ = ["READING", "WRITING", "Retry", "WrongCopyError", "retried"]

_log = logging.getLogger(__name__)
Result = TypeVar("Result")

_TRY_LATER = (408, 425, 429)  # among HTTP's 4xx answers, those that may change


@dataclass(frozen=True)
class Retry:
    """How often and how patiently.

    Args:
        tries: requests in all, >= 1.
        pause: seconds before the second try; doubled each time, up to 30 s, and varied by up to half so that many
            processes do not come back at once.
        timeout: seconds without an answer or a byte after which a request has failed (HTTP).
    """

    tries: int = 6
    pause: float = 0.5
    timeout: float = 30.0


class WrongCopyError(OSError):
    """What arrived is not what was asked for."""


@dataclass(frozen=True)
class _Purpose:
    """What the requests are for: the message when they have failed, and what to do then."""

    failed: str
    fix: str


READING = _Purpose(
    "a remote file cannot be read",
    "check the address, the network and the credentials (data.remote.options), then resume the run",
)
WRITING = _Purpose(
    "the shards cannot be written to this address",
    "check the address, the network and the credentials (--output-option), then build again: what is finished is kept",
)


def retried(action: Callable[[], Result], retry: Retry, what: str, purpose: _Purpose = READING) -> Result:
    """Do ``action``, which serves ``purpose``, until it succeeds.

    Raises:
        FileNotFoundError: the server says that there is no such file.
        OSError: the local disk is full.
        DataError: it failed ``retry.tries`` times, or in a way that will not change; names ``what``.
    """
    for number in range(1, retry.tries + 1):
        try:
            return action()
        except (FileNotFoundError, ColocamError):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise  # this machine's disk, not the server
            if not _may_change(error) or number == retry.tries:
                raise DataError(
                    purpose.failed,
                    where=what,
                    got=f"{_say(error)} ({number} {'tries' if number > 1 else 'try'})",
                    fix=purpose.fix,
                ) from error
            pause = min(retry.pause * 2 ** (number - 1), 30.0) * random.uniform(0.75, 1.25)
            _log.warning("%s: %s; try %d of %d in %.1f s", what, _say(error), number + 1, retry.tries, pause)
            time.sleep(pause)
    raise AssertionError("unreachable: tries >= 1")


def _may_change(error: Exception) -> bool:
    status = getattr(error, "status", None)  # of aiohttp's answers
    if isinstance(status, int) and 400 <= status < 500:
        return status in _TRY_LATER
    if isinstance(error, PermissionError):
        return False
    # Libraries for HTTP raise types of their own for broken connections.
    of_network = type(error).__module__.partition(".")[0] in ("aiohttp", "botocore", "urllib3", "requests")
    return of_network or isinstance(error, (OSError, EOFError, asyncio.TimeoutError))


def _say(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
