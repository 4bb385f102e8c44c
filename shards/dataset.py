"""From the units of a source to finished splits: plan, keep what is done, write the rest, declare the split done."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2

from colocam_dist.data.manifest import manifest_name
from colocam_dist.errors import DataError
from shards.arguments import say_bytes
from shards.grouping import group_units
from shards.images import PictureRule
from shards.manifest import remove_stale_shards, shards_among, write_manifest
from shards.output import LocalOutput, Output
from shards.pool import run_jobs
from shards.sources.base import SPLITS, Inputs, natural_key, raise_problems
from shards.writer import Shard, ShardJob, done_name, finished_shard, write_shard

__all__ = ["BuildOptions", "SplitSummary", "build_dataset"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildOptions:
    """How shards are written.

    Attributes:
        rule: how frames are stored.
        frames_per_piece: frames that share a key in the tar, 1..64.
        shard_mb: size at which a shard is closed, in MB (10^6 bytes); a guess made before frames are encoded.
        workers: number of processes; does not change the bytes.
        splits: the splits to write; empty = all that the input has.
        overwrite: whether finished shards of other inputs or options may be replaced, and splits removed that the input
            does not have.
    """

    rule: PictureRule
    frames_per_piece: int = 64
    shard_mb: float = 128
    workers: int = 1
    splits: tuple[str, ...] = ()
    overwrite: bool = False


@dataclass(frozen=True)
class SplitSummary:
    """What a finished split holds: counts, bytes of its shards, how many of those were there before, seconds."""

    split: str
    shots: int
    frames: int
    boxes: int
    bytes: int
    shards: int
    kept: int
    seconds: float


def build_dataset(inputs: Inputs, target: Path | Output, options: BuildOptions) -> list[SplitSummary]:
    """Write the shards of all wanted splits. An interrupted build, called again, goes on after its finished shards.

    Args:
        inputs: what a source found.
        target: where to.
        options: how shards are written.

    Raises:
        DataError: a wanted split has no input; the folder holds shards of other inputs or options, or, if all splits
            are wanted, a split without input; an input turned out to be unreadable; too little space. Shards that were
            finished before the error stay, but the split has no manifest.
    """
    output = LocalOutput(target) if isinstance(target, Path) else target
    for warning in inputs.warnings:
        _log.warning("%s", warning)
    present = {unit.split for unit in inputs.units}
    absent = [split for split in options.splits if split not in present]
    if absent:
        raise DataError(
            f"the input has no frames of split {', '.join(absent)}",
            got=", ".join(split for split in SPLITS if split in present),
            fix="change --splits",
        )
    seen = Counter((unit.cls, unit.video, unit.shot) for unit in inputs.units)
    twice = sorted("/".join(filter(None, key)) for key, count in seen.items() if count > 1)
    raise_problems(twice, what="shots of the same name", where=Path(output.location), fix="give them different names")
    wanted = [split for split in SPLITS if split in (options.splits or present)]
    jobs = {split: _jobs(inputs, split, output, options) for split in wanted}
    output.prepare()
    kept = {split: _finished(planned) for split, planned in jobs.items()}
    if not options.overwrite:
        _refuse_other_shards(output, kept)
    outdated = [] if options.splits else _other_splits(output, present, overwrite=options.overwrite)
    todo = {split: [job for job in planned if job.name not in kept[split]] for split, planned in jobs.items()}
    _check_space(output, [job for some in todo.values() for job in some], inputs.estimate_excess, options.workers)
    for split in outdated:
        _log.warning("split '%s' of an earlier build is removed: the input does not have it", split)
        output.remove(manifest_name(split))
        remove_stale_shards(output, split, keep=set())
    return [_build_split(split, todo[split], kept[split], inputs, output, options) for split in wanted]


def _jobs(inputs: Inputs, split: str, output: Output, options: BuildOptions) -> list[ShardJob]:
    groups = group_units((unit for unit in inputs.units if unit.split == split), int(options.shard_mb * 1e6))
    return [
        ShardJob(output, f"{split}-{number:06d}.tar", units, options.rule, options.frames_per_piece, inputs.settings)
        for number, units in enumerate(groups)
    ]


def _finished(jobs: list[ShardJob]) -> dict[str, Shard]:
    """What earlier builds have finished of these, by name."""
    return {job.name: shard for job in jobs if (shard := finished_shard(job))}


def _refuse_other_shards(output: Output, kept: dict[str, dict[str, Shard]]) -> None:
    names = output.names()
    for split, finished in kept.items():
        mine = {done_name(name) for name in finished}
        others = [name for name in shards_among(names, split, ".done") if name not in mine]
        if others:
            raise DataError(
                f"the folder holds {len(others)} shards of split '{split}' that were built from other inputs, with "
                "other options, or with another OpenCV, or that were damaged since",
                where=output.location,
                got=", ".join(others[:5]) + (", ..." if len(others) > 5 else ""),
                fix="write to another folder, or give --overwrite to replace them",
            )


def _other_splits(output: Output, present: set[str], *, overwrite: bool) -> list[str]:
    """Splits of an earlier build that the input does not have; what they hold may be in its training split.

    Raises:
        DataError: there are some, and they are not to be overwritten.
    """
    names = output.names()
    there = [
        split
        for split in SPLITS
        if split not in present
        and (manifest_name(split) in names or shards_among(names, split, ".done") or shards_among(names, split))
    ]
    if there and not overwrite:
        raise DataError(
            f"the folder holds split {', '.join(there)}, which the input does not have",
            where=output.location,
            wanted=f"no split but {', '.join(split for split in SPLITS if split in present)}",
            fix="write to another folder, name the splits to write by --splits, or give --overwrite to remove this one",
        )
    return there


def _check_space(output: Output, todo: list[ShardJob], excess: float, workers: int) -> None:
    """Refuse to begin what cannot be finished, and warn of what may not be.

    Raises:
        DataError: even if the estimate is too high by the factor ``excess``, the shards do not fit.
    """
    sizes = sorted((sum(unit.estimated_bytes for unit in job.units) for job in todo), reverse=True)
    if not output.keeps:
        sizes = sizes[:workers]
    needed, free = sum(sizes), output.free_bytes()
    wanted = f"about {say_bytes(needed)} for {len(sizes)} shard{'s' * (len(sizes) != 1)}" + (
        "" if output.keeps else " at a time"
    )
    if needed / excess > free:
        raise DataError(
            "there is too little space for the shards" + ("" if output.keeps else " on their way"),
            where=output.disk,
            got=f"{say_bytes(free)} free",
            wanted=wanted,
            fix="free some space, write to another disk, or store smaller frames (--short-side)"
            if output.keeps
            else "free some space, name a folder on another disk by --staging, or take fewer --workers",
        )
    if needed > free:
        _log.warning(
            "the space may not be enough: %s, though they may be smaller, and %s are free at %s; if it runs out, free "
            "some and build again: what is finished is kept",
            wanted,
            say_bytes(free),
            output.disk,
        )


def _build_split(
    split: str, todo: list[ShardJob], kept: dict[str, Shard], inputs: Inputs, output: Output, options: BuildOptions
) -> SplitSummary:
    began = time.monotonic()
    if todo:  # until all shards are there again, no manifest may vouch for them
        output.remove(manifest_name(split))
    written = run_jobs(write_shard, todo, workers=options.workers, title=split, unit="shard") if todo else []
    by_name = {**kept, **{shard.name: shard for shard in written}}
    shards = [by_name[name] for name in sorted(by_name, key=natural_key)]
    for shard in shards:
        for warning in shard.warnings:
            _log.warning("%s", warning)
    remove_stale_shards(output, split, keep=set(by_name))
    write_manifest(
        output,
        split,
        classes=inputs.classes,
        shards=shards,
        settings={
            **inputs.settings,
            **asdict(options.rule),
            "frames_per_piece": options.frames_per_piece,
            "shard_mb": options.shard_mb,
            "opencv": cv2.__version__,
        },
        source=inputs.receipt,
    )
    return SplitSummary(
        split=split,
        shots=sum(shard.shots for shard in shards),
        frames=sum(shard.frames for shard in shards),
        boxes=sum(shard.boxes for shard in shards),
        bytes=sum(shard.bytes for shard in shards),
        shards=len(shards),
        kept=len(kept),
        seconds=time.monotonic() - began,
    )
