"""Train: tagged shards in, localizer and report out.

One plain script for every launcher, and with ``--ranks`` or ``--max-restarts`` its own::

    python launchers/train.py --config configs/demo.yaml
    python launchers/train.py --ranks 2 --max-restarts 3 --config configs/demo.yaml
    deepspeed launchers/train.py --config configs/demo.yaml run.name=two-gpus
    torchrun --nproc-per-node 2 launchers/train.py --config configs/demo.yaml
    srun python launchers/train.py --config configs/demo.yaml
"""

from __future__ import annotations

from colocam_dist.config import dump, load, parse
from colocam_dist.console import run_console


def main() -> int:
    """Parse, check the settings, run; 0 = done.json was written."""
    command = parse("Train a localizer from video-level tags (CoLo-CAM).")
    config = load(command.config, command.overrides)
    if command.print_config:
        print(dump(config), end="")
        return 0
    if command.supervision is not None:
        from colocam_dist.training.supervisor import supervise

        return supervise(command, config, __file__)
    from colocam_dist.training.pipeline import run

    folder = run(config)
    report = folder.file("report.html")
    print(f"done: {report if report.is_file() else folder.path}")
    return 0


if __name__ == "__main__":
    run_console(main)
