"""Runs of the real launcher that are disturbed from outside, and what is compared afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
DATA = ("--source", "synthetic", "--classes", "3", "--clips-per-class", "20", "--frames", "8", "--size", "64x48")
FRAMES = 12  # of a step of stage 1
SMALL = [
    *("data.resize=48", "data.crop=40", "data.n_frames=2", "data.workers=1", "run.stages=[classifier,cams,localizer]"),
    *("model.encoder=resnet18", "model.weights=none", "model.output_stride=16", "engine.device=cpu"),
    *("model.decoder_channels=[16,16,8,8,8]", "engine.timeout=60", "checkpoint.keep=2"),
    # Many frames and small steps: BatchNorm over a few frames and large steps amplify rounding to percents.
    *(f"classifier.global_batch={FRAMES}", "classifier.optimizer.lr=0.0005"),
    *("localizer.global_batch=24", "localizer.seeds.n_fg=20", "localizer.seeds.n_bg=20"),
    *("localizer.loss.frame_crf.weight=1e-6", "localizer.loss.colocalization.weight=0.5"),
    *("evaluation.validation_thresholds=50", "log.every_steps=1", "log.tensorboard=false"),
]

Meanwhile = Callable[[Path, subprocess.Popen[bytes]], None]
"""What happens while a run goes on: given the run's folder and its launcher; in a thread of its own."""


@dataclass(frozen=True)
class Outcome:
    """A run that has ended: its folder, how long it took, its exit code, and the rows of ``restarts.jsonl``."""

    folder: Path
    seconds: float
    code: int
    restarts: list[dict[str, Any]]

    @property
    def name(self) -> str:
        """Of the run."""
        return self.folder.name


@dataclass(frozen=True)
class Interrupted:
    """A run that was sent a signal: how long its last process lived on, and how many did so for half a minute."""

    seconds: float
    preempted: bool
    left: int


class Lab:
    """A folder with a small data set and the runs on it.

    Every run has a copy of the shards, so that none finds the CAM archive of another.
    """

    steps_per_epoch = 4  # 42 training clips in steps of 12 frames

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "shards").exists():
            command = [sys.executable, "-m", "shards.build", *DATA, "--output", str(folder / "shards")]
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def run(
        self,
        name: str,
        *settings: str,
        ranks: int = 2,
        restarts: int = 0,
        check: bool = True,
        meanwhile: Meanwhile | None = None,
    ) -> Outcome:
        """Run to the end under the supervisor.

        Raises:
            RuntimeError: it did not succeed, and ``check`` is set.
        """
        began = time.monotonic()
        process = self._start(name, settings, "ranks", ranks=ranks, restarts=restarts)
        thread = None
        if meanwhile is not None:
            thread = threading.Thread(target=meanwhile, args=(self.folder / "runs" / name, process))
            thread.start()
        code = process.wait()
        if thread is not None:
            thread.join()
        folder = self.folder / "runs" / name
        if check and not (folder / "done.json").exists():
            log = (self.folder / f"{name}.log").read_text()
            raise RuntimeError(f"run {name} ended with {code}:\n{log[-3000:]}")
        rows = (folder / "restarts.jsonl").read_text().splitlines() if (folder / "restarts.jsonl").exists() else []
        return Outcome(folder, time.monotonic() - began, code, [json.loads(row) for row in rows])

    def interrupt(
        self, name: str, settings: tuple[str, ...], launcher: str, number: signal.Signals, target: str, after_step: int
    ) -> Interrupted:
        """Send a signal to a run of two ranks when it has done a number of steps, and wait for its last process."""
        process = self._start(name, settings, launcher)
        run = self.folder / "runs" / name
        _wait(lambda: len(self.losses(run)) >= after_step, process)
        ranks = self.ranks_of(name)
        targets = {"launcher": [process.pid], "one": [ranks[1]], "all": list(ranks.values())}[target]
        began = time.monotonic()
        for pid in targets:
            os.kill(pid, number)
        while self.processes_of(name) and time.monotonic() - began < 30:
            time.sleep(0.02)
        seconds, left = time.monotonic() - began, len(self.processes_of(name))
        process.kill()
        process.wait()
        return Interrupted(seconds, (run / "preempted.json").exists(), left)

    def costs(self, outcome: Outcome, saves: int) -> tuple[float, float]:
        """Seconds of the slowest step and of a checkpoint in a run of stage 1 that wrote so many of them."""
        rows = self._rows(outcome.folder)
        slowest = max(FRAMES / row["frames_per_s"] for row in rows if row["kind"] == "train")
        (stage,) = (row for row in rows if row["kind"] == "stage")
        return slowest, stage["saving_seconds"] / saves

    def copy(self, outcome: Outcome, name: str) -> Outcome:
        """The same interrupted run under another name."""
        folder = outcome.folder.with_name(name)
        shutil.copytree(outcome.folder, folder)
        config = folder / "config.yaml"
        config.write_text(config.read_text().replace(outcome.name, name))
        shutil.copytree(self._shards(outcome.name), self._shards(name), dirs_exist_ok=True)
        return Outcome(folder, 0.0, outcome.code, [])

    def forget(self, outcome: Outcome) -> None:
        """Remove what a run left behind."""
        shutil.rmtree(outcome.folder)
        shutil.rmtree(self._shards(outcome.name))

    def kill_a_rank(self, rank: int, after: float) -> Meanwhile:
        """Kill a rank so many seconds after the start, if it still lives; a launcher that has ended is no error."""

        def act(run: Path, process: subprocess.Popen[bytes]) -> None:
            deadline = time.monotonic() + after
            while time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.01)
            victim = self.ranks_of(run.name).get(rank)
            if victim is not None:
                _kill(victim)

        return act

    def kill_again_and_again(self, draw: random.Random, every: float) -> Meanwhile:
        """Kill a random rank about ``every`` seconds of training (start-up not counted)."""

        def act(run: Path, process: subprocess.Popen[bytes]) -> None:
            rows = 0
            while process.poll() is None:
                # Only an attempt that trains is killed, so that the run gets ahead.
                if len(self._lines(run)) > rows:
                    time.sleep(draw.uniform(0.5, 1.5) * every)
                    ranks = self.ranks_of(run.name)
                    if ranks and process.poll() is None:
                        _kill(draw.choice(list(ranks.values())))
                        time.sleep(0.5)
                    rows = len(self._lines(run))
                time.sleep(0.05)

        return act

    def sample(self, samples: list[dict[str, float]]) -> Meanwhile:
        """Note memory, files and threads of the ranks and of what they started, once a second."""

        def act(run: Path, process: subprocess.Popen[bytes]) -> None:
            while process.poll() is None:
                time.sleep(1.0)
                if not self._lines(run):
                    continue
                try:
                    samples.append(_usage(list(self.ranks_of(run.name).values())))
                except (OSError, IndexError):  # it has just ended
                    continue

        return act

    def traces(self) -> set[str]:
        """What processes of runs may leave behind: shared memory, processes, temporary folders."""
        found = {f"/dev/shm/{path.name}" for path in Path("/dev/shm").iterdir()}
        found |= {str(path) for kind in ("pymp-*", "ranks-*") for path in Path(tempfile.gettempdir()).glob(kind)}
        return found | {f"process {pid}" for pid in self.processes_of("")}

    def ranks_of(self, name: str) -> dict[int, int]:
        """Process ids of the ranks of a run, by rank."""
        found = {}
        for pid in self.processes_of(name):
            try:
                variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                program = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            named = dict(variable.split(b"=", 1) for variable in variables if b"=" in variable)
            rank = named.get(b"RANK", named.get(b"SLURM_PROCID"))
            words = program.split(b"\0")
            if rank is not None and b"python" in words[0] and any(word.endswith(b"train.py") for word in words[1:3]):
                found[int(rank)] = pid
        return found

    def processes_of(self, name: str) -> list[int]:
        """Living processes with the run in their command line; of any run here if the name is empty."""
        wanted = f"run.folder={self.folder / 'runs'}".encode(), f"run.name={name}".encode()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
                state = (process / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if wanted[0] in words and (not name or wanted[1] in words) and state != "Z":
                found.append(int(process.name))
        return found

    def losses(self, run: Path) -> dict[tuple[str, int], float]:
        """Training losses by stage and step; of a repeated step the last one counts."""
        return {(row["stage"], row["step"]): row["loss"] for row in self._rows(run) if row["kind"] == "train"}

    def receipts(self, run: Path) -> Any:
        """What data every epoch was given."""
        return json.loads((run / "receipt.json").read_text())

    def steps(self, run: Path, stage: str) -> int:
        """Optimizer steps of a finished stage."""
        return max(step for name, step in self.losses(run) if name == stage)

    def _rows(self, run: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._lines(run)]

    def _lines(self, run: Path) -> list[str]:
        try:
            text = (run / "metrics.jsonl").read_text()
        except FileNotFoundError:
            return []
        return text[: text.rfind("\n") + 1].splitlines()

    def _shards(self, name: str) -> Path:
        return self.folder / f"shards-{name}"

    def _start(
        self, name: str, settings: tuple[str, ...], launcher: str, *, ranks: int = 2, restarts: int = 0
    ) -> subprocess.Popen[bytes]:
        if not self._shards(name).exists():
            shutil.copytree(self.folder / "shards", self._shards(name))
        where = [f"data.shards={self._shards(name)}", f"run.folder={self.folder / 'runs'}", f"run.name={name}"]
        port = str(20000 + (os.getpid() + hash(name)) % 30000)
        script, number = "launchers/train.py", str(ranks)
        starts = {
            "ranks": [sys.executable, script, "--ranks", number, "--max-restarts", str(restarts)],
            "deepspeed": [str(BIN / "deepspeed"), "--num_gpus", number, "--master_port", port, script],
            "srun": ["srun", f"-N{number}", "--ntasks-per-node=1", "--kill-on-bad-exit=1", sys.executable, script],
            "torchrun": [str(BIN / "torchrun"), "--nproc-per-node", number, "--master-port", port, script],
        }
        variables = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "COLOCAM_FAULTS": "allowed"}
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [*starts[launcher], *where, *SMALL, *settings],
                cwd=ROOT,
                env=os.environ | variables,
                stdout=log,
                stderr=subprocess.STDOUT,
            )


def differences(one: Path, other: Path) -> str:
    """In what two runs differ: final states, best weights, losses, data; "" if in nothing, bit for bit."""
    told = []
    for stage in sorted(path.name for path in (one / "checkpoints").iterdir()):
        newest = [max((run / "checkpoints" / stage).glob("step-*")) for run in (one, other)]
        states = [torch.load(folder / "state.pt", weights_only=True) for folder in newest]
        for kind in ("weights", "momentum"):
            same = states[0][kind].keys() == states[1][kind].keys() and all(
                torch.equal(tensor, states[1][kind][name]) for name, tensor in states[0][kind].items()
            )
            if not same:
                told.append(f"{stage} {kind}")
        if any(not torch.equal(t, states[1]["buffers"][0][name]) for name, t in states[0]["buffers"][0].items()):
            told.append(f"{stage} buffers")
        for best in sorted((one / "checkpoints" / stage).glob("*.pt")):
            hashes = [torch.load(run / "checkpoints" / stage / best.name)["sha256"] for run in (one, other)]
            if hashes[0] != hashes[1]:
                told.append(f"{stage} {best.name}")
    lab = Lab.__new__(Lab)
    if lab.losses(one) != lab.losses(other):
        told.append("losses")
    if lab.receipts(one) != lab.receipts(other):
        told.append("receipts")
    return ", ".join(told)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _wait(until: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the run did not come so far: {process.args}")
        time.sleep(0.01)


def _usage(pids: list[int]) -> dict[str, float]:
    """MiB of resident memory, open files and threads of processes and their children, summed."""
    family = set(pids)
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    while grown := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= grown
    usage = {"memory": 0.0, "files": 0.0, "threads": 0.0}
    for pid in family:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        usage["memory"] += int(status.get("VmRSS", "0 kB").split()[0]) / 1024
        usage["threads"] += int(status["Threads"])
        usage["files"] += sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return usage
