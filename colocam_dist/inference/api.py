"""A run's trained localizer as Python sees it: ``from colocam_dist import Localizer``.

Not to be confused with :class:`colocam_dist.models.localizer.Localizer`, the network. That one maps batches of squares
to logits and knows no classes by name; :class:`Localizer` here holds one together with all that makes boxes of it, and
is what ``launchers/predict.py`` and ``launchers/export.py`` use, too.

Shape suffixes: B frames of a batch, K classes, H and W the size of an input frame, S the side of the network's square.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from colocam_dist.config import load
from colocam_dist.config.evaluation import Evaluation
from colocam_dist.config.machine import Engine
from colocam_dist.data.frames import eval_frame
from colocam_dist.distributed import resolve_device
from colocam_dist.errors import ConfigError, DataError, RunError
from colocam_dist.inference.clip_rows import BoxOptions, BoxRule, SeenFrame, clip_rows
from colocam_dist.inference.evaluate import run_classes
from colocam_dist.inference.load import load_localizer
from colocam_dist.inference.past_paper import known_smoothed_threshold
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
        smoothed_threshold: that for maps smoothed as `evaluation` says; None if no evaluation has fixed it.
        evaluation: the run's settings of boxes.
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
        smoothed_threshold: float | None,
        evaluation: Evaluation,
        model: dict[str, Any],
    ) -> None:
        self.network = network.eval()
        self.classes = tuple(classes)
        self.size = size
        self.threshold = threshold
        self.smoothed_threshold = smoothed_threshold
        self.evaluation = evaluation
        self.batch = evaluation.batch
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
        if where.type == "cuda":
            torch.cuda.init()  # or a seed that the caller has given would not be applied before ours
        devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(devices=devices):  # the caller's random numbers are not ours to seed
            network = load_localizer(config, folder, len(classes)).to(where)
        validated = folder.read_json("validation.json") or {}
        return cls(
            network,
            classes,
            config.data.crop,
            threshold=validated.get("localizer", {}).get("threshold"),
            smoothed_threshold=known_smoothed_threshold(validated, "localizer", "localizer", config, config.evaluation),
            evaluation=config.evaluation,
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
        smoothing: str = "none",
        boxes: str = "largest",
    ) -> list[FramePrediction]:
        """Class, score and box of every frame, in order; several rows of a frame that has several boxes.

        No frames (an empty list, an iterator at its end) give an empty list.

        Args:
            frames: uint8 RGB pictures, as one array ``[N, H, W, 3]`` or any number of ``[H, W, 3]`` of any sizes; or
                the path of a video, a folder of pictures, or a folder tree of both. That an array is RGB cannot be
                checked: pictures of OpenCV are BGR, give ``picture[..., ::-1]`` of those.
            threshold: tau in (0, 1), relative to each map's maximum; None takes the run's own.
            batch: frames that go through the network at a time: a matter of memory, results differ by rounding at most.
            maps: also give the maps, at the size of each frame: 4 bytes a pixel for all frames together, so take
                :meth:`stream` for long videos. They are the network's, whatever `smoothing` is.
            smoothing: "none", "maps" or "viterbi"; arrays are then the consecutive frames of one clip. Its parameters
                are the run's own, in ``evaluation``.
            boxes: "largest" or "all", which has one row for each box, numbered by their `instance`.

        Raises:
            DataError: frames of another form, or a video or picture that cannot be read.
            RunError: no threshold, or one out of range.
            ConfigError: `batch` below 1, an unknown word, or several boxes with smoothing.
        """
        rule = self.rule(BoxOptions(threshold, smoothing, boxes))
        if isinstance(frames, (str, Path)):
            clips = find_clips(Path(frames))
            seen = [self.see(clip.frames(), clip=clip.name, batch=batch) for clip in clips]
        else:
            seen = [self.see(frames, batch=batch)]
        return [row for clip in seen for row in clip_rows(clip, rule, maps=maps)]

    def stream(
        self,
        frames: Iterable[NDArray[np.uint8]],
        *,
        clip: str = "",
        threshold: float | None = None,
        batch: int | None = None,
    ) -> Iterator[FrameResult]:
        """One box a frame as from :meth:`predict` without smoothing, holding one batch of frames at a time.

        Args:
            frames: uint8 RGB pictures ``[H, W, 3]``.
            clip: name that the predictions bear.
            threshold: see :meth:`predict`.
            batch: see :meth:`predict`.

        Raises:
            DataError, RunError, ConfigError: see :meth:`predict`.
        """
        rule = self.rule(BoxOptions(threshold))
        seen = self.see(frames, clip=clip, batch=batch)
        return (
            FrameResult(frame.picture_HWC, frame.map_SS, row) for frame in seen for row in clip_rows((frame,), rule)
        )

    def see(
        self, frames: Iterable[NDArray[np.uint8]], *, clip: str = "", batch: int | None = None
    ) -> Iterator[SeenFrame]:
        """What the network sees in each frame, holding one batch of them at a time; boxes are not made yet.

        Args:
            frames: see :meth:`stream`.
            clip: see there.
            batch: see there.

        Raises:
            DataError, ConfigError: see :meth:`predict`.
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
        return self._see(frames, clip, batch)

    def rule(self, options: BoxOptions) -> BoxRule:
        """How boxes are made: by what is asked for, and the run's own settings and thresholds.

        Where maps are to be smoothed and no evaluation has fixed a threshold for that, the one for single frames is
        taken, and a warning says so.

        Raises:
            RunError: there is no threshold, or it is out of range.
        """
        smoothing = options.smoothing
        settings = self.evaluation.model_copy(update={"smoothing": smoothing, "boxes": options.boxes})
        if options.threshold is not None:
            if not 0.0 < options.threshold < 1.0:
                wanted = "a number in (0, 1)"
                raise RunError("threshold is out of range", where="threshold", got=options.threshold, wanted=wanted)
            return BoxRule(options.threshold, "given", settings)
        if self.threshold is None:
            raise RunError(
                "the run has not been evaluated, so its threshold is unknown",
                wanted="its threshold on validation, or a given one",
                fix="python launchers/evaluate.py --run RUN, or give a threshold (--threshold)",
            )
        if smoothing != "maps":
            return BoxRule(self.threshold, "single frames", settings)
        if self.smoothed_threshold is not None:
            return BoxRule(self.smoothed_threshold, "smoothed maps", settings)
        log.warning(
            "no threshold is known for maps that are smoothed with evaluation.maps.sigma=%s, evaluation.cut=%s; that "
            "of single frames is taken, %s. python launchers/evaluate.py --run RUN evaluation.smoothing=maps fixes one",
            settings.maps.sigma,
            settings.cut,
            self.threshold,
        )
        return BoxRule(self.threshold, "single frames", settings)

    @torch.inference_mode()
    def _see(self, frames: Iterable[NDArray[np.uint8]], clip: str, batch: int) -> Iterator[SeenFrame]:
        numbered = ((number, _picture(frame, number)) for number, frame in enumerate(frames))
        while chunk := list(islice(numbered, batch)):
            squares = [eval_frame(picture_HWC, self.size) for _, picture_HWC in chunk]
            maps_BSS, probabilities_BK = self._probabilities(torch.from_numpy(np.stack(squares)).to(self.device))
            scores_B, labels_B = probabilities_BK.max(1)
            results = zip(chunk, squares, maps_BSS.cpu().numpy(), scores_B.tolist(), labels_B.tolist(), strict=True)
            for (number, picture_HWC), square_CHW, map_SS, score, label in results:
                row = FramePrediction(clip, number, self.classes[label], round(score, 4), 0.0, 0.0, 0.0, 0.0)
                yield SeenFrame(picture_HWC, square_CHW, map_SS, row)


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
