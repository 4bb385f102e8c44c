"""A real SLURM with virtual nodes on this machine, for tests: slurmctld, munged, and one slurmd for each node.

Needs root and the packages slurmctld, slurmd, slurm-client and munge. Nothing outside of its folder is touched: daemons
stay in the foreground as children of this process, and nodes have their host names and their hosts file to themselves.
By hand::

    python tests/slurm/virtual_cluster.py DIR     # prints the export that other shells need; ^C ends it
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "squeue", "scontrol", "unshare", "mount")

CONF = """\
ClusterName=virtual
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# The second setting shortens the wait of a requeued job from two minutes to seconds.
AuthInfo=socket={folder}/munge.sock,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=0,sched_interval=1,bf_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
KillWait=5
MinJobAge=900
ReturnToService=2
SlurmdTimeout=8
SlurmdParameters=config_overrides
GresTypes=gpu
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=60 DefaultTime=10 PriorityTier=10 PreemptMode=REQUEUE GraceTime=20
PartitionName=urgent Nodes=ALL MaxTime=60 DefaultTime=10 PriorityTier=100 PreemptMode=OFF
"""

NODE = """\
set -e
hostname {name}
mount --bind {folder}/hosts /etc/hosts
mount -t tmpfs none {hidden}
exec slurmd -D -c -f {folder}/slurm.conf -N {name}
"""


def missing() -> str | None:
    """Why a cluster cannot be started here; None if it can."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    if os.geteuid() != 0:
        return "virtual nodes need root"
    return None


class VirtualCluster:
    """Runs while it is entered.

    Args:
        folder: for its files; a short path, because a socket lies in it.
        nodes: their number; they are called vn1, vn2, ...
        cpus: that each node claims to have.
        gpus: the same; they are null devices.

    Attributes:
        hidden: a folder of this machine that nodes do not see the contents of.
    """

    def __init__(self, folder: Path, nodes: int = 2, cpus: int = 2, gpus: int = 2) -> None:
        self.folder = folder
        self.names = [f"vn{number}" for number in range(1, nodes + 1)]
        self.hidden = folder / "hidden"
        self.conf = folder / "slurm.conf"
        self._cpus, self._gpus = cpus, gpus
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> VirtualCluster:
        for name in ("state", "hidden", *(f"spool-{node}" for node in self.names)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._write_files()
        os.environ["SLURM_CONF"] = str(self.conf)
        try:
            self._start("munged", "munged", "--foreground", *self._munge_options())
            self._wait(lambda: (self.folder / "munge.sock").exists(), "munged")
            self._start("slurmctld", "slurmctld", "-D", "-c", "-f", str(self.conf))
            for node in self.names:
                self.start_node(node)
            self._wait(lambda: self.idle() == len(self.names), "the nodes")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if "slurmctld" in self._daemons:
            with contextlib.suppress(subprocess.SubprocessError):
                subprocess.run(["scancel", "--user=root", "--quiet"], timeout=10, capture_output=True, check=False)
                self._wait(lambda: not self.ask("squeue", "--noheader"), "the end of all jobs", seconds=15, must=False)
        for node in self.names:
            self.kill_node(node)
        for name in ("slurmctld", "munged"):
            if name in self._daemons:
                self._daemons[name].terminate()
                self._daemons.pop(name).wait(timeout=20)
        os.environ.pop("SLURM_CONF", None)

    def start_node(self, name: str) -> None:
        """Boot a node."""
        script = NODE.format(name=name, folder=self.folder, hidden=self.hidden)
        self._start(name, "unshare", "--uts", "--mount", "bash", "-c", script)

    def kill_node(self, name: str) -> None:
        """Pull its plug: no process that runs on it survives."""
        if name not in self._daemons:
            return
        for pid in self.processes_on(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._daemons.pop(name).wait()

    def processes_on(self, name: str) -> list[int]:
        """What runs on a node, its daemon included."""
        try:
            world = (Path("/proc") / str(self._daemons[name].pid) / "ns/uts").readlink()
        except (KeyError, FileNotFoundError):
            return []
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (process / "ns/uts").readlink() == world:
                    found.append(int(process.name))
        return found

    def idle(self) -> int:
        """How many nodes have nothing to do."""
        answer = self.ask("sinfo", "--noheader", "--partition=main", "--states=idle", "--format=%D %t")
        return sum(int(line.split()[0]) for line in answer.splitlines() if line.split()[1] == "idle")

    def ask(self, *command: str) -> str:
        """What a command prints; "" if it fails."""
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    def _write_files(self) -> None:
        self.folder.chmod(0o755)
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        for gpu in range(self._gpus):
            device = self.folder / f"gpu{gpu}"
            if not device.exists():
                os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
        ports = _free_ports(len(self.names) + 1)
        gpus = f" Gres=gpu:{self._gpus}" if self._gpus else ""
        nodes = [
            f"NodeName={name} NodeHostname={name} NodeAddr=127.0.0.1 Port={port} CPUs={self._cpus} RealMemory={memory}"
            f"{gpus} State=UNKNOWN"
            for name, port in zip(self.names, ports[1:], strict=True)
        ]
        self.conf.write_text(CONF.format(port=ports[0], folder=self.folder, nodes="\n".join(nodes)))
        devices = f"File={self.folder}/gpu[0-{self._gpus - 1}]"
        gres = f"NodeName={','.join(self.names)} Name=gpu {devices}\n" if self._gpus else ""
        (self.folder / "gres.conf").write_text(gres)
        (self.folder / "cgroup.conf").write_text("ConstrainCores=no\nConstrainRAMSpace=no\nConstrainDevices=no\n")
        (self.folder / "plugstack.conf").write_text("")
        own = Path("/etc/hosts").read_text() if Path("/etc/hosts").exists() else ""
        (self.folder / "hosts").write_text(own + "".join(f"\n127.0.0.1 {name}" for name in self.names) + "\n")

    def _munge_options(self) -> list[str]:
        files = {"key-file": "munge.key", "socket": "munge.sock", "pid-file": "munged.pid", "seed-file": "munge.seed"}
        return [f"--{option}={self.folder / name}" for option, name in files.items()]

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            # A session of its own, so that ^C ends this process first, which then ends the daemons in order.
            self._daemons[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _wait(self, until: Callable[[], bool], what: str, *, seconds: float = 30.0, must: bool = True) -> None:
        deadline = time.monotonic() + seconds
        while not until():
            if time.monotonic() > deadline:
                if not must:
                    return
                logs = "".join(f"\n== {log.name}\n{log.read_text()[-800:]}" for log in self.folder.glob("*.log"))
                raise RuntimeError(f"{what} did not come within {seconds:g} s{logs}")
            time.sleep(0.05)


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


@contextlib.contextmanager
def _until_interrupted() -> Iterator[None]:
    with contextlib.suppress(KeyboardInterrupt):
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        yield


if __name__ == "__main__":
    if why := missing():
        sys.exit(why)
    with _until_interrupted(), VirtualCluster(Path(sys.argv[1])) as cluster:
        sys.stdout.write(f"export SLURM_CONF={cluster.conf}\n")
        sys.stdout.flush()
        signal.pause()
