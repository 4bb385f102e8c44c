"""The folder that a run leaves behind.

::

    runs/<name>/
      config.yaml          resolved settings; `--config` of this file repeats the run
      metrics.jsonl        one JSON object a line: training steps, validations, stage ends
      tensorboard/         the same as TensorBoard events
      classes.json         names of the classes, in the order of their numbers
      checkpoints/<stage>/ step-<n>/ whole training state (newest valid wins), best-*.pt plain weights
      validation.json      thresholds of validation by method, for evaluation on other splits and data
      restarts.jsonl       one JSON object a line: each time the supervisor started the ranks again
      profile/             <stage>.json.gz (for chrome://tracing or Perfetto) and <stage>.txt, with log.profile_steps
      receipt.json         shards and frames read, replaced, skipped, per stage and epoch
      metrics.json         final numbers for machines
      report.html          final report for people
      done.json            written last; a run without it has not succeeded (failed.json or preempted.json says why)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from colocam_dist.config import Config, dump, load
from colocam_dist.errors import RunError
from colocam_dist.files import write_atomically

__all__ = ["RunFolder", "differences", "what_is_computed"]


_FRAMES_AT_ONCE = ("cams.batch ", "evaluation.batch ")  # lowered where memory is too little; no figure depends on them


class RunFolder:
    """Paths and small files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, config: Config) -> RunFolder:
        """Make (or, with ``run.on_exists=resume``, take over) the run's folder and save the settings in it.

        A folder that a start has left that was refused before it did anything is taken over, with any settings.

        Raises:
            RunError: the folder exists, or cannot be written, or belongs to a run with other settings.
        """
        folder = cls.free(config)
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            write_atomically(folder.config_path, dump(config))
            for ending in ("failed.json", "preempted.json"):
                folder.file(ending).unlink(missing_ok=True)
        except OSError as error:
            raise RunError(
                "run folder cannot be written",
                where=folder.path,
                got=error.strerror,
                fix="set run.folder to a folder you may write to",
            ) from None
        return folder

    @classmethod
    def free(cls, config: Config) -> RunFolder:
        """The folder that :meth:`create` would make or take over; nothing is written.

        Raises:
            RunError: the folder exists, or belongs to a run with other settings.
        """
        folder = cls(config.run.folder / config.run.name)
        if folder.config_path.exists() and not folder._was_refused():
            if config.run.on_exists == "error":
                raise RunError(
                    "a run of this name exists",
                    where=folder.path,
                    fix="choose another run.name, continue it with run.on_exists=resume, or remove the folder",
                )
            folder._check_same(config)
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run.

        Raises:
            RunError: there is no run at `path`.
        """
        folder = cls(path)
        if not folder.config_path.is_file():
            raise RunError(
                "not a run folder", where=path, wanted="a folder with config.yaml", fix="give a run's folder"
            )
        return folder

    @property
    def config_path(self) -> Path:
        """The resolved settings."""
        return self.path / "config.yaml"

    def weights(self, stage: str, criterion: str) -> Path:
        """Plain weights of the epoch of `stage` that was best by `criterion` (for example "best-localization")."""
        return self.checkpoints(stage) / f"{criterion}.pt"

    def file(self, name: str) -> Path:
        """Path of a file in the folder."""
        return self.path / name

    def checkpoints(self, stage: str) -> Path:
        """Folder of one stage's checkpoints."""
        return self.path / "checkpoints" / stage

    def write_json(self, name: str, content: Any) -> Path:
        """Write a JSON file atomically."""
        path = self.file(name)
        write_atomically(path, json.dumps(content, indent=1, sort_keys=True) + "\n")
        return path

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the run; None if it is not there."""
        path = self.file(name)
        return json.loads(path.read_text()) if path.is_file() else None

    def _was_refused(self) -> bool:
        """Whether the settings, and why they were refused, are all that there is."""
        names = {path.name for path in self.path.iterdir()}
        # A name with a dot in front is what a process left behind that died while it was writing.
        return {name for name in names if not name.startswith(".")} == {"config.yaml", "failed.json"}

    def _check_same(self, config: Config) -> None:
        """Resuming may change where and how exactly a run computes (its engine), never what from which data."""
        changed = differences(what_is_computed(load(self.config_path)), what_is_computed(config))
        changed = sorted(change for change in changed if not change.startswith(_FRAMES_AT_ONCE))
        if changed:
            raise RunError(
                "the run to resume has other settings",
                where=self.config_path,
                got=", ".join(changed),
                fix="resume with the same settings, or choose another run.name",
            )


def what_is_computed(config: Config) -> dict[str, Any]:
    """The settings that say what a run learns from which data, without those of where and how exactly it computes."""
    settings = config.model_dump(mode="json", exclude={"run", "engine", "log", "checkpoint", "slurm", "fault"})
    settings["run"] = {"seed": config.run.seed}
    settings["engine"] = {"gradient_clipping": config.engine.gradient_clipping}
    for how in ("workers", "remote"):  # not what is read
        settings["data"].pop(how)
    return settings


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Names of the settings that differ, each with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = old.keys() | new.keys()
        return [d for key in keys for d in differences(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))]
    return [] if old == new else [f"{name} ({old} -> {new})"]
