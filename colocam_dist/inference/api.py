"""A run's trained localizer as Python sees it: ``from colocam_dist import Localizer``.

Not to be confused with :class:`colocam_dist.models.localizer.Localizer`, the network. That one maps batches of squares
to logits and knows no classes by name; :class:`Localizer` here holds one together with all that makes boxes of it, and
is what ``launchers/predict.py`` and ``launchers/export.py`` use, too.

Shape suffixes: B frames of a batch, K classes, H and W the size of an input frame, S the side of the network's square.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from colocam_dist.config import load
from colocam_dist.config.machine import Engine
from colocam_dist.data.frames import eval_frame
from colocam_dist.distributed import resolve_device
from colocam_dist.errors import ConfigError, DataError, RunError
from colocam_dist.evaluation.boxes import box_at
from colocam_dist.inference.evaluate import run_classes
from colocam_dist.inference.load import load_localizer
from colocam_dist.inference.rows import FramePrediction
from colocam_dist.inference.sources import find_clips
from colocam_dist.models.localizer import Localizer as Network
from colocam_dist.runs.folder import RunFolder
from colocam_dist.runs.weights import weights_sha256

__all__ = ["FrameResult", "Localizer", "Probabilities"]

log = logging.getLogger(__name__)


class Probabilities(nn.Module):
    """A network with probabilities instead of logits at its end: what is exported, and what predictions are made of."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 RGB ``[B, 3, S, S]`` to foreground ``[B, S, S]`` and classes ``[B, K]``, float32 in [0, 1]."""
        output = self.network(images_BCHW)
        maps_BSS = output.map_logits_B2HW.float().softmax(1)[:, 1].clamp(0.0, 1.0)
        return maps_BSS, output.class_logits_BK.float().softmax(1)


class FrameResult(NamedTuple):
    """One frame: its pixels uint8 RGB ``[H, W, 3]``, its foreground map float32 ``[S, S]``, and what is predicted."""

    picture_HWC: NDArray[np.uint8]
    map_SS: NDArray[np.float32]
    prediction: FramePrediction


class Localizer:
    """A trained localizer at work: class, score, box and map of frames.

    Attributes:
        network: on `device`, in eval mode.
        classes: names in label order.
        size: S, side in pixels of the square that a frame is resized to.
        threshold: map threshold tau that the run's evaluation fixed on validation; None if it was not evaluated.
        batch: frames that go through the network at a time, unless a call says otherwise.
        device: where the network is.
        model: the settings of the run's network.
    """

    def __init__(
        self,
        network: Network,
        classes: Sequence[str],
        size: int,
        *,
        threshold: float | None,
        batch: int,
        model: dict[str, Any],
    ) -> None:
        self.network = network.eval()
        self.classes = tuple(classes)
        self.size = size
        self.threshold = threshold
        self.batch = batch
        self.device = next(network.parameters()).device
        self.model = model
        self._probabilities = Probabilities(self.network)

    @classmethod
    def load(cls, run: str | Path, *, device: str | torch.device = "auto") -> Localizer:
        """The best localizer of a run.

        Args:
            run: folder of a finished run. Of an unfinished one, the best localizer so far is taken, with a warning;
                it has no threshold before it was evaluated.
            device: "auto" (CUDA if there is any), "cpu", "cuda", or a torch device.

        Raises:
            RunError: no such run, no trained localizer in it, or damaged weights.
            ConfigError: an unknown device, or CUDA where there is none.
        """
        folder = RunFolder.open(Path(run))
        config = load(folder.config_path)
        classes = run_classes(folder)
        weights = folder.weights("localizer", "best-localization")
        finished = folder.file("done.json").is_file()
        if not weights.is_file():
            raise RunError(
                "the run has no trained localizer",
                where=folder.path,
                got=f"{'finished' if finished else 'unfinished'}, stages {', '.join(config.run.stages)}",
                wanted=weights.relative_to(folder.path),
                fix="train the stage localizer; run.on_exists=resume continues an unfinished run",
            )
        if not finished:
            log.warning("%s is unfinished; its best localizer so far is used", folder.path)
        where = _device(device)
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers are not ours to seed
            network = load_localizer(config, folder, len(classes)).to(where)
        validated = (folder.read_json("validation.json") or {}).get("localizer", {})
        return cls(
            network,
            classes,
            config.data.crop,
            threshold=validated.get("threshold"),
            batch=config.evaluation.batch,
            model=config.model.model_dump(mode="json"),
        )

    @cached_property
    def weights_sha256(self) -> str:
        """Digest of the network's weights; that of the run's weight file."""
        return weights_sha256(self.network)

    def predict(
        self,
        frames: NDArray[np.uint8] | Iterable[NDArray[np.uint8]] | str | Path,
        *,
        threshold: float | None = None,
        batch: int | None = None,
        maps: bool = False,
    ) -> list[FramePrediction]:
        """Class, score and box of every frame, in order.

        Args:
            frames: uint8 RGB pictures, as one array ``[N, H, W, 3]`` or any number of ``[H, W, 3]`` of any sizes; or
                the path of a video, a folder of pictures, or a folder tree of both. That an array is RGB cannot be
                checked: pictures of OpenCV are BGR, give ``picture[..., ::-1]`` of those.
            threshold: tau in (0, 1), relative to each map's maximum; None takes the run's own.
            batch: frames that go through the network at a time: a matter of memory, results differ by rounding at most.
            maps: also give the maps, at the size of each frame: 4 bytes a pixel for all frames together, so take
                :meth:`stream` for long videos.

        Raises:
            DataError: frames of another form, or a video or picture that cannot be read.
            RunError: no threshold, or one out of range.
            ConfigError: `batch` below 1.
        """
        options: dict[str, Any] = {"threshold": threshold, "batch": batch}
        if isinstance(frames, (str, Path)):
            clips = find_clips(Path(frames))
            streams = [self.stream(clip.frames(), clip=clip.name, **options) for clip in clips]
        else:
            streams = [self.stream(frames, **options)]
        return [_with_map(result) if maps else result.prediction for stream in streams for result in stream]

    def stream(
        self,
        frames: Iterable[NDArray[np.uint8]],
        *,
        clip: str = "",
        threshold: float | None = None,
        batch: int | None = None,
    ) -> Iterator[FrameResult]:
        """The same frame by frame, holding one batch of them at a time.

        Args:
            frames: uint8 RGB pictures ``[H, W, 3]``.
            clip: name that the predictions bear.
            threshold: see :meth:`predict`.
            batch: see :meth:`predict`.

        Raises:
            DataError, RunError, ConfigError: see :meth:`predict`.
        """
        batch = self.batch if batch is None else batch
        if batch < 1:
            raise ConfigError("number out of range", where="batch", got=batch, wanted="1 or more")
        if isinstance(frames, np.ndarray) and frames.ndim != 4:
            raise DataError(
                "an array of frames has four dimensions",
                got=f"{frames.dtype} {list(frames.shape)}",
                wanted="uint8 [N, H, W, 3]",
                fix="of a single picture give picture[None]" if frames.ndim == 3 else None,
            )
        return self._stream(frames, clip, self.tau(threshold), batch)

    def tau(self, threshold: float | None) -> float:
        """The threshold to use: the given one, else the run's own.

        Raises:
            RunError: there is none, or it is out of range.
        """
        tau = self.threshold if threshold is None else threshold
        if tau is None:
            raise RunError(
                "the run has not been evaluated, so its threshold is unknown",
                wanted="its threshold on validation, or a given one",
                fix="python launchers/evaluate.py --run RUN, or give a threshold (--threshold)",
            )
        if threshold is not None and not 0.0 < threshold < 1.0:
            raise RunError("threshold is out of range", where="threshold", got=threshold, wanted="a number in (0, 1)")
        return tau

    @torch.inference_mode()
    def _stream(self, frames: Iterable[NDArray[np.uint8]], clip: str, tau: float, batch: int) -> Iterator[FrameResult]:
        numbered = ((number, _picture(frame, number)) for number, frame in enumerate(frames))
        while chunk := list(islice(numbered, batch)):
            squares = [eval_frame(picture_HWC, self.size) for _, picture_HWC in chunk]
            maps_BSS, probabilities_BK = self._probabilities(torch.from_numpy(np.stack(squares)).to(self.device))
            scores_B, labels_B = probabilities_BK.max(1)
            results = zip(chunk, maps_BSS.cpu().numpy(), scores_B.tolist(), labels_B.tolist(), strict=True)
            for (number, picture_HWC), map_SS, score, label in results:
                scale = np.array(picture_HWC.shape[1::-1] * 2, np.float64) / self.size
                box = np.round(box_at(map_SS, tau) * scale, 2).tolist()
                prediction = FramePrediction(clip, number, self.classes[label], round(score, 4), *box)
                yield FrameResult(picture_HWC, map_SS, prediction)


def _with_map(result: FrameResult) -> FramePrediction:
    height, width = result.picture_HWC.shape[:2]
    map_HW = cv2.resize(result.map_SS, (width, height), interpolation=cv2.INTER_LINEAR)
    return replace(result.prediction, map_HW=np.clip(map_HW, 0.0, 1.0))


def _picture(frame: object, number: int) -> NDArray[np.uint8]:
    """The frame, contiguous, as OpenCV wants it.

    Raises:
        DataError: it is no uint8 RGB picture.
    """
    if isinstance(frame, np.ndarray):
        if frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3 and frame.size:
            return np.ascontiguousarray(frame)
        got = f"{frame.dtype} {list(frame.shape)}"
    else:
        got = type(frame).__name__
    raise DataError(
        "a frame is no uint8 RGB picture",
        where=f"frame {number}",
        got=got,
        wanted="a NumPy array uint8 [H, W, 3] with values 0 to 255",
        fix="of values in [0, 1] give (255 * frame).round().astype(np.uint8)" if "float" in got else None,
    )


def _device(device: str | torch.device) -> torch.device:
    if isinstance(device, torch.device):
        return device
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(
            "unknown device", where="device", got=device, wanted="auto, cpu, cuda, or a torch.device such as cuda:1"
        )
    return resolve_device(Engine.model_validate({"device": device}), 0)
