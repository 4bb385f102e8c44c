"""Kill, stop and starve training runs, and compare what they end in with undisturbed ones.

Two gloo ranks, a small network, real processes, started by ``launchers/train.py --ranks``. Each experiment prints its
figures and adds them to a JSON file; the exit code is 1 if a promise of docs/reliability.md was broken::

    python benchmarks/reliability.py kills --count 50
    python benchmarks/reliability.py signals
    python benchmarks/reliability.py resize
    python benchmarks/reliability.py soak --steps 2000

kills: kill -9 of a random rank, half of the times at a random moment and half on entering a random phase of a random
step; the supervisor restarts the ranks. signals: TERM, USR1 and USR2 to the launcher, one rank or all; time from the
signal to the end of the last process. resize: interrupted runs go on at every ZeRO stage with 1, 2 and 3 ranks. soak:
one long run with faults that do not end it, whose memory, files and threads are sampled, and one of a fifth of its
length with a kill about every five seconds of training.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median_low
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from reliability_lab import Lab, differences  # noqa: E402

PHASES = ("data", "forward", "exchange", "backward", "optimizer")
SAVING = ("save.gather", "save.write", "save.seal", "save.rename", "save.pointer", "save.prune")
BOTH_STAGES = ("checkpoint.every_steps=3", "classifier.epochs=3", "localizer.epochs=3")
STAGE_1 = ("checkpoint.every_steps=3", "run.stages=[classifier]", "classifier.epochs=5")
_COUNTED = ("files", "threads")
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def kills(lab: Lab, count: int, seed: int) -> dict[str, Any]:
    """Runs that lose a rank at a random moment, or in a random phase, against an undisturbed one."""
    whole = lab.run("whole", *BOTH_STAGES)
    steps = lab.steps(whole.folder, "classifier")
    draw = random.Random(seed)
    equal, down, moments = 0, [], []
    for number in range(count):
        name = f"kill-{number:03d}"
        if number % 2:
            stage, rank = draw.choice(("classifier", "localizer")), draw.randrange(2)
            phase = draw.choice((*PHASES, *SAVING, "validate"))
            saves = phase in SAVING
            # Writing is rank 0's business, after every third step; validation comes after each epoch.
            step = draw.randrange(3, steps + 1, 3) if saves else draw.randrange(1, steps + 1)
            step = lab.steps_per_epoch * draw.randrange(1, 4) if phase == "validate" else step
            fault = f"kill@{0 if saves else rank}:{step}:{stage}.{phase}"
            outcome = lab.run(name, *BOTH_STAGES, f"fault={fault}", restarts=2)
            moments.append(fault)
        else:
            # From the first sign of the run to its end, start-up included.
            after = draw.uniform(0.0, whole.seconds)
            outcome = lab.run(name, *BOTH_STAGES, restarts=2, meanwhile=lab.kill_a_rank(draw.randrange(2), after))
            moments.append(f"after {after:.1f} s")
        told = differences(whole.folder, outcome.folder)
        equal += not told
        down += [row["seconds_down"] for row in outcome.restarts]
        print(f"{number + 1}/{count} {moments[-1]}: {len(outcome.restarts)} restarts, {told or 'equal'}", flush=True)
        lab.forget(outcome)
    return {
        "runs": count,
        "bit-identical": equal,
        "restarts": len(down),
        "seconds down, median": sorted(down)[len(down) // 2] if down else None,
        "seconds down, most": max(down, default=None),
        "ok": equal == count,
    }


def signals(lab: Lab, seed: int, launchers: list[str]) -> dict[str, Any]:
    """Every signal to the launcher, to one rank and to all of them."""
    whole = lab.run("whole", *STAGE_1)
    step, save = lab.costs(whole, saves=10)  # after steps 3, 6, 9, 12, 15, 18 and after each of five epochs of 4 steps
    limit = step + save + 2.0
    draw = random.Random(seed)
    rows, ok = [], True
    for launcher in launchers:
        for number in SIGNALS:
            for target in ("launcher", "one", "all"):
                name = f"{launcher}-{number.name}-{target}"
                sent = lab.interrupt(name, STAGE_1, launcher, number, target, after_step=draw.randrange(2, 6))
                resumed = lab.run(name, *STAGE_1, "run.on_exists=resume")
                told = differences(whole.folder, resumed.folder)
                good = not told and sent.preempted and sent.seconds <= limit and not sent.left
                ok &= good
                rows.append({"case": name, "seconds": round(sent.seconds, 2), "limit": round(limit, 2), "ok": good})
                print(f"{name}: {sent.seconds:.2f} s of {limit:.2f} s, {told or 'equal'}, left {sent.left}", flush=True)
                lab.forget(resumed)
    worst = max(row["seconds"] for row in rows)
    print(f"limit: step {step:.2f} s + save {save:.2f} s + 2 s")
    return {"cases": len(rows), "good": sum(row["ok"] for row in rows), "seconds, most": worst, "ok": ok, "rows": rows}


def resize(lab: Lab) -> dict[str, Any]:
    """A run of two ranks, killed in mid-epoch of stage 2, goes on at every ZeRO stage with 1, 2 and 3 ranks."""
    settings = ("classifier.epochs=1", "localizer.epochs=2", "checkpoint.every_steps=1")
    rows, ok = [], True
    for zero in range(4):
        stage = f"engine.zero_stage={zero}"
        whole = lab.run(f"whole-{zero}", *settings, stage)
        cut = lab.run(f"cut-{zero}", *settings, stage, "fault=kill@1:4:localizer.forward", check=False)
        for ranks in (1, 2, 3):
            run = lab.copy(cut, f"cut-{zero}-on-{ranks}")
            resumed = lab.run(run.name, *settings, stage, "run.on_exists=resume", ranks=ranks)
            ours, theirs = lab.losses(resumed.folder), lab.losses(whole.folder)
            after = [key for key in theirs if key[0] == "localizer" and key[1] >= 4]
            error = max(abs(ours[key] - theirs[key]) / abs(theirs[key]) for key in after)
            same_order = lab.receipts(resumed.folder) == lab.receipts(whole.folder)
            identical = not differences(whole.folder, resumed.folder) if ranks == 2 else None
            good = same_order and (identical if ranks == 2 else error < 1e-6)
            ok &= bool(good)
            rows.append({"zero": zero, "ranks": ranks, "relative error": error, "bit-identical": identical})
            print(f"ZeRO {zero}, 2 -> {ranks} ranks: {error:.1e}, identical {identical}, data {same_order}", flush=True)
            lab.forget(resumed)
    worst = {ranks: max(row["relative error"] for row in rows if row["ranks"] == ranks) for ranks in (1, 2, 3)}
    return {"relative error of losses, most, by ranks": worst, "ok": ok, "rows": rows}


def soak(lab: Lab, steps: int, seed: int) -> dict[str, Any]:
    """Long runs: one whose faults it survives in one process, one that is killed about every five seconds."""
    draw = random.Random(seed)
    per_epoch = lab.steps_per_epoch
    epochs = max(2, steps // per_epoch)
    settings = ("run.stages=[classifier]", f"classifier.epochs={epochs}", "checkpoint.every_steps=25")
    settings += ("evaluation.validate_every=20", "engine.non_finite=skip", "checkpoint.when_full=skip")
    faults = []
    for step in range(50, epochs * per_epoch, 50):
        kind, phase = draw.choice(
            (("nan", "backward"), ("slow", "data"), ("nan", "forward"), ("full_disk", "save.write"))
        )
        at = step if phase != "save.write" else step - step % 25
        faults.append(f"{kind}@{0 if phase == 'save.write' else draw.randrange(2)}:{at}:{phase}")
    before = lab.traces()
    samples: list[dict[str, float]] = []
    lab.run("calm", *settings, f"fault={','.join(faults)}", meanwhile=lab.sample(samples))
    growth = _growth(samples)
    print(f"in one process: {len(faults)} faults, {len(samples)} samples, growth {growth}", flush=True)
    shorter = (*settings, f"classifier.epochs={max(2, epochs // 5)}")  # most of its time goes into restarts
    reference = lab.run("reference", *shorter)
    killed = lab.run("killed", *shorter, restarts=10_000, meanwhile=lab.kill_again_and_again(draw, every=5.0))
    told = differences(reference.folder, killed.folder)
    left = lab.traces() - before
    print(f"killed: {len(killed.restarts)} restarts, {told or 'equal'}; left behind: {sorted(left)}", flush=True)
    return {
        "steps": epochs * per_epoch,
        "steps of the run with kills": max(2, epochs // 5) * per_epoch,
        "faults in one process": len(faults),
        "growth after warm-up": growth,
        "kills": len(killed.restarts),
        "bit-identical after kills": not told,
        "left behind": sorted(left),
        "ok": not told and not left and growth["memory"] < 0.01 and growth["files"] <= 0 and growth["threads"] <= 0,
    }


def _growth(samples: list[dict[str, float]]) -> dict[str, float]:
    """From the third quarter of a run to the last: relative of the mean memory, absolute of files and threads.

    Of these the median counts: files of a checkpoint that is just written come and go, and at its end all go.
    """
    third, last = samples[len(samples) // 2 : 3 * len(samples) // 4], samples[3 * len(samples) // 4 :]
    mean = [sum(sample["memory"] for sample in part) / len(part) for part in (third, last)]
    usual = {key: [median_low([sample[key] for sample in part]) for part in (third, last)] for key in _COUNTED}
    return {
        "memory": round(mean[1] / mean[0] - 1, 4),
        **{key: after - earlier for key, (earlier, after) in usual.items()},
    }


def main() -> int:
    """Parse, run the experiments, print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=("kills", "signals", "resize", "soak"))
    parser.add_argument("--count", type=int, default=50, help="kills: how many")
    parser.add_argument("--steps", type=int, default=2000, help="soak: how many in each run")
    parser.add_argument(
        "--launchers",
        nargs="+",
        choices=("ranks", "deepspeed", "torchrun", "srun"),
        default=["ranks", "deepspeed", "torchrun"],
        help="signals: ranks = our supervisor; srun needs a SLURM with two nodes",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file that the figures are added to")
    parser.add_argument("--keep", type=Path, help="folder for data and runs, kept (default: a temporary one)")
    options = parser.parse_args()
    experiments: dict[str, Callable[[Lab], dict[str, Any]]] = {
        "kills": lambda lab: kills(lab, options.count, options.seed),
        "signals": lambda lab: signals(lab, options.seed, options.launchers),
        "resize": resize,
        "soak": lambda lab: soak(lab, options.steps, options.seed),
    }
    folder = options.keep or Path(tempfile.mkdtemp(prefix="reliability-"))
    try:
        figures = experiments[options.experiment](Lab(folder))
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps({options.experiment: figures}, indent=1))
    if options.output is not None:
        book = json.loads(options.output.read_text()) if options.output.exists() else {}
        options.output.write_text(json.dumps({**book, options.experiment: figures}, indent=1) + "\n")
    return 0 if figures["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
