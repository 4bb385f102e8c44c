"""The finished clips of a prediction: one file each, which says what it was made from; and the tables of all.

::

    <output>/
      clips/<name>.json     rows of one clip, with the settings and the input that they were made from; written last
      clips/.claims         locks of the processes at work (:mod:`colocam_dist.inference.claims`)
      <name>.mp4            its overlay video; takes its name after those, so one without them is not of a prediction
      predictions.json      all clips together; there only while all of them are finished
      predictions.csv
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from colocam_dist.errors import RunError
from colocam_dist.files import write_atomically
from colocam_dist.inference.rows import TABLES, FramePrediction, write_tables
from colocam_dist.inference.sources import Clip
from colocam_dist.runs.folder import differences

__all__ = ["ClipResults"]


class ClipResults:
    """What a prediction leaves in its output folder.

    Args:
        output: the folder, which is made.
        settings: all that decides about the rows of a clip, as JSON has it.
        videos: whether overlay videos are wanted.

    Attributes:
        folder: of the files of single clips.
        videos: as given.

    Raises:
        RunError: the folder cannot be made.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any], *, videos: bool) -> None:
        self.folder = output / "clips"
        self._output = output
        self._settings = json.loads(json.dumps(settings))  # tuples become lists, as in a file
        self.videos = videos
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError("output folder cannot be made", where=output, got=error.strerror) from None

    def video(self, clip: Clip) -> Path:
        """Where the overlay of a clip belongs."""
        return self._output / f"{clip.name}.mp4"

    def check_videos(self, clips: Sequence[Clip]) -> None:
        """Nothing may be replaced or removed that is no overlay of an earlier prediction.

        Raises:
            RunError: the place of an overlay is that of an input, or of a file that no prediction has made.
        """
        inputs = {clip.files[0].resolve() for clip in clips if clip.is_video}
        for clip in clips:
            video = self.video(clip)
            # Asked twice, for between the two questions another rank may finish the clip, or begin it anew.
            strange = all(video.exists() and not self._has_video(clip) for _ in range(2))
            if strange and not self.videos:  # it stays
                continue
            if video.resolve() in inputs:
                raise RunError("an overlay would replace an input", where=video, fix="give another folder as output")
            if strange:
                raise RunError(
                    "the name of an overlay is taken",
                    where=video,
                    got=f"a file that {self._path(clip)} does not tell of",
                    fix="give another folder as output, move the file away, or go without videos (--no-video)",
                )

    def lacks(self, clip: Clip) -> str | None:
        """What a clip lacks to be finished; None if it is.

        Finished means: with the same settings, from the same files (by names, sizes and times), with its video where
        videos are wanted.
        """
        return self._read(clip)[0]

    def write(self, clip: Clip, stamp: str, rows: Sequence[FramePrediction]) -> None:
        """Finish a clip; its video, if one is wanted, must be whole, and takes its name after this.

        Raises:
            RunError: it cannot be written.
        """
        record = {
            "clip": clip.name,
            "settings": self._settings,
            "input": stamp,
            "video": self.videos,
            "frames": [row.to_row() for row in rows],
        }
        path = self._path(clip)
        try:
            write_atomically(path, json.dumps(record, indent=1) + "\n")
        except OSError as error:
            raise RunError("results cannot be written", where=path, got=error.strerror) from None

    def withdraw(self, clip: Clip) -> None:
        """Remove what there is of a clip that is going to be made, and the tables of all."""
        if self._has_video(clip):  # before the file that says so
            self.video(clip).unlink(missing_ok=True)
        for path in (self._path(clip), *(self._output / name for name in TABLES)):
            path.unlink(missing_ok=True)

    def merge(self, clips: Sequence[Clip], facts: Mapping[str, Any]) -> bool:
        """Write the tables if all clips are finished; whether they are. The tables are the same whoever writes them.

        Raises:
            RunError: they cannot be written.
        """
        rows: list[dict[str, Any]] = []
        for clip in clips:
            lack, frames = self._read(clip)
            if lack is not None:
                return False
            rows += frames
        try:
            write_tables(self._output, rows, facts)
        except OSError as error:
            raise RunError("results cannot be written", where=self._output, got=error.strerror) from None
        return True

    def _path(self, clip: Clip) -> Path:
        return self.folder / f"{clip.name}.json"

    def _record(self, clip: Clip) -> dict[str, Any] | None:
        """What was written of a clip; None if nothing was, empty if it is damaged."""
        try:
            record = json.loads(self._path(clip).read_text())
            return {name: record[name] for name in ("settings", "input", "video", "frames")}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _has_video(self, clip: Clip) -> bool:
        """Whether a video in its place belongs to what was written of a clip."""
        record = self._record(clip)
        return record is not None and bool(record.get("video", True))

    def _read(self, clip: Clip) -> tuple[str | None, list[dict[str, Any]]]:
        """What a clip lacks, and its rows if it lacks nothing."""
        known = self._record(clip)
        if known is None:
            return "no results yet", []
        if not known:
            return "its file is damaged", []
        changed = sorted(differences(known["settings"], self._settings))
        if changed:
            return f"other settings: {', '.join(changed)}", []
        if known["input"] != clip.stamp():
            return "its input has changed", []
        if self.videos and not (known["video"] and self.video(clip).is_file()):
            return "no overlay video", []
        return None, known["frames"]
