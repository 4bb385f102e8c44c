"""Training steps and inference of both methods, ready to be timed as a whole and by part. Used by cost.py.

W windows, N frames of a window, H W sides of a frame, h w sides of a CAM.
"""

from __future__ import annotations

import ctypes
import gc
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from crf import blob, pictures
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from colocam_dist.cams import build_cam_method
from colocam_dist.config import Config, load
from colocam_dist.data.batch import WindowBatch
from colocam_dist.distributed import Workers
from colocam_dist.inference.score import cam_maps, localizer_maps
from colocam_dist.losses import LocalizationLoss
from colocam_dist.models import Classifier, Localizer
from colocam_dist.models.encoders import build_encoder
from colocam_dist.progress import Position
from colocam_dist.training.acceleration import accelerate
from colocam_dist.training.classifier import ClassifierLoss
from colocam_dist.training.engine import build_engine
from colocam_dist.training.engine_state import EngineState
from colocam_dist.training.inputs import loss_settings
from colocam_dist.training.localizer import LocalizerLoss
from colocam_dist.training.optimizer_step import LossModule, StepRunner
from colocam_dist.training.schedule import build_sgd
from colocam_dist.training.signals import StopRequests

CLASSES = 10
WAYS = {
    "plain": (),
    "channels_last": ("engine.channels_last=true",),
    "bf16": ("engine.precision=bf16",),
    "bf16+channels_last": ("engine.precision=bf16", "engine.channels_last=true"),
    "compile": ("engine.compile=default",),
    "compile+bf16+channels_last": ("engine.compile=default", "engine.precision=bf16", "engine.channels_last=true"),
    "graphs+bf16+channels_last": ("engine.compile=reduce-overhead", "engine.precision=bf16",
                                  "engine.channels_last=true"),
    "fused": ("engine.fused_optimizer=true",),
    "no tf32": ("engine.tf32=false",),
    "cudnn_benchmark": ("engine.cudnn_benchmark=true",),
}  # fmt: skip
TRAINING_ONLY = ("fused",)


class Case(NamedTuple):
    """What is measured."""

    encoder: str
    size: int
    frames: int  # of a batch
    n: int  # of a window
    device: torch.device


def settings(case: Case, way: str) -> Config:
    """The published settings at this size."""
    given = [
        "data.shards=none",
        f"data.crop={case.size}",
        f"data.resize={case.size * 8 // 7}",
        f"data.n_frames={case.n}",
    ]
    given += [f"engine.device={case.device.type}", f"model.encoder={case.encoder}", "model.weights=none"]
    return load(None, [*given, *WAYS[way]])


def network(case: Case, method: str) -> Any:
    """The classifier of LayerCAM, or the localizer; random weights."""
    torch.manual_seed(0)
    classifier = Classifier(build_encoder(case.encoder), CLASSES)
    return Localizer(classifier) if method == "localizer" else classifier


def frames_of(case: Case, n: int) -> Tensor:
    """uint8 ``[n, 3, H, W]``: clouds that move, with noise."""
    return torch.cat([pictures(None, min(case.n, n - done), case.size) for done in range(0, n, case.n)])


def batch_of(case: Case, n: int) -> WindowBatch:
    """Windows of n frames that fill the batch, all of them valid, with a blob for a CAM."""
    windows = case.frames // n
    images_WNCHW = frames_of(case, windows * n).unflatten(0, (windows, n))
    side = -(-case.size // 8)
    cams_Bhw = functional.interpolate(blob(windows * n, case.size)[:, None], (side, side), mode="area")[:, 0]
    return WindowBatch(
        images_WNCHW,
        torch.ones(windows, n, dtype=torch.bool),
        torch.arange(windows) % CLASSES,
        torch.zeros(windows, n, 3, dtype=torch.int32),
        torch.arange(windows * n).view(windows, n),
        torch.arange(windows),
        torch.zeros(windows, dtype=torch.bool),
        cams_Bhw.half().unflatten(0, (windows, n)),
        replaced=0,
        skipped_shots=0,
    )


class Step:
    """An SGD step of stage 1 (method "layercam") or 2 ("localizer"), exactly as the trainer does it, without loading.

    Calling it does the step; :meth:`parts` does one and says where the time went. `before` is the memory in use before
    it was made.
    """

    def __init__(self, case: Case, method: str, way: str, workers: Workers) -> None:
        config = settings(case, way)
        self.engine, self._workers, self.method = config.engine, workers, method
        self.before = used_bytes(case.device)
        model = network(case, method).to(case.device)
        if method == "localizer":
            loss = LocalizationLoss(loss_settings(config))
            self.module: LossModule = LocalizerLoss(model, loss, config, workers)
            optimizer, fast = config.localizer.optimizer, []
        else:
            self.module = ClassifierLoss(model, workers)
            optimizer, fast = config.classifier.optimizer, [*model.encoder.fast_parameters(), *model.head.parameters()]
        self.module.to(case.device).train()
        learning = [p for p in model.parameters() if p.requires_grad]
        state = EngineState(self.module, model, zero_stage=0, workers=workers, synchronized=True)
        sgd = build_sgd(optimizer, learning, fast, fused=config.engine.fused_optimizer)
        self._batch = batch_of(case, case.n if method == "localizer" else 1)
        if case.device.type == "cuda":
            self._batch = self._batch.pin_memory()
        state.engine = build_engine(self.module, sgd, config.engine, workers, len(self._batch.labels_W))
        accelerate(self.module, config.engine)
        self._runner = StepRunner(state, self.module, config.engine, workers, StopRequests())

    def __call__(self) -> None:
        torch.backends.cudnn.allow_tf32 = self.engine.tf32
        torch.backends.cudnn.benchmark = self.engine.cudnn_benchmark
        self._runner.micro(self._batch, boundary=True)

    def operators(self) -> int | None:
        """How many operators a step calls, views aside: about as many kernels are launched; None where compiled."""
        if self.module.compiled is not None:
            return None
        with Calls() as calls:
            self()
        return calls.count

    def parts(self, clock: Callable[[], float]) -> dict[str, float]:
        """Seconds of each part; the device's queue is emptied between them, so that the sum is more than the step."""
        laps = Laps(clock)
        module, progress = self.module, self._workers.progress
        handles: list[Any] = []

        def network_(images_BCHW: Tensor, *more: Any) -> Any:
            laps("seeds, begin" if self.method == "localizer" else "batch to the device")
            output = type(module).network(module, images_BCHW, *more)
            laps("decoder" if self.method == "localizer" and module.compiled is None else "network, forward")
            logits = output if isinstance(output, Tensor) else output.map_logits_B2HW
            logits.register_hook(lambda _: laps("losses, backward"))
            return output

        module.network = network_  # type: ignore[method-assign]
        if self.method == "localizer":
            if module.compiled is None:
                handles.append(module.model.classifier.register_forward_hook(lambda *_: laps("encoder")))
            handles.append(module.loss.register_forward_pre_hook(lambda *_: laps("seeds, draw")))
            handles.append(module.loss.register_forward_hook(lambda *_: laps("softmax, means")))
            for name, term in module.loss.named_children():
                handles.append(term.register_forward_pre_hook(lambda *_: laps("softmax, means")))
                handles.append(term.register_forward_hook(lambda *_, name=name: laps(name)))

        def enter(position: Position) -> None:
            ended = {"exchange": "loss", "backward": "exchange", "optimizer": "network, backward"}
            if position.phase in ended:
                laps(ended[position.phase])

        progress.on_enter = enter  # type: ignore[assignment]
        try:
            laps.start()
            self()
            laps("optimizer")
        finally:
            progress.on_enter = lambda position: None
            del module.network
            for handle in handles:
                handle.remove()
        return laps.seconds


class Calls(TorchDispatchMode):
    """Counts operators."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


class Laps:
    """Time between calls, by name."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.seconds: dict[str, float] = {}

    def start(self) -> None:
        """Begin the first lap."""
        self._mark = now(self._clock)

    def __call__(self, name: str) -> None:
        """End a lap."""
        mark = now(self._clock)
        self.seconds[name] = self.seconds.get(name, 0.0) + mark - self._mark
        self._mark = mark


class Inference:
    """Maps and class logits of a batch of frames, from uint8 pixels on the device to maps on the device."""

    def __init__(self, case: Case, method: str, way: str, batch: int) -> None:
        config = settings(case, way)
        self.engine = config.engine
        model = network(case, method).to(case.device).eval()
        if config.engine.channels_last:
            model.to(memory_format=torch.channels_last)
        run: nn.Module = model
        if config.engine.compile != "none":
            mode = None if config.engine.compile == "default" else config.engine.compile
            # All ways and batches share the code of `forward`; above the limit, 8 by default, it would run uncompiled.
            torch._dynamo.config.recompile_limit = 64
            torch._dynamo.config.fail_on_recompile_limit_hit = True
            model.compile(dynamic=False, mode=mode)
        self._maps = localizer_maps(run) if method == "localizer" else cam_maps(run, build_cam_method("layercam"))
        self._images_BCHW = frames_of(case, batch).to(case.device)
        self._labels_B = torch.arange(batch, device=case.device) % CLASSES
        self._device, self.batch = case.device, batch

    def __call__(self) -> None:
        torch.backends.cudnn.allow_tf32 = self.engine.tf32
        torch.backends.cudnn.benchmark = self.engine.cudnn_benchmark
        low: AbstractContextManager[Any] = nullcontext()
        if self.engine.precision == "bf16":
            low = torch.autocast(self._device.type, torch.bfloat16)
        with torch.inference_mode(), low:
            self._maps(self._images_BCHW, self._labels_B)


def now(clock: Callable[[], float]) -> float:
    """The clock's seconds when the device has done all that it was given."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return clock()


def in_turns(work: dict[Any, Callable[[], None]], repeats: int, clock: Callable[[], float]) -> dict[Any, list[float]]:
    """Seconds of each call, one of each in every round, so that a machine's drift meets all alike."""
    spent: dict[Any, list[float]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, call in work.items():
            mark = now(clock)
            call()
            spent[name].append(now(clock) - mark)
    return spent


def used_bytes(device: torch.device) -> int:
    """Memory in use: allocated on a GPU, resident on a CPU (Linux; 0 elsewhere)."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated()
    _trim()
    return _of_process("VmRSS")


def peak_bytes(work: Callable[[], None], device: torch.device) -> int:
    """Peak of memory in use during a call."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated()
    _trim()
    work()
    return _of_process("VmHWM")


def _trim() -> None:
    """What was freed goes back to the system, and the peak begins anew."""
    gc.collect()
    if Path("/proc/self/clear_refs").exists():
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def _of_process(name: str) -> int:
    status = Path(f"/proc/{os.getpid()}/status")
    rows = status.read_text().splitlines() if status.exists() else []
    return next((1024 * int(row.split()[1]) for row in rows if row.startswith(name)), 0)


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
