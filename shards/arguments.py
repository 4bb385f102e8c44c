"""What the commands have in common: kinds of arguments, and how sizes are said."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from colocam_dist.config.locations import scheme_of
from colocam_dist.errors import ConfigError

__all__ = ["add_workers", "available_cores", "local_dataset", "number", "positive", "say_bytes"]


def number(low: int, high: int | None = None) -> Callable[[str], int]:
    """A kind of argument: a whole number in low..high."""

    def number(text: str) -> int:
        value = int(text)
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"{text} is not in {low}..{'' if high is None else high}")
        return value

    return number


def positive(text: str) -> float:
    """A kind of argument: a finite number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def local_dataset(text: str) -> Path:
    """The folder of a dataset, for commands that read or write it in place.

    Raises:
        ConfigError: it is a URL.
    """
    scheme = scheme_of(text)
    if scheme is None:
        return Path(text)
    if scheme == "file":
        return Path(text.partition(":")[2].removeprefix("//"))
    raise ConfigError(
        "this command works on datasets of this machine only",
        where=text,
        got=f"a URL ({scheme})",
        wanted="a folder",
        fix="copy the dataset to a folder first; training checks what it reads from a URL by itself",
    )


def add_workers(parser: argparse.ArgumentParser) -> None:
    """The option --workers of commands that do shards one by one unless told otherwise."""
    parser.add_argument("--workers", type=number(1), default=1, help="processes (default 1)")


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def say_bytes(size: float) -> str:
    """A number of bytes with a unit in which it is not 0.0: "3.1 GB", "41.0 MB", "0.8 kB"; powers of 1000."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size / 1e3:.1f} kB"
