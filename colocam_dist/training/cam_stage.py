"""Between the stages: one CAM per training frame, archived once for every run that can use it."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from colocam_dist.cams.archive import ArchiveWriter, CamArchive, CamIdentity, publish
from colocam_dist.config import Config
from colocam_dist.config.locations import scheme_of
from colocam_dist.data.frame_stream import FrameStream
from colocam_dist.data.index import ShotIndex
from colocam_dist.distributed import Workers
from colocam_dist.inference.load import cam_method
from colocam_dist.models.localizer import Classifier
from colocam_dist.runs.weights import weights_sha256

__all__ = ["ensure_archive"]

log = logging.getLogger(__name__)


def ensure_archive(classifier: Classifier, index: ShotIndex, config: Config, workers: Workers) -> CamArchive:
    """The archive of `index` for these weights, made now if it is not there yet (collective).

    Every frame is resized to data.crop squared and mapped for its shot's class, as in the public code. A damaged frame
    has a map of zeros; training, which never reads damaged frames, does not look at it.

    Raises:
        DataError: a frame or the archive cannot be read, or the archive's folder cannot be written.
        PreemptedError: on all ranks, because one of them was asked to stop; what was done so far is done again.
    """
    root = _root(index, config)
    method = cam_method(config, config.cams.method).identity
    identity = CamIdentity(method, weights_sha256(classifier), config.data.crop, index.fingerprint)
    folder = CamArchive.locate(root, index.split, identity)
    if workers.from_main((folder / "archive.json").is_file()):
        log.info("CAM archive %s is reused", folder)
    else:
        workers.progress.enter("cams", stage="", step=0)
        _write(classifier, index, identity, config, workers, folder)
        if workers.is_main:
            log.info("CAM archive %s: %d frames", folder, index.n_frames)
    return CamArchive.open(folder, CamArchive.key(identity))


def _root(index: ShotIndex, config: Config) -> Path:
    """Where archives lie: beside local shards, so that runs share them; beside the runs if the shards are remote."""
    if config.cams.folder is not None:
        return config.cams.folder
    return config.run.folder / "cams" if scheme_of(index.location) else Path(index.location) / "cams"


@torch.no_grad()
def _write(
    classifier: Classifier, index: ShotIndex, identity: CamIdentity, config: Config, workers: Workers, folder: Path
) -> None:
    classifier, method = classifier.to(workers.device).eval(), cam_method(config, config.cams.method)
    crop = config.data.crop
    probe = classifier.encoder(torch.zeros(1, 3, crop, crop, device=workers.device))[-1]
    stream = FrameStream(
        index,
        np.arange(index.n_frames),
        crop=crop,
        batch=config.cams.batch,
        rank=workers.rank,
        world=workers.world,
        workers=config.data.workers,
        damaged="pass",
    )
    # Runs that start together want the same archive; each builds its own, and the first one to finish gives its name.
    run = hashlib.sha256(str((config.run.folder / config.run.name).absolute()).encode()).hexdigest()[:12]
    built = folder.with_name(f".{folder.name}.{run}")
    writer = ArchiveWriter(built, (index.n_frames, *probe.shape[-2:]), workers.rank, workers.world)
    for batch in tqdm(stream, desc="cams", unit="batch", disable=None if workers.is_main else True):
        workers.progress.tick()
        if workers.progress.stop_reason() is not None:
            break
        output = method(classifier, batch.images_NCHW.to(workers.device), batch.labels_N.to(workers.device))
        writer.write(int(batch.frame_ids_N[0]), output.maps_Bhw * batch.valid_N.to(workers.device)[:, None, None])
    writer.close()
    workers.agree_to_go_on("archiving of CAMs")
    if workers.is_main:
        writer.finish(identity)
        publish(built, folder)
    workers.barrier()
