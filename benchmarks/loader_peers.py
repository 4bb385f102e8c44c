"""What users commonly have in place of our stream: the same frames, as normalized float32 [N, 3, 224, 224]."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import webdataset as wds
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

__all__ = ["CROP", "RESIZE", "JpegWindows", "VideoWindows", "stock", "video_readers"]

RESIZE, CROP = 256, 224
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
Read = Callable[[str, list[int]], list[NDArray[np.uint8]]]


def transform(image: Image.Image) -> Tensor:
    """What a PIL user does with a frame: float32 [3, 224, 224]."""
    image = image.convert("RGB").resize((RESIZE, RESIZE), Image.Resampling.BILINEAR)
    top, left, flip = (int(value) for value in torch.randint(RESIZE - CROP + 1, (3,)))
    image = image.crop((left, top, left + CROP, top + CROP))
    if flip % 2:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return normalized(np.asarray(image))


def normalized(image: NDArray[np.uint8]) -> Tensor:
    """uint8 [224, 224, 3] to float32 [3, 224, 224]."""
    return (torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255 - MEAN) / STD


class JpegWindows(Dataset[Tensor]):
    """One JPEG file a frame, PIL."""

    def __init__(self, windows: list[list[Path]]) -> None:
        self.windows = windows

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, item: int) -> Tensor:
        frames = []
        for path in self.windows[item]:
            with Image.open(path) as image:
                frames.append(transform(image))
        return torch.stack(frames)


class VideoWindows(Dataset[Tensor]):
    """Windows straight from video files, resized and cropped by OpenCV; files stay open."""

    def __init__(self, windows: list[tuple[str, list[int]]], reader: str) -> None:
        self.windows = windows
        self.reader = reader
        self._read: Read | None = None

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, item: int) -> Tensor:
        if self._read is None:
            cv2.setNumThreads(0)
            self._read = video_readers()[self.reader]()
        frames = []
        for image in self._read(*self.windows[item]):
            top, left, flip = (int(value) for value in torch.randint(RESIZE - CROP + 1, (3,)))
            image = cv2.resize(image, (RESIZE, RESIZE))[top : top + CROP, left : left + CROP]
            frames.append(normalized(image[:, ::-1] if flip % 2 else image))
        return torch.stack(frames)


def video_readers() -> dict[str, Callable[[], Read]]:
    """Readers of random windows that work here, by name."""
    readers: dict[str, Callable[[], Read]] = {"OpenCV": _opencv}
    if find_spec("decord"):
        readers["decord"] = _decord
    if find_spec("torchcodec"):
        try:
            _torchcodec()
        except (ImportError, OSError, RuntimeError):  # its libraries want an FFmpeg that is not here
            return readers
        readers["torchcodec"] = _torchcodec
    return readers


def _opencv() -> Read:
    files: dict[str, cv2.VideoCapture] = {}

    def read(path: str, frames: list[int]) -> list[NDArray[np.uint8]]:
        if path not in files:
            files[path] = cv2.VideoCapture(path)
        files[path].set(cv2.CAP_PROP_POS_FRAMES, frames[0])
        images = []
        for _ in range(frames[-1] - frames[0] + 1):
            there, image = files[path].read()
            if not there:
                raise RuntimeError(f"frame {frames[0]} of {path} cannot be reached by seeking")
            images.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
        return [images[frame - frames[0]] for frame in frames]

    return read


def _decord() -> Read:
    import decord

    files: dict[str, Any] = {}

    def read(path: str, frames: list[int]) -> list[NDArray[np.uint8]]:
        if path not in files:
            files[path] = decord.VideoReader(path, num_threads=1)
        return list(files[path].get_batch(frames).asnumpy())

    return read


def _torchcodec() -> Read:
    from torchcodec.decoders import VideoDecoder

    files: dict[str, Any] = {}

    def read(path: str, frames: list[int]) -> list[NDArray[np.uint8]]:
        if path not in files:
            files[path] = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1)
        return list(files[path].get_frames_at(frames).data.numpy())

    return read


class _Wanted:
    """The wanted frames of a WebDataset sample, by (shot, number of the frame in its shot), as often as wanted."""

    def __init__(self, wanted: dict[tuple[str, int], int], decoded: bool) -> None:
        self.wanted = wanted
        self.decoded = decoded

    def __call__(self, samples: Iterable[dict[str, Any]]) -> Iterator[Tensor]:
        for sample in samples:
            shot = sample["__key__"].rsplit("__", 1)[0]
            for name, value in sample.items():
                for _ in range(self.wanted.get((shot, int(name[:-4])), 0) if name.endswith(".jpg") else 0):
                    yield transform(value if self.decoded else wds.autodecode.imagehandler("pil")("jpg", value))


def stock(
    urls: list[str], wanted: dict[tuple[str, int], int], decoded: bool, workers: int, batch: int
) -> DataLoader[Tensor]:
    """Stock WebDataset over whole shards; ``decoded``: every frame of a sample is, as ``.decode("pil")`` does."""
    data = wds.WebDataset(urls, shardshuffle=False, workersplitter=wds.split_by_worker, empty_check=False)
    if decoded:
        data = data.decode("pil")
    data = data.compose(_Wanted(wanted, decoded)).batched(batch, collation_fn=torch.stack)
    return DataLoader(data, batch_size=None, num_workers=workers, persistent_workers=workers > 0)
