"""Stage 2: the CoLo-CAM decoder over the frozen classifier (paper 3, Eq. 1-5).

Shape suffixes: W windows (first) or width (last), N frames per window, B = W * N frames, C channels, 2 = background and
foreground, H height, h w height and width of an archived CAM.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional
from torch.profiler import record_function

from colocam_dist.cams.align import crop_cams
from colocam_dist.cams.maps import min_max
from colocam_dist.config import Config
from colocam_dist.config.stages import Optimizer
from colocam_dist.data.opening import Splits
from colocam_dist.data.stream import WindowBatch
from colocam_dist.distributed import Workers
from colocam_dist.errors import RunError
from colocam_dist.inference.score import Scorer
from colocam_dist.losses import Counts, LocalizationLoss, WindowGroup, frame_weights, tag_probability
from colocam_dist.models.batch_norm import synchronize_batch_norm
from colocam_dist.models.localizer import Localizer, LocalizerOutput
from colocam_dist.seeds import SeedDraw, pixel_noise
from colocam_dist.training.batches import ranks_per_window, stage_batch
from colocam_dist.training.inputs import loss_settings, presence_settings, seed_settings, training_stream
from colocam_dist.training.optimizer_step import LossModule
from colocam_dist.training.schedule import build_sgd

__all__ = ["LocalizerStage"]


class LocalizerLoss(LossModule):
    """Maps, seeds and the four loss terms of a micro-batch of windows; the means are over all ranks' windows.

    What a rank returns is its part times the number of ranks, so that the mean over ranks is the mean over windows.
    """

    def __init__(self, model: Localizer, loss: LocalizationLoss, config: Config, workers: Workers) -> None:
        super().__init__()
        self.model: Localizer = model
        self.loss = loss
        self.workers = workers
        self.seeds = seed_settings(config)
        refresh = config.localizer.seeds
        self.refresh_epoch, self.refresh_share = refresh.refresh_epoch, refresh.refresh_share
        self.presence = presence_settings(config)
        self.seed = config.run.seed
        self.resize, self.crop = config.data.resize, config.data.crop
        self.epoch = self.step = 0
        self.terms: dict[str, torch.Tensor] = {}

    def predict(self, images_BCHW: torch.Tensor, *more: torch.nn.Module | None) -> LocalizerOutput:
        """Maps of the decoder's own size, with those of a second decoder if there is one."""
        return self.model.own_maps(images_BCHW, *more)

    def forward(self, batch: WindowBatch) -> torch.Tensor:
        """Scalar fp32 loss; `terms` holds the loss terms and what else is reported (collective)."""
        if batch.cams_WNhw is None:
            raise RunError("stage 2 needs the CAM archive", fix="run the stage `cams` first")
        W, N = batch.mask_WN.shape
        images_BCHW = batch.images_WNCHW.flatten(0, 1)
        kind = images_BCHW.device.type
        refreshed = 0 < self.refresh_epoch <= self.epoch + 1
        teacher = self.average.model.decoder if refreshed and self.average is not None else None
        with torch.no_grad(), torch.autocast(kind, enabled=False), record_function("seeds: begin"):
            cams_BHW = crop_cams(
                batch.cams_WNhw.flatten(0, 1).float(), batch.crops_WN3.flatten(0, 1), resize=self.resize, crop=self.crop
            )
            stride = self.model.map_stride
            cams_BHW, pixels_BCHW = _shrink(cams_BHW[:, None], stride)[:, 0], _shrink(images_BCHW, stride)
            noise_BHW = pixel_noise(batch.frame_ids_WN.flatten(), cams_BHW.shape[1:], seed=self.seed, epoch=self.epoch)
            draw = None
            if not refreshed and self.presence.mode == "none":  # nothing of the network's is needed
                draw = SeedDraw(cams_BHW, self.seeds, noise_BHW, batch.mask_WN.flatten())
        with record_function("network"):
            output = self.network(images_BCHW, teacher)
        with torch.no_grad(), torch.autocast(kind, enabled=False), record_function("seeds: draw"):
            mask_WN, seen = self._present(output.class_logits_BK.unflatten(0, (W, N)), batch)
            if draw is None:
                if refreshed:
                    cams_BHW = torch.lerp(cams_BHW, _own_cams(output), self.refresh_share)
                draw = SeedDraw(cams_BHW, self.seeds, noise_BHW, mask_WN.flatten() > 0)
            seeds_WNHW = draw.labels().unflatten(0, (W, N))
        with record_function("losses"):
            total, terms = self.loss(
                output.map_logits_B2HW.unflatten(0, (W, N)),
                pixels_BCHW.unflatten(0, (W, N)),
                seeds_WNHW,
                mask_WN,
                self.epoch + 1,  # the loss terms count epochs from 1, as the public code does
                self.step,
                Counts.of(seeds_WNHW, mask_WN, self.workers.sum, self.workers.world, self.loss.group),
            )
        self.terms = terms | seen
        return total

    def _present(
        self, class_logits_WNK: torch.Tensor, batch: WindowBatch
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The mask or weights of frames for the loss, and what is reported of them (collective if presence matters)."""
        if self.presence.mode == "none":
            return batch.mask_WN, {}
        probability_WN = tag_probability(class_logits_WNK, batch.labels_W)
        group = self.loss.group
        largest = None if group is None else group.largest
        mask_WN = frame_weights(probability_WN, batch.mask_WN, self.presence, largest)
        count = self.workers.sum(batch.mask_WN.sum()).clamp(min=1) / self.workers.world
        return mask_WN, {
            "tag_probability": (probability_WN * batch.mask_WN).sum() / count,
            "frames_kept": (mask_WN > 0).sum() / count,
        }


def _own_cams(output: LocalizerOutput) -> torch.Tensor:
    """The localizer's foreground ``[B, H, W]`` as a CAM: stretched to [0, 1], all 0 where it is flat."""
    logits_B2HW = output.map_logits_B2HW if output.other_logits_B2HW is None else output.other_logits_B2HW
    return min_max(logits_B2HW.detach().float().softmax(1)[:, 1])


def window_group(workers: Workers, size: int) -> WindowGroup | None:
    """The ranks with which this one shares the frames of its windows (collective); None if it has them to itself."""
    return None if size == 1 else WindowGroup(workers.group(size), size)


def _shrink(pixels_BCHW: torch.Tensor, stride: int) -> torch.Tensor:
    """Means of squares of `stride` x `stride` pixels, in the type of the pixels (uint8 is rounded)."""
    if stride == 1:
        return pixels_BCHW
    means_BChw = functional.avg_pool2d(pixels_BCHW.float(), stride)
    return means_BChw if pixels_BCHW.is_floating_point() else means_BChw.round().to(pixels_BCHW.dtype)


class LocalizerStage:
    """One epoch = one window of n frames from every shot; best weights by validation CorLoc."""

    name = "localizer"
    criteria = {"best-localization": "corloc"}  # noqa: RUF012 - read-only protocol attribute

    def __init__(self, model: Localizer, config: Config, splits: Splits, cams: Path, workers: Workers) -> None:
        settings = config.localizer
        self.epochs = settings.epochs
        self.ema_decay = settings.ema.decay
        self.optimizer_settings: Optimizer = settings.optimizer
        windows, self.windows = stage_batch(config, "localizer", workers.world)
        self.window_ranks = ranks_per_window(config, self.name)
        self.stream = training_stream(
            splits.train,
            config,
            workers,
            n_frames=config.data.n_frames,
            global_batch=windows,
            cams=cams,
            parts=self.window_ranks,
        )
        if config.engine.sync_batchnorm and workers.world > 1:
            synchronize_batch_norm(model)
        loss = LocalizationLoss(loss_settings(config), window_group(workers, self.window_ranks))
        self.module: LossModule = LocalizerLoss(model, loss, config, workers)
        learning = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = build_sgd(settings.optimizer, learning, fused=config.engine.fused_optimizer)
        self._scorer = Scorer(splits.validation, config, workers)

    def validate(self, model: Localizer) -> dict[str, float]:
        """CorLoc of the foreground map (best single threshold) and classification accuracy, in percent."""
        return self._scorer.summary(self._scorer.localizer(model))
