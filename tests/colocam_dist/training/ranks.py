"""Ranks of a process group as processes of a test."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import torch.multiprocessing as mp

__all__ = ["run_ranks"]

Work = Callable[[int, int, str], None]


def run_ranks(work: Work, world: int, folder: Path) -> None:
    """Call ``work(rank, world, folder)`` in as many processes, which may connect to each other; wait for all of them.

    Args:
        work: a function of a module, for the processes import it.
        world: number of ranks.
        folder: where they leave what they find.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.start_processes(_rank, (work, world, port, str(folder)), nprocs=world, start_method="spawn")


def _rank(rank: int, work: Work, world: int, port: int, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    work(rank, world, folder)
