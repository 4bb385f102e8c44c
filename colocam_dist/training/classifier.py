"""Stage 1: a frame classifier from video-level tags (paper 3; public code's schedule)."""

from __future__ import annotations

import torch
from torch.nn import functional

from colocam_dist.config import Config
from colocam_dist.config.stages import Optimizer
from colocam_dist.data.opening import Splits
from colocam_dist.data.stream import WindowBatch
from colocam_dist.distributed import Workers
from colocam_dist.inference.load import cam_method
from colocam_dist.inference.score import Scorer
from colocam_dist.models.batch_norm import synchronize_batch_norm
from colocam_dist.models.localizer import Classifier
from colocam_dist.training.batches import stage_batch
from colocam_dist.training.inputs import training_stream
from colocam_dist.training.optimizer_step import LossModule
from colocam_dist.training.schedule import build_sgd

__all__ = ["ClassifierStage"]


class ClassifierLoss(LossModule):
    """Mean cross-entropy over the valid frames of a micro-batch of all ranks.

    What a rank returns is its part times the number of ranks, so that the mean over ranks is the mean over frames.
    """

    def __init__(self, model: Classifier, workers: Workers) -> None:
        super().__init__()
        self.model: Classifier = model
        self.workers = workers
        self.epoch = self.step = 0
        self.terms: dict[str, torch.Tensor] = {}

    def predict(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Class logits ``[B, K]``."""
        return self.model(images_BCHW).logits_BK

    def forward(self, batch: WindowBatch) -> torch.Tensor:
        """Scalar fp32 loss; `terms` holds the training accuracy in percent (collective)."""
        logits_BK = self.network(batch.images_WNCHW.flatten(0, 1)).float()
        labels_B = batch.labels_W.repeat_interleave(batch.mask_WN.shape[1])
        valid_B = batch.mask_WN.flatten()
        each_B = functional.cross_entropy(logits_BK, labels_B, reduction="none")
        count = self.workers.sum(valid_B.sum()).clamp(min=1) / self.workers.world
        right = (logits_BK.detach().argmax(1) == labels_B) & valid_B
        self.terms = {"accuracy": 100.0 * right.sum() / count}
        return (each_B * valid_B).sum() / count


class ClassifierStage:
    """One epoch = every shot once, one random allowed frame of it; two criteria keep two sets of best weights."""

    name = "classifier"
    ema_decay = 0.0
    window_ranks = 1
    criteria = {"best-classification": "classification", "best-localization": "corloc"}  # noqa: RUF012 - read-only protocol attribute

    def __init__(self, model: Classifier, config: Config, splits: Splits, workers: Workers) -> None:
        settings = config.classifier
        self.epochs = settings.epochs
        self.optimizer_settings: Optimizer = settings.optimizer
        windows, self.windows = stage_batch(config, "classifier", workers.world)
        self.stream = training_stream(splits.train, config, workers, n_frames=1, global_batch=windows)
        if config.engine.sync_batchnorm and workers.world > 1:
            synchronize_batch_norm(model)
        if not settings.train_encoder:
            model.train_only_head()
        self.module: LossModule = ClassifierLoss(model, workers)
        fast = [*model.encoder.fast_parameters(), *model.head.parameters()]
        slow, fast = ([p for p in group if p.requires_grad] for group in (model.parameters(), fast))
        self.optimizer = build_sgd(settings.optimizer, slow, fast, fused=config.engine.fused_optimizer)
        self._scorer = Scorer(splits.validation, config, workers)
        self._cam = cam_method(config, config.cams.method)

    def validate(self, model: Classifier) -> dict[str, float]:
        """CorLoc of the CAM that is configured for the seeds (best single threshold) and accuracy, in percent."""
        return self._scorer.summary(self._scorer.cam(model, self._cam))
