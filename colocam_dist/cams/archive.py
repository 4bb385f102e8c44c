"""The CAM archive of one split: a low-resolution map per frame, made once by all ranks and read during training.

A folder ``<root>/<split>-<first 12 digits of the key>/`` holds

- ``cams.npy``: float16 ``[F, h, w]`` in [0, 1], row = global frame id of the split; read it memory-mapped;
- ``archive.json``: what the maps were made from. It is written last, so a folder without it is not an archive.

While ranks compute, each one has a file ``part-...`` of its own in the folder; :meth:`ArchiveWriter.finish` merges
them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from colocam_dist import __version__
from colocam_dist.errors import DataError, RunError

__all__ = ["ArchiveWriter", "CamArchive", "CamIdentity", "publish"]

FORMAT_VERSION = 1
CHUNK = 1 << 24  # bytes held in memory at once while files are copied or hashed
ROWS = np.dtype("<f2")
CREATE_AGAIN = "delete this folder and run the `cams` stage again"


@dataclass(frozen=True)
class CamIdentity:
    """Everything that the values of an archive depend on.

    Attributes:
        method: ``CamMethod.identity``: name of the method, such as ``layercam``, and its settings, if it has any.
        weights_sha256: hex digest of the classifier's weights.
        image_size: side in pixels of the square frame that the classifier saw.
        fingerprint: ``ShotIndex.fingerprint`` of the split.
    """

    method: str
    weights_sha256: str
    image_size: int
    fingerprint: str


@dataclass(frozen=True)
class CamArchive:
    """A complete, checked archive.

    Attributes:
        folder: where it lies.
        path: its ``cams.npy``, to be opened with ``numpy.load(path, mmap_mode="r")``.
        identity: what the maps were made from.
        shape: ``(F, h, w)``.
        sha256: hex digest of ``cams.npy``.
    """

    folder: Path
    path: Path
    identity: CamIdentity
    shape: tuple[int, int, int]
    sha256: str

    @staticmethod
    def key(identity: CamIdentity) -> str:
        """Hex sha256 that changes with every field of ``identity`` and with the format's version."""
        text = json.dumps({"version": FORMAT_VERSION, **dataclasses.asdict(identity)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @staticmethod
    def locate(root: Path, split: str, identity: CamIdentity) -> Path:
        """Folder of the archive of ``split`` under ``root`` (by default a folder beside the shards)."""
        return root / f"{split}-{CamArchive.key(identity)[:12]}"

    @classmethod
    def open(cls, folder: Path, expected_key: str) -> CamArchive:
        """Open a finished archive after checking that it is whole and is the wanted one.

        Sizes and headers are checked, contents are not (see :meth:`verify`).

        Args:
            folder: the archive's folder, see :meth:`locate`.
            expected_key: :meth:`key` of the identity that the caller wants.

        Raises:
            DataError: nothing there, unfinished, made from something else, or files that do not fit each other.
        """
        description, path = folder / "archive.json", folder / "cams.npy"
        try:
            facts = json.loads(description.read_text(encoding="utf-8"))
            identity = CamIdentity(**facts["identity"])
            frames, height, width = (int(side) for side in facts["shape"])
            key, digest = str(facts["key"]), str(facts["sha256"])
        except FileNotFoundError:
            raise DataError(
                "no finished CAM archive",
                where=folder,
                got="no archive.json",
                wanted="archive.json and cams.npy",
                fix="run the `cams` stage for this split",
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise DataError("unreadable CAM archive", where=description, got=repr(error), fix=CREATE_AGAIN) from None
        if key != expected_key or key != cls.key(identity):
            raise DataError(
                "CAM archive made from another classifier, method, image size or data set",
                where=description,
                got=f"key {key}, {identity}",
                wanted=f"key {expected_key}",
                fix="run the `cams` stage with the present settings",
            )
        _check_rows(path, (frames, height, width))
        return cls(folder, path, identity, (frames, height, width), digest)

    def verify(self) -> None:
        """Read ``cams.npy`` whole and compare its sha256 with the recorded one.

        Raises:
            DataError: the file has changed since it was written.
        """
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            for block in _blocks(file):
                digest.update(block)
        if digest.hexdigest() != self.sha256:
            raise DataError(
                "CAM archive is damaged",
                where=self.path,
                got=f"sha256 {digest.hexdigest()}",
                wanted=self.sha256,
                fix=CREATE_AGAIN,
            )


class ArchiveWriter:
    """One rank's part of an archive in the making.

    Every rank creates a writer, writes its contiguous slice of rows in order, and calls :meth:`close`. After a barrier
    rank 0 calls :meth:`finish`; after another barrier the archive can be opened by all.

    Args:
        folder: final folder of the archive, see :meth:`CamArchive.locate`; created when absent.
        shape: ``(F, h, w)`` of the whole archive.
        rank: this process, in ``[0, world)``.
        world: number of processes that write; one may have nothing to write.

    Raises:
        DataError: the folder cannot be written.
    """

    def __init__(self, folder: Path, shape: tuple[int, int, int], rank: int, world: int) -> None:
        self.folder, self.shape, self.rank, self.world = folder, shape, rank, world
        self._first: int | None = None
        self._rows = 0
        self._part = folder / f"part-{rank:05d}.tmp-{os.getpid()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # A run that died may have left a part of this rank, cut at other rows.
            for stale in folder.glob(f"part-{rank:05d}*"):
                stale.unlink()
            self._file = self._part.open("wb")
        except OSError as error:
            raise DataError(
                "cannot write the CAM archive",
                where=folder,
                got=error,
                fix="set `cams.folder` to a folder that this user may write",
            ) from error

    def write(self, first_row: int, cams: Tensor | np.ndarray) -> None:
        """Append maps; rows must follow each other without gaps.

        Args:
            first_row: global frame id of the first map.
            cams: float maps ``[k, h, w]`` in [0, 1], stored as float16.

        Raises:
            ValueError: wrong shape, a gap between calls, or rows outside the archive.
            DataError: a value that is not finite or not in [0, 1].
        """
        rows = np.asarray(cams.detach().to("cpu", torch.float32) if isinstance(cams, Tensor) else cams)
        if rows.ndim != 3 or rows.shape[1:] != self.shape[1:]:
            raise ValueError(
                f"ArchiveWriter.write: wanted maps [k, {self.shape[1]}, {self.shape[2]}], got {rows.shape}"
            )
        if self._first is None:
            self._first = first_row
        expected = self._first + self._rows
        if first_row != expected or first_row < 0 or first_row + len(rows) > self.shape[0]:
            raise ValueError(
                f"ArchiveWriter.write: rank {self.rank} gave rows {first_row}..{first_row + len(rows) - 1}, "
                f"wanted them to start at {expected} and end below {self.shape[0]}"
            )
        if not ((rows >= 0) & (rows <= 1)).all():  # also False for NaN
            raise DataError(
                "a CAM has values that are not finite or not in [0, 1]",
                where=f"frames {first_row}..{first_row + len(rows) - 1}",
                fix="check the classifier's weights: its training may have diverged",
            )
        self._file.write(rows.astype(ROWS).tobytes())
        self._rows += len(rows)

    def close(self) -> None:
        """Make this rank's part durable and give it the name that :meth:`finish` looks for. May be called twice."""
        if self._file.closed:
            return
        _flush(self._file)
        self._file.close()
        self._part.replace(self.folder / f"part-{self.rank:05d}-of-{self.world:05d}-{self._first or 0}-{self._rows}")

    def finish(self, identity: CamIdentity) -> CamArchive:
        """Merge the parts of all ranks into the archive. To be called by rank 0 alone, after every rank has closed.

        Raises:
            RunError: the parts do not cover every row exactly once.
            DataError: as :meth:`CamArchive.open`.
        """
        self.close()
        parts = self._parts_in_order()
        # While cams.npy and archive.json are exchanged there must be no description that fits neither.
        (self.folder / "archive.json").unlink(missing_ok=True)
        temporary, digest = self.folder / f"cams.npy.tmp-{os.getpid()}", hashlib.sha256()
        with temporary.open("wb+") as file:
            np.lib.format.write_array_header_1_0(file, _header(self.shape))
            file.seek(0)
            digest.update(file.read())
            for part in parts:
                with part.open("rb") as source:
                    for block in _blocks(source):
                        digest.update(block)
                        file.write(block)
            _flush(file)
        temporary.replace(self.folder / "cams.npy")
        key = CamArchive.key(identity)
        self._describe(
            {
                "version": FORMAT_VERSION,
                "key": key,
                "identity": dataclasses.asdict(identity),
                "shape": list(self.shape),
                "n_frames": self.shape[0],
                "dtype": "float16",
                "sha256": digest.hexdigest(),
                "created_by": f"colocam_dist {__version__}",
            }
        )
        for leftover in self.folder.glob("part-*"):
            leftover.unlink()
        return CamArchive.open(self.folder, key)

    def _parts_in_order(self) -> list[Path]:
        found = sorted(self.folder.glob(f"part-*-of-{self.world:05d}-*"))
        spans = sorted((int(first), int(rows), part) for part in found for first, rows in [part.name.split("-")[4:6]])
        spans = [span for span in spans if span[1]]
        ends = [0, *(first + rows for first, rows, _ in spans)]
        starts = [*(first for first, _, _ in spans), self.shape[0]]
        sizes_fit = all(part.stat().st_size == rows * _row_bytes(self.shape) for _, rows, part in spans)
        if len(found) != self.world or ends != starts or not sizes_fit:
            raise RunError(
                "the ranks' parts of the CAM archive do not cover every frame exactly once",
                where=self.folder,
                got=[part.name for part in found],
                wanted=f"{self.world} parts covering rows 0..{self.shape[0] - 1}",
                fix="run the `cams` stage again",
            )
        return [part for _, _, part in spans]

    def _describe(self, facts: dict[str, object]) -> None:
        temporary = self.folder / f"archive.json.tmp-{os.getpid()}"
        with temporary.open("wb") as file:
            file.write((json.dumps(facts, indent=2) + "\n").encode())
            _flush(file)
        temporary.replace(self.folder / "archive.json")
        directory = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def publish(built: Path, folder: Path) -> None:
    """Give a finished archive its final name, unless another run was first: then that one stays."""
    try:
        built.rename(folder)
    except OSError:
        if (folder / "archive.json").is_file():
            shutil.rmtree(built)
            return
        shutil.rmtree(folder)  # never finished
        built.rename(folder)


def _header(shape: tuple[int, int, int]) -> dict[str, object]:
    return {"descr": ROWS.str, "fortran_order": False, "shape": shape}


def _row_bytes(shape: tuple[int, int, int]) -> int:
    return shape[1] * shape[2] * ROWS.itemsize


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(CHUNK):
        yield block


def _check_rows(path: Path, shape: tuple[int, int, int]) -> None:
    """The header and the size of ``cams.npy`` fit ``shape``, else DataError."""
    try:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            stored, fortran, dtype = np.lib.format.read_array_header_1_0(file)
            size_wanted = file.tell() + shape[0] * _row_bytes(shape)
        size = path.stat().st_size
    except FileNotFoundError:
        raise DataError("CAM archive without its maps", where=path, got="no such file", fix=CREATE_AGAIN) from None
    except ValueError as error:
        raise DataError("unreadable CAM archive", where=path, got=error, fix=CREATE_AGAIN) from None
    if stored != shape or dtype != ROWS or fortran:
        raise DataError(
            "CAM archive of another shape than its description",
            where=path,
            got=f"{dtype} {stored}",
            wanted=f"{ROWS} {shape}",
            fix=CREATE_AGAIN,
        )
    if size != size_wanted:
        raise DataError(
            "CAM archive cut short or grown",
            where=path,
            got=f"{size} bytes",
            wanted=f"{size_wanted} bytes",
            fix=CREATE_AGAIN,
        )
