"""The training loop that both stages share."""

from __future__ import annotations

import logging
import time
from typing import Any, NoReturn, Protocol

import torch

from colocam_dist.config import Config
from colocam_dist.config.stages import Optimizer
from colocam_dist.data.receipt import EpochReceipt
from colocam_dist.data.stream import WindowStream
from colocam_dist.distributed import Workers
from colocam_dist.errors import PreemptedError, RunError
from colocam_dist.runs.folder import RunFolder
from colocam_dist.runs.weights import save_weights
from colocam_dist.training.acceleration import accelerate
from colocam_dist.training.checkpoint_store import CheckpointStore
from colocam_dist.training.cost import StageCost
from colocam_dist.training.engine import build_engine
from colocam_dist.training.engine_state import EngineState
from colocam_dist.training.metrics import MetricsLog, StepClock, peak_memory_gib
from colocam_dist.training.optimizer_step import LossModule, StepRunner
from colocam_dist.training.profiling import StepProfiler
from colocam_dist.training.schedule import learning_rate, set_learning_rate
from colocam_dist.training.signals import StopRequests
from colocam_dist.training.utilization import Utilization

__all__ = ["Stage", "Trainer"]

log = logging.getLogger(__name__)


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
    window_ranks: int  # that have the same windows, and share their frames
    ema_decay: float  # of the average of the weights that is validated; 0 = the weights themselves are

    def validate(self, model: Any) -> dict[str, float]:
        """Score a model like ``module.model`` on the validation split (collective; equal on all ranks)."""


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
        workers.progress.enter("start", stage=stage.name, step=0)
        stage.module.to(workers.device).train()
        self._use = Utilization(stage.name, stage.module.model, config.data.crop, workers.device, config.engine)
        self.state = EngineState(
            stage.module,
            stage.module.model,
            zero_stage=config.engine.zero_stage,
            workers=workers,
            synchronized=config.engine.sync_batchnorm,
            ema_decay=stage.ema_decay,
        )
        stage.module.average = self.state.average
        self.store = CheckpointStore(
            folder.checkpoints(stage.name),
            workers,
            keep=config.checkpoint.keep,
            keep_best=config.checkpoint.keep_best,
            when_full=config.checkpoint.when_full,
            expected_bytes=self.state.bytes,
        )
        self.state.engine = build_engine(stage.module, stage.optimizer, config.engine, workers, stage.windows)
        accelerate(stage.module, config.engine)
        self.runner = StepRunner(self.state, stage.module, config.engine, workers, stop)
        self.step = 0  # optimizer steps done
        self._stop = stop
        self.best: dict[str, float] = {}
        self._score: float | None = None  # of the last validation, by the first criterion
        self._due: int | None = 0  # the number of epochs after which a validation is still to be done

    def fit(self) -> dict[str, float]:
        """Train; returns the best value of each criterion. Every epoch adds its receipt to ``receipt.json``."""
        stage, evaluation = self.stage, self.config.evaluation
        self._restore()
        cost = self._cost = StageCost(
            stage.name, stage.epochs, stage.stream.steps_per_epoch, self.step, self.workers.device
        )
        checkpoint = self.config.checkpoint
        at_once = None if checkpoint.keep == "all" else checkpoint.keep + checkpoint.keep_best
        bytes_each = self.state.bytes
        must_fit = checkpoint.when_full == "stop"
        said = self.workers.on_main(lambda: cost.before(self.store.folder, bytes_each, at_once, must_fit=must_fit))
        log.info("%s", said)
        if self._due is not None:  # also of the untrained model, which is a candidate as in the public code
            self._validate()
            if self.step or self.config.engine.non_finite == "roll_back":
                self._save()
        steps_to_profile = self.config.log.profile_steps
        for epoch in range(stage.stream.epoch, stage.epochs):
            profiler = self._profiler(steps_to_profile)
            try:
                self._train_epoch(epoch, profiler)
            finally:
                profiler.close()
            steps_to_profile = 0
            self._hand_in_receipt()
            if (epoch + 1) % evaluation.validate_every == 0 or epoch + 1 == stage.epochs:
                self._due = epoch + 1
                self._validate()
            self._save()
        spent = cost.after()
        log.info(
            "%s took %.1f s for %d steps with validation, %.1f s of it for checkpoints, and %.2f GiB of memory at most",
            stage.name,
            spent["seconds"],
            spent["steps"],
            spent["saving_seconds"],
            spent["memory_gib"],
        )
        self.metrics.write(stage.name, "stage", stage.epochs, self.step, {**spent, **self.best})
        return self.best

    def _profiler(self, steps: int) -> StepProfiler:
        """Of the epoch that begins or goes on."""
        left = len(self.stage.stream) // self.config.engine.accumulation
        folder = self.folder.file("profile") if self.workers.is_main else None
        return StepProfiler(folder, self.stage.name, steps=steps, left=left, device=self.workers.device)

    def _train_epoch(self, epoch: int, profiler: StepProfiler) -> None:
        stage, every, progress = self.stage, self.config.log.every_steps, self.workers.progress
        accumulation, runner = self.config.engine.accumulation, self.runner
        stage.module.train()
        steps = len(stage.stream) // accumulation
        done = stage.stream.steps_per_epoch - steps
        clock, count = StepClock(), 0
        sums: dict[str, float | torch.Tensor] = {}
        progress.enter("data", step=self.step)
        with self.metrics.progress(stage.name, stage.epochs, epoch, steps + done, done) as bar:
            for micro, batch in enumerate(stage.stream, start=1):
                clock.working()
                boundary = micro % accumulation == 0
                set_learning_rate(stage.optimizer, learning_rate(stage.optimizer_settings, epoch, self.step))
                stage.module.epoch, stage.module.step = epoch, self.step
                terms, left_out = runner.micro(batch, boundary=boundary)
                sums = {name: sums.get(name, 0.0) + value for name, value in terms.items()}
                count += 1
                self.step += boundary
                if left_out and self.config.engine.non_finite == "roll_back":
                    self._roll_back()
                if boundary and (foretold := self._cost.step()):
                    log.info("%s", foretold)
                clock.waiting(batch.mask_WN.numel())
                last = micro == steps * accumulation
                if boundary and (self.step % every == 0 or last or left_out):
                    values = {name: float(value) / count for name, value in sums.items()}
                    sums, count = {}, 0
                    self._report(epoch, values, clock, bar)
                bar.update(boundary)
                if boundary and runner.stopping:
                    self._leave(epoch)
                every_save = self.config.checkpoint.every_steps
                if boundary and every_save and self.step % every_save == 0 and not last:
                    self._save()
                if boundary:
                    profiler.step()
                progress.enter("data", step=self.step)

    def _leave(self, epoch: int) -> NoReturn:
        """Save and end the run on all ranks, because at least one of them was asked to stop."""
        reason = self.workers.reasons_to_stop()
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
        values |= self._use.rates(values["frames_per_s"] / self.workers.world)
        if self.runner.skipped:
            values["left_out"] = self.runner.skipped
        values["memory_gib"] = peak_memory_gib(self.workers.device)
        self.metrics.write(stage.name, "train", epoch + 1, self.step, values)
        bar.set_postfix({name: f"{value:.3g}" for name, value in values.items() if name != "lr"}, refresh=False)

    def _validate(self) -> None:
        """Do the validation that is due; on a request to stop, save that it still is, and leave."""
        stage, epoch = self.stage, self._due
        assert epoch is not None
        self.workers.progress.enter("validate", step=self.step)
        model = self.state.evaluation_model().eval()
        try:
            scores = stage.validate(model)
        except PreemptedError:
            stage.module.train()
            self._leave(epoch)
        self.metrics.write(stage.name, "validation", epoch, self.step, scores)
        for stem, name in stage.criteria.items():
            if stem not in self.best or scores[name] > self.best[stem]:
                self.best[stem] = scores[name]
                if self.workers.is_main:
                    facts = {"epoch": epoch, "step": self.step, "criterion": name, "score": scores[name]}
                    save_weights(self.folder.weights(stage.name, stem), model, facts)
        if self.workers.is_main:
            listed = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
            log.info("%s epoch %d/%d: %s", stage.name, epoch, stage.epochs, listed)
            if epoch and scores.get("threshold") == 0.0:
                log.warning("the best threshold is 0, at which every box is the whole frame: nothing is localized")
        self._score = scores[next(iter(stage.criteria.values()))]
        self._due = None
        self.workers.barrier()

    def _save(self) -> bool:
        self.workers.progress.enter("save.gather", step=self.step)
        facts = {
            "step": self.step,
            "best": self.best,
            "score": self._score,
            "validation_due": self._due,
            "left_out": [self.runner.skipped, self.runner.in_a_row],
            "stream": {**self.stage.stream.state_dict(), "receipt": self._receipt()},
        }
        with self._cost.saving():
            return self.store.save(self.state.gather(), self.step, facts, self._score)

    def _roll_back(self) -> None:
        """Take weights and momentum of the newest checkpoint; the data go on behind the step that was left out."""
        saved = self.store.restore()
        if saved is None:
            raise RunError("there is no checkpoint to roll back to", where=self.store.folder)
        self.state.put_back(saved[0])
        if self.workers.is_main:
            log.warning("%s rolls back to the weights of step %d", self.stage.name, saved[1]["step"])

    def _receipt(self) -> dict[str, Any]:
        """What all ranks together were given of the current epoch (collective)."""
        receipts = self.workers.gather(self.stage.stream.receipt)
        return EpochReceipt.merged(receipts[:: self.stage.window_ranks]).as_dict()

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

    def _restore(self) -> None:
        saved = self.store.restore()
        if saved is None:
            return
        tensors, facts = saved
        self.state.put_back(tensors)
        self.step, self.best, self._score = facts["step"], facts["best"], facts["score"]
        self._due = facts["validation_due"]
        self.runner.skipped, self.runner.in_a_row = facts["left_out"]
        self.stage.stream.load_state_dict(facts["stream"])
        log.info("%s continues at step %d", self.stage.name, self.step)
