"""Who this process is among the workers, and the few collectives that the project uses.

``deepspeed`` and ``torchrun`` set RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. Under ``srun`` they are
taken from the SLURM *step* (SLURM_PROCID alone is also set in a batch script, where it means nothing). Otherwise the
process is alone.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import socket
import warnings
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined] # public, but not listed

from colocam_dist.allocator import keep_memory
from colocam_dist.config.machine import Engine
from colocam_dist.errors import ColocamError, ConfigError, PreemptedError, ReportedElsewhereError, RunError
from colocam_dist.progress import Progress

__all__ = [
    "Place",
    "Workers",
    "connect",
    "environment_from_slurm",
    "find_place",
    "rendezvous_store",
    "resolve_device",
    "share_cores",
]

log = logging.getLogger(__name__)
T = TypeVar("T")

COLLECTIVES_WAIT_LONGER = 60.0
"""Seconds beyond ``engine.timeout`` after which a collective operation itself fails."""


@dataclass(frozen=True)
class Workers:
    """This process's place and device; every method is a collective unless it says otherwise.

    Attributes:
        rank: of this process among all, in [0, world).
        local_rank: of this process on its machine.
        world: number of ranks.
        device: what this rank computes on.
        progress: where this rank is in its work.
        timeout: after which a collective of a group fails; None = torch's own.
    """

    rank: int
    local_rank: int
    world: int
    device: torch.device
    progress: Progress = field(default_factory=Progress)
    timeout: timedelta | None = None

    @property
    def is_main(self) -> bool:
        """True on the one rank that writes shared files (no communication)."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world > 1:
            dist.barrier()

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Element-wise sum over ranks, in place; every rank gets the same result."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """Every rank's picklable value, in rank order, on every rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def from_main(self, value: Any) -> Any:
        """Rank 0's picklable value on every rank."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def on_main(self, action: Callable[[], T]) -> T:
        """Do ``action`` on rank 0 and give its picklable result to every rank.

        Raises:
            ColocamError: what it raised, on rank 0; a ReportedElsewhereError on the others.
        """
        result: T | None = None
        error: ColocamError | None = None
        if self.is_main:
            try:
                result = action()
            except ColocamError as raised:
                error = raised
        message = self.from_main((result, str(error)) if error else (result, None))
        if error is not None:
            raise error
        if message[1] is not None:
            raise ReportedElsewhereError(message[1])
        return message[0]

    def share(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrite every tensor with rank 0's."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def group(self, size: int) -> dist.ProcessGroup:
        """The process group of this rank and its neighbors: `size` ranks in a row, the first a multiple of `size`."""
        assert self.world % size == 0
        members = [list(range(first, first + size)) for first in range(0, self.world, size)]
        groups = [dist.new_group(ranks, timeout=self.timeout) for ranks in members]
        return groups[self.rank // size]

    def reasons_to_stop(self) -> str | None:
        """Who asked which rank to stop; None if nobody did."""
        asked = enumerate(self.gather(self.progress.stop_reason()))
        return ", ".join(f"{why} on rank {rank}" for rank, why in asked if why is not None) or None

    def agree_to_go_on(self, what: str) -> None:
        """Wait for all ranks, and go on unless one of them was asked to stop while it did ``what``.

        Raises:
            PreemptedError: on all ranks.
        """
        phase = self.progress.position.phase
        self.progress.enter(f"{phase}.wait")
        reason = self.reasons_to_stop()
        self.progress.enter(phase)
        if reason is not None:
            raise PreemptedError(
                "the run was asked to stop",
                where=what,
                got=reason,
                fix="give the same command with run.on_exists=resume",
            )

    def close(self, *, together: bool = True) -> None:
        """Leave the process group; safe to call twice.

        Args:
            together: whether all ranks do so now. NCCL would wait for those that are still at work, so this process
                then stays in the group, and has to end without Python's tidying up
                (:func:`colocam_dist.console.run_console`).
        """
        if dist.is_initialized() and (together or self.device.type == "cpu"):
            dist.destroy_process_group()


def environment_from_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """The rendezvous variables for a process started by ``srun``; empty outside of a SLURM step.

    Rank 0 is on the first node of the step, which need not be the one that ``srun`` was called on. The port depends on
    job and step, because jobs may share a node and a job may have several steps at a time, and changes when a job is
    requeued, in case another program had it.
    """
    if "SLURM_STEP_ID" not in environment or "SLURM_PROCID" not in environment:
        return {}
    nodes = environment.get("SLURM_STEP_NODELIST", environment.get("SLURM_JOB_NODELIST", "127.0.0.1"))
    world = environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", "1"))
    local_worlds = _tasks_per_node(environment.get("SLURM_STEP_TASKS_PER_NODE", world))
    step = 16 * int(environment.get("SLURM_JOB_ID", "0")) + int(environment["SLURM_STEP_ID"])
    step += 997 * int(environment.get("SLURM_RESTART_COUNT", "0"))
    return {
        "RANK": environment["SLURM_PROCID"],
        "LOCAL_RANK": environment.get("SLURM_LOCALID", "0"),
        "WORLD_SIZE": world,
        "LOCAL_WORLD_SIZE": str(local_worlds[min(int(environment.get("SLURM_NODEID", "0")), len(local_worlds) - 1)]),
        "MASTER_ADDR": _first_node(nodes),
        "MASTER_PORT": str(20000 + step % 12000),  # below the range of ports that systems give to clients
    }


@dataclass(frozen=True)
class Place:
    """Where this process stands among those that a launcher has started; no process group belongs to it.

    Attributes:
        rank: among all, in [0, world).
        world: number of ranks.
        local_rank: on this machine.
        local_world: number of ranks on this machine.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1


def find_place(environment: Mapping[str, str]) -> Place:
    """This process's place as ``torchrun``, ``deepspeed`` or ``srun`` has given it; alone without one.

    Raises:
        ConfigError: a rank that is not in [0, world).
    """
    given = environment if {"RANK", "WORLD_SIZE"} <= environment.keys() else environment_from_slurm(environment)
    rank, world = int(given.get("RANK", "0")), int(given.get("WORLD_SIZE", "1"))
    if not 0 <= rank < world:
        raise ConfigError("rank out of range", where="RANK, WORLD_SIZE", got=f"{rank} of {world}", wanted="0 to N - 1")
    local_world = given.get("LOCAL_WORLD_SIZE", given.get("LOCAL_SIZE", world))
    return Place(rank, world, int(given.get("LOCAL_RANK", "0")), int(local_world))


def share_cores(place: Place) -> None:
    """Let torch use this rank's part of the machine's cores, unless OMP_NUM_THREADS has said how many."""
    if place.local_world > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(_threads(place.local_world))


def _tasks_per_node(text: str) -> list[int]:
    """``4(x2),3`` -> [4, 4, 3]."""
    found = []
    for part in text.split(","):
        tasks, _, times = part.removesuffix(")").partition("(x")
        found += [int(tasks)] * int(times or 1)
    return found


def _first_node(nodelist: str) -> str:
    """``gpu[03-07,9]-ib,cpu1`` -> ``gpu03-ib``."""
    match = re.match(r"(?:[^,\[\]]|\[[^\[\]]+\])+", nodelist)
    if match is None:
        raise ConfigError("SLURM node list cannot be read", where="SLURM_STEP_NODELIST", got=nodelist)
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", match.group())


def _fill_environment(environment: MutableMapping[str, str]) -> None:
    if {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= environment.keys():
        environment.setdefault("LOCAL_RANK", "0")
        return
    given = environment_from_slurm(environment)
    if not given:
        given = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        with socket.socket() as probe:  # a free port, so that two single-process runs never meet
            probe.bind(("127.0.0.1", 0))
            given["MASTER_PORT"] = str(probe.getsockname()[1])
    environment.update(given)


def resolve_device(engine: Engine, local_rank: int) -> torch.device:
    """The device of this rank, or one clear error when the choice cannot run here.

    Raises:
        ConfigError: CUDA asked for and absent; fp16 without CUDA; bf16 on a machine that merely happens to have no
            GPU (``engine.device=cpu`` states that slow bf16 on the CPU is meant).
    """
    has_cuda = torch.cuda.is_available()
    device = engine.device if engine.device != "auto" else ("cuda" if has_cuda else "cpu")
    if device == "cuda" and not has_cuda:
        raise ConfigError(
            "no CUDA device here", where="engine.device", got="cuda", wanted="cpu or auto", fix="use engine.device=cpu"
        )
    if device == "cpu" and engine.precision == "fp16":
        raise ConfigError(
            "fp16 needs a GPU", where="engine.precision", got="fp16 on a CPU", fix="use engine.precision=fp32"
        )
    if device == "cpu" and engine.precision == "bf16" and engine.device == "auto":
        raise ConfigError(
            "bf16 was asked for and there is no GPU",
            where="engine.precision",
            got="bf16, engine.device=auto, no CUDA device",
            fix="use engine.precision=fp32 (faster on most CPUs), or engine.device=cpu if bf16 on the CPU is meant",
        )
    if device == "cpu" and engine.precision == "bf16" and local_rank == 0 and bf16_is_emulated():
        log.warning(
            "engine.precision=bf16: this CPU (%s) has no instructions for bf16, so steps can take twenty times as long "
            "as with engine.precision=fp32",
            torch.backends.cpu.get_cpu_capability(),
        )
    return torch.device("cuda", _gpu(local_rank)) if device == "cuda" else torch.device("cpu")


def bf16_is_emulated() -> bool:
    """Whether this is an x86 CPU without AVX-512, on which torch computes bf16 by its slow reference code."""
    return platform.machine() in ("x86_64", "AMD64") and "AVX512" not in torch.backends.cpu.get_cpu_capability()


def _gpu(local_rank: int) -> int:
    """The GPU of this rank: that of its number, or the only one that it sees (SLURM may give each task its own)."""
    count = torch.cuda.device_count()
    if local_rank < count:
        return local_rank
    if count != 1 or "SLURM_STEP_ID" not in os.environ:
        raise RunError(  # the ranks that have a GPU do not meet it, so that each of the others has to say it
            "there are more ranks than GPUs on this machine",
            where=f"local rank {local_rank}",
            got=f"{count} GPUs",
            fix="start one rank for each GPU, or use engine.device=cpu",
        )
    return 0


def _threads(local_world: int) -> int:
    """CPUs of this rank: those of its SLURM task, or an equal part of those of the machine."""
    cpus = len(os.sched_getaffinity(0))
    if "SLURM_STEP_ID" in os.environ and "SLURM_CPUS_PER_TASK" in os.environ:
        return max(1, min(cpus, int(os.environ["SLURM_CPUS_PER_TASK"])))
    return max(1, cpus // max(1, local_world))


def rendezvous_store(timeout: timedelta) -> PrefixStore:
    """A connection to the store of the launcher or of rank 0, in which only ranks of this attempt meet.

    torchrun's store outlives the ranks that it starts again. torch gives their names in it no part of their own, so new
    ones would wait for the addresses of dead ones.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout)
    return PrefixStore(f"colocam/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def connect(engine: Engine) -> Workers:
    """Join the process group (NCCL on GPUs, gloo on CPUs) and quiet DeepSpeed.

    Raises:
        ConfigError: see :func:`resolve_device`.
    """
    _fill_environment(os.environ)
    rank, local_rank, world = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    device = resolve_device(engine, local_rank)
    local_world = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", world)))
    threads = engine.threads or _threads(local_world)
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = engine.tf32
    torch.backends.cudnn.benchmark = engine.cudnn_benchmark
    if device.type == "cpu" and engine.keep_memory:
        keep_memory()
    os.environ["DS_ACCELERATOR"] = device.type
    if device.type == "cuda":
        os.environ["LOCAL_RANK"] = str(device.index)  # by which DeepSpeed chooses the GPU
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # third-party deprecations at import are not the user's to mend
        import deepspeed
        import deepspeed.ops
    # The shared-memory op would be compiled for minutes at the first start and serves inference collectives only.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed.*")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    # Later than the watchdog, which can say who is missing.
    timeout = timedelta(seconds=engine.timeout + COLLECTIVES_WAIT_LONGER)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        dist.init_process_group(backend, store=rendezvous_store(timeout), rank=rank, world_size=world, timeout=timeout)
    deepspeed.init_distributed(dist_backend=backend, timeout=timeout, verbose=False)  # takes a group that is there
    workers = Workers(dist.get_rank(), local_rank, dist.get_world_size(), device, timeout=timeout)
    log.info("rank %d of %d on %s, %d CPU threads", workers.rank, workers.world, device, threads)
    return workers
