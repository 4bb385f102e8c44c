"""The training loop that both stages share."""

from __future__ import annotations

import logging
import time
from typing import Any, Protocol

import torch
from torch import nn

from colocam_dist.config import Config
from colocam_dist.config.schema import Optimizer
from colocam_dist.data.receipt import EpochReceipt
from colocam_dist.data.stream import WindowBatch, WindowStream
from colocam_dist.distributed import Workers
from colocam_dist.errors import PreemptedError, RunError
from colocam_dist.runs.folder import RunFolder
from colocam_dist.runs.weights import save_weights
from colocam_dist.training.checkpoint_store import CheckpointStore
from colocam_dist.training.cost import StageCost, state_bytes
from colocam_dist.training.engine import build_engine
from colocam_dist.training.metrics import MetricsLog, StepClock, peak_memory_gib
from colocam_dist.training.schedule import learning_rate, set_learning_rate
from colocam_dist.training.signals import StopRequests

__all__ = ["LossModule", "Stage", "Trainer"]

log = logging.getLogger(__name__)


class LossModule(nn.Module):
    """A model with its loss: what DeepSpeed wraps. `forward(batch)` returns the scalar loss and fills `terms`."""

    model: nn.Module
    epoch: int  # from 0; set by the trainer before each batch, like step
    step: int  # optimizer steps done in this stage
    terms: dict[str, torch.Tensor]  # detached scalars of the last batch


class Stage(Protocol):
    """What a training stage brings to the loop."""

    name: str
    epochs: int
    optimizer_settings: Optimizer
    module: LossModule
    optimizer: torch.optim.Optimizer
    stream: WindowStream
    windows: int  # per micro-batch on this rank
    criteria: dict[str, str]  # best-weights file stem -> validation value that is maximized

    def validate(self) -> dict[str, float]:
        """Score the validation split (collective; equal on all ranks)."""


class Trainer:
    """Runs a stage from wherever its newest checkpoint stands to the end."""

    def __init__(
        self,
        stage: Stage,
        config: Config,
        workers: Workers,
        folder: RunFolder,
        metrics: MetricsLog,
        stop: StopRequests,
    ) -> None:
        self.stage = stage
        self.config = config
        self.workers = workers
        self.metrics = metrics
        self.folder = folder
        self.store = CheckpointStore(
            folder.checkpoints(stage.name),
            workers,
            keep=config.checkpoint.keep,
            when_full=config.checkpoint.when_full,
            expected_bytes=state_bytes(stage.module),
        )
        self.engine = build_engine(stage.module, stage.optimizer, config.engine, workers, stage.windows)
        self.step = 0  # optimizer steps done
        self._stop = stop
        self._stopping = False  # agreed by all ranks
        self.best: dict[str, float] = {}

    def fit(self) -> dict[str, float]:
        """Train; returns the best value of each criterion. Every epoch adds its receipt to ``receipt.json``."""
        stage, evaluation = self.stage, self.config.evaluation
        restored = self._restore()
        cost = self._cost = StageCost(
            stage.name, stage.epochs, stage.stream.steps_per_epoch, self.step, self.workers.device
        )
        keep = self.config.checkpoint.keep
        bytes_each = state_bytes(stage.module)
        log.info("%s", cost.before(self.store.folder, bytes_each, None if keep == "all" else keep))
        if not restored:
            self._validate(epoch=0)  # the untrained model is a candidate, as in the public code
        for epoch in range(stage.stream.epoch, stage.epochs):
            self._train_epoch(epoch)
            self._hand_in_receipt()
            if (epoch + 1) % evaluation.validate_every == 0 or epoch + 1 == stage.epochs:
                self._validate(epoch + 1)
            self._save()
        spent = cost.after()
        log.info(
            "%s took %.1f s for %d steps with validation, and %.2f GiB of memory at most",
            stage.name,
            spent["seconds"],
            spent["steps"],
            spent["memory_gib"],
        )
        self.metrics.write(stage.name, "stage", stage.epochs, self.step, {**spent, **self.best})
        return self.best

    def _train_epoch(self, epoch: int) -> None:
        stage, every = self.stage, self.config.log.every_steps
        accumulation = self.config.engine.accumulation
        stage.module.train()
        steps = len(stage.stream) // accumulation
        done = stage.stream.steps_per_epoch - steps
        clock, count = StepClock(), 0
        sums: dict[str, float | torch.Tensor] = {}
        with self.metrics.progress(stage.name, stage.epochs, epoch, steps + done, done) as bar:
            for micro, batch in enumerate(stage.stream, start=1):
                clock.working()
                terms = self._micro_step(batch, epoch)
                sums = {name: sums.get(name, 0.0) + value for name, value in terms.items()}
                count += 1
                boundary = micro % accumulation == 0
                self.step += boundary
                if boundary and (foretold := self._cost.step()):
                    log.info("%s", foretold)
                clock.waiting(batch.mask_WN.numel())
                if boundary and (self.step % every == 0 or micro == steps * accumulation):
                    values = {name: float(value) / count for name, value in sums.items()}
                    sums, count = {}, 0
                    self._report(epoch, values, clock, bar)
                bar.update(boundary)
                if boundary and self._stopping:
                    self._leave(epoch)
                every_save = self.config.checkpoint.every_steps
                if boundary and every_save and self.step % every_save == 0 and micro < steps * accumulation:
                    self._save()

    def _micro_step(self, batch: WindowBatch, epoch: int) -> dict[str, torch.Tensor]:
        """Forward, backward and (at an accumulation boundary) the optimizer step; mean terms over ranks."""
        stage = self.stage
        rate = learning_rate(stage.optimizer_settings, epoch, self.step)
        set_learning_rate(stage.optimizer, rate)
        stage.module.epoch, stage.module.step = epoch, self.step
        loss = self.engine(batch.to(self.workers.device))
        named = {"loss": loss.detach(), **stage.module.terms}
        asked = torch.tensor(float(self._stop.reason is not None), device=loss.device)
        values = torch.stack([value.float().reshape(()) for value in (*named.values(), asked)])
        values = self.workers.sum(values) / self.workers.world
        self._stopping |= bool(values[-1] > 0)
        if not torch.isfinite(values[0]):
            listed = ", ".join(f"{name} {float(value):.4g}" for name, value in zip(named, values[:-1], strict=True))
            raise RunError(
                "the loss is not finite",
                where=f"stage {stage.name}, epoch {epoch + 1}, step {self.step + 1}",
                got=listed,
                fix="lower the learning rate or the weight of the term that grew; the last checkpoint is whole",
            )
        self.engine.backward(loss)
        self.engine.step()
        return dict(zip(named, values[:-1], strict=True))

    def _leave(self, epoch: int) -> None:
        """Save and end the run on all ranks, because at least one of them was asked to stop."""
        asked = self.workers.gather(self._stop.reason)
        reason = ", ".join(f"{why} on rank {rank}" for rank, why in enumerate(asked) if why is not None)
        written = self._save()
        if self._stop.reason is not None:
            log.info("the state was saved %.2f s after %s", time.monotonic() - self._stop.since, self._stop.reason)
        raise PreemptedError(
            "the run was asked to stop" + ("" if written else ", and its state could not be saved"),
            where=f"stage {self.stage.name}, epoch {epoch + 1}, step {self.step}",
            got=reason,
            fix="give the same command with run.on_exists=resume",
        )

    def _report(self, epoch: int, values: dict[str, float], clock: StepClock, bar: Any) -> None:
        stage = self.stage
        values["lr"] = learning_rate(stage.optimizer_settings, epoch, self.step - 1)
        values |= clock.read(self.workers.world)
        values["memory_gib"] = peak_memory_gib(self.workers.device)
        self.metrics.write(stage.name, "train", epoch + 1, self.step, values)
        bar.set_postfix({name: f"{value:.3g}" for name, value in values.items() if name != "lr"}, refresh=False)

    def _validate(self, epoch: int) -> None:
        stage = self.stage
        self.workers.average_buffers(stage.module)
        stage.module.eval()
        scores = stage.validate()
        self.metrics.write(stage.name, "validation", epoch, self.step, scores)
        for stem, name in stage.criteria.items():
            if stem not in self.best or scores[name] > self.best[stem]:
                self.best[stem] = scores[name]
                if self.workers.is_main:
                    facts = {"epoch": epoch, "step": self.step, "criterion": name, "score": scores[name]}
                    save_weights(self.folder.weights(stage.name, stem), stage.module.model, facts)
        if self.workers.is_main:
            listed = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
            log.info("%s epoch %d/%d: %s", stage.name, epoch, stage.epochs, listed)
        self.workers.barrier()

    def _save(self) -> bool:
        state = {
            "step": self.step,
            "best": self.best,
            "stream": {**self.stage.stream.state_dict(), "receipt": self._receipt()},
        }
        self.workers.average_buffers(self.stage.module)
        return self.store.save(self.engine, self.step, state)

    def _receipt(self) -> dict[str, Any]:
        """What all ranks together were given of the current epoch (collective)."""
        return EpochReceipt.merged(self.workers.gather(self.stage.stream.receipt)).as_dict()

    def _hand_in_receipt(self) -> None:
        receipt, promised = self._receipt(), self.stage.stream.windows_per_epoch
        if receipt["windows"] != promised:
            raise RunError(
                "the epoch's receipt does not add up",
                where=f"stage {self.stage.name}, epoch {receipt['epoch'] + 1}",
                got=f"{receipt['windows']} windows",
                wanted=f"{promised}",
                fix="this is an error of the program, not of the data: please report it",
            )
        if self.workers.is_main:
            book: dict[str, Any] = self.folder.read_json("receipt.json") or {}
            earlier = [other for other in book.get(self.stage.name, []) if other["epoch"] != receipt["epoch"]]
            self.folder.write_json("receipt.json", {**book, self.stage.name: [*earlier, receipt]})
            if receipt["frames_replaced"] or receipt["shots_skipped"]:
                log.warning(
                    "%s epoch %d: %d of %d frames were damaged and replaced, %d shots were skipped",
                    self.stage.name,
                    receipt["epoch"] + 1,
                    receipt["frames_replaced"],
                    receipt["frames_promised"],
                    receipt["shots_skipped"],
                )

    def _restore(self) -> bool:
        state = self.store.restore(self.engine)
        if state is None:
            return False
        self.step, self.best = state["step"], state["best"]
        self.stage.stream.load_state_dict(state["stream"])
        log.info("%s continues at step %d", self.stage.name, self.step)
        return True
