"""A run's localizer on new videos: class, score and box per frame, and overlay videos; by any number of processes.

Each clip is finished by itself (:mod:`colocam_dist.inference.clip_results`), so a prediction that was killed goes on
with the clips that are left. Ranks share the clips (:mod:`colocam_dist.inference.claims`) and nobody waits for anybody:
each looks at its end whether all clips are finished, and the one that finds them so writes the tables.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm import tqdm

from colocam_dist import __version__
from colocam_dist.config.machine import Engine
from colocam_dist.distributed import Place, resolve_device, share_cores
from colocam_dist.errors import DataError, PreemptedError, RunError
from colocam_dist.inference.api import Localizer
from colocam_dist.inference.claims import Claims, working_order
from colocam_dist.inference.clip_results import ClipResults
from colocam_dist.inference.clip_rows import BoxOptions, BoxRule, SeenFrame, clip_rows
from colocam_dist.inference.overlay import MapStore, draw_overlay
from colocam_dist.inference.rows import FramePrediction
from colocam_dist.inference.sources import Clip, find_clips

__all__ = ["FramePrediction", "Summary", "predict", "predict_clip"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Summary:
    """What :func:`predict` did in this process.

    Attributes:
        clips: made here.
        kept: clips that were finished before.
        frames: of the clips made here.
        seconds_per_frame: decoding, the network and boxes, not the overlay video.
        complete: all clips are finished, and the tables are written.
    """

    clips: int
    kept: int
    frames: int
    seconds_per_frame: float
    complete: bool


def predict(
    run: Path,
    source: Path,
    output: Path,
    *,
    options: BoxOptions | None = None,
    device: str = "auto",
    overlays: bool = True,
    place: Place | None = None,
) -> Summary:
    """Write a file for each clip, and ``predictions.json`` and ``.csv`` once all are finished.

    Clips that are finished with the same settings from the same files are kept; others are made anew.

    Args:
        run: folder of a finished run.
        source: a video, a folder of pictures, or a folder tree of both.
        output: made if absent; for what is in it see :mod:`colocam_dist.inference.clip_results`.
        options: which boxes; None asks for one a frame, at the threshold that the run's evaluation fixed on validation.
        device: "auto", "cpu" or "cuda".
        overlays: write the videos.
        place: this process's among those that were started with the same arguments; None: it is alone.

    Raises:
        RunError: no such run, no trained localizer in it, no validation threshold, or `output` cannot be written or
            lies within `source`, or an overlay would replace an input or another file, or another process that is no
            rank of this prediction is at work on it.
        DataError: nothing to read, or damaged clips; all others are finished before.
        PreemptedError: this process was sent TERM; finished clips stay.
    """
    place = place or Place()
    share_cores(place)
    clips = find_clips(source)
    if source.is_dir() and output.resolve().is_relative_to(source.resolve()):
        raise RunError("the output would become input", where=output, wanted=f"a folder outside of {source}")
    where = resolve_device(Engine.model_validate({"device": device}), place.local_rank)
    localizer = Localizer.load(run, device=where)
    rule = localizer.rule(options or BoxOptions())
    settings = {
        "version": __version__,
        "ends": "included",  # of boxes; clips that were finished before that are made anew
        "weights": localizer.weights_sha256,
        "model": localizer.model,
        "classes": localizer.classes,
        "size": localizer.size,
        "threshold": rule.threshold,
        **rule.facts(),
    }
    told = {"run": str(run), "threshold": rule.threshold, "classes": localizer.classes, **rule.facts()}
    if rule.settings.smoothing == "maps":
        told["threshold_of"] = rule.origin
    results = ClipResults(output, settings, videos=overlays)
    results.check_videos(clips)
    with _stopped_by_term(output), Claims(results.folder / ".claims") as claims:
        work = _Work(localizer, rule, clips, results, claims)
        work.do(place)
        complete = results.merge(clips, told)
    if not complete and place.world == 1:
        raise RunError("another process is at work on clips of this output", where=output, fix="wait for it to end")
    return Summary(work.made, work.kept, work.frames, work.seconds / max(1, work.frames), complete)


def predict_clip(
    localizer: Localizer, clip: Clip, rule: BoxRule, maps: MapStore | None = None
) -> list[FramePrediction]:
    """All rows of a clip, for smoothing may look at all of its frames before the first box is known.

    Args:
        localizer: the run's.
        clip: is decoded batch by batch.
        rule: says how boxes are made.
        maps: takes the frames' maps, if they are wanted.

    Raises:
        DataError: the clip cannot be read.
    """
    seen = localizer.see(clip.frames(), clip=clip.name)
    return list(clip_rows(seen if maps is None else _storing(seen, maps), rule))


def _storing(frames: Iterable[SeenFrame], maps: MapStore) -> Iterator[SeenFrame]:
    for frame in frames:
        maps.append(frame.map_SS)
        yield frame


class _Work:
    """One process's part of a prediction, and what it did."""

    def __init__(
        self, localizer: Localizer, rule: BoxRule, clips: Sequence[Clip], results: ClipResults, claims: Claims
    ) -> None:
        self.made = self.kept = self.frames = 0
        self.seconds = 0.0
        self._localizer = localizer
        self._rule = rule
        self._clips = clips
        self._results = results
        self._claims = claims
        self._damaged: list[DataError] = []

    def do(self, place: Place) -> None:
        """Finish the clips of this rank, then what others have not begun.

        Raises:
            DataError: some clips cannot be read.
        """
        lacks = Counter(self._results.lacks(clip) for clip in self._clips)
        self.kept = lacks.pop(None, 0)
        if self.kept or lacks.keys() - {"no results yet"}:
            log.info("%d of %d clips are finished already", self.kept, len(self._clips))
        for lack, count in lacks.items():
            if lack != "no results yet":
                log.info("%d clips are made anew: %s", count, lack)
        own, others = working_order(len(self._clips), place.rank, place.world)
        for number in tqdm(own, desc="predict", unit="clip", disable=None if place.rank == 0 else True):
            self._finish(number)
        for number in others if self._claims.possible else []:
            self._finish(number)
        self._report(place)

    def _finish(self, number: int) -> None:
        """Make a clip, unless it is finished or another process is at it."""
        clip = self._clips[number]
        if self._results.lacks(clip) is None or not self._claims.take(number):
            return
        try:
            if self._results.lacks(clip) is not None:  # the one who had the claim may have finished it
                self._make(clip)
        except DataError as error:
            log.warning("%s", error)
            self._damaged.append(error)
            return  # the claim stays, so that other ranks do not try as well
        self._claims.release(number)

    def _make(self, clip: Clip) -> None:
        results = self._results
        results.withdraw(clip)
        stamp = clip.stamp()
        with MapStore(results.folder) if results.videos else nullcontext() as maps:
            began = time.perf_counter()
            rows = predict_clip(self._localizer, clip, self._rule, maps)
            self.seconds += time.perf_counter() - began
            if maps is None:
                self._write(clip, stamp, rows)
            else:
                draw_overlay(results.video(clip), clip, rows, maps, lambda: self._write(clip, stamp, rows))
        self.made += 1
        self.frames += len({row.frame for row in rows})

    def _write(self, clip: Clip, stamp: str, rows: Sequence[FramePrediction]) -> None:
        if clip.stamp() != stamp:
            raise DataError("an input has changed while it was read", where=clip.files[0], fix="predict again")
        self._results.write(clip, stamp, rows)

    def _report(self, place: Place) -> None:
        if not self._damaged:
            return
        if len(self._clips) == 1:
            raise self._damaged[0]
        raise DataError(
            f"{len(self._damaged)} of {len(self._clips)} clips failed; the others were made",
            where=f"rank {place.rank}",
            got="; ".join(f"{error.what}: {error.where}" for error in self._damaged),
            fix="mend or remove them, then give the same command again: finished clips are kept",
        )


@contextmanager
def _stopped_by_term(output: Path) -> Iterator[None]:
    """Within it, TERM raises a PreemptedError, once: what is unfinished is cleared away on the way out.

    Only in the main thread, the only one that may handle signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise PreemptedError(
            "the prediction was asked to stop",
            where=output,
            got=signal.Signals(number).name,
            fix="give the same command again: finished clips are kept",
        )

    before: Any = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
