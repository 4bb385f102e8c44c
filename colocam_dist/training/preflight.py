"""What can be found wrong with a run before it starts: by its ranks, or by whoever submits it.

Nothing here imports torch, so that a command that only looks is up at once.
"""

from __future__ import annotations

from pathlib import Path

from colocam_dist.config import Config
from colocam_dist.data.index import check_boxes
from colocam_dist.data.opening import Splits, open_split
from colocam_dist.errors import WeightsError
from colocam_dist.runs.folder import RunFolder
from colocam_dist.training.batches import stage_batch, trained_stages

__all__ = ["check_run"]


def check_run(config: Config, world: int) -> None:
    """Batches, data, weights and the run whose classifier is taken.

    Raises:
        ConfigError, DataError, WeightsError, RunError: what is wrong.
    """
    for stage in trained_stages(config):
        stage_batch(config, stage, world)
    splits = Splits.open(config.data)
    if trained_stages(config):
        check_boxes(splits.validation)
    if "evaluate" in config.run.stages:
        check_boxes(open_split(config.data, config.data.split))
    weights = config.model.weights
    if weights not in ("imagenet", "none") and not Path(weights).expanduser().is_file():
        raise WeightsError(
            "there is no such file of weights",
            where="model.weights",
            got=weights,
            wanted="imagenet, none, or the path of a state_dict",
        )
    if config.classifier.from_run is not None:
        RunFolder.open(config.classifier.from_run)
