from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from colocam_dist.errors import RunError
from colocam_dist.training.checkpoint_files import checkpoints_in, damage_of, read_seal, seal_folder


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """A checkpoint of three files in two folders."""
    folder = tmp_path / "step-00000007"
    (folder / "state" / "ranks").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in (("model.pt", 5000), ("ranks/0.pt", 3000), ("ranks/1.pt", 17)):
        (folder / "state" / name).write_bytes(rng.bytes(size))
    seal_folder(folder, 7)
    return folder


def test_what_is_sealed_is_sound(sealed: Path) -> None:
    assert damage_of(sealed) is None
    (found,) = checkpoints_in(sealed.parent)
    assert (found.folder, found.step, found.damage) == (sealed, 7, None)
    assert found.bytes > 8017
    assert sorted(read_seal(sealed)["files"]) == ["state/model.pt", "state/ranks/0.pt", "state/ranks/1.pt"]


def flipped(path: Path, rng: np.random.Generator) -> None:
    data = bytearray(path.read_bytes())
    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)


def cut(path: Path, rng: np.random.Generator) -> None:
    os.truncate(path, int(rng.integers(path.stat().st_size)))


def longer(path: Path, rng: np.random.Generator) -> None:
    with path.open("ab") as stream:
        stream.write(rng.bytes(int(rng.integers(1, 99))))


def deleted(path: Path, rng: np.random.Generator) -> None:
    path.unlink()


def exchanged(path: Path, rng: np.random.Generator) -> None:
    others = [other for other in path.parent.iterdir() if other.is_file() and other != path]
    path.write_bytes(others[0].read_bytes() if others else b"")


def added(path: Path, rng: np.random.Generator) -> None:
    path.with_name("of-another-run").write_bytes(b"x")


KINDS: list[Callable[[Path, np.random.Generator], None]] = [flipped, cut, longer, deleted, exchanged, added]


def test_two_hundred_random_corruptions_are_noticed(sealed: Path, tmp_path: Path) -> None:
    unnoticed = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        copy = tmp_path / "copies" / f"step-{seed:08d}"
        shutil.copytree(sealed, copy)
        files = sorted(path for path in copy.rglob("*") if path.is_file())
        path = files[int(rng.integers(len(files)))]
        kind = KINDS[seed % len(KINDS)]
        before = path.read_bytes()
        kind(path, rng)
        assert kind is added or not path.exists() or path.read_bytes() != before
        if damage_of(copy) is None:
            unnoticed.append(f"{seed}: {kind.__name__} of {path.name}")
    # White space in the seal means nothing.
    assert unnoticed == []


def test_without_reading_only_names_and_sizes_are_compared(sealed: Path) -> None:
    flipped(sealed / "state" / "model.pt", np.random.default_rng(0))
    assert damage_of(sealed, contents=False) is None
    assert damage_of(sealed) == "state/model.pt has changed"


def test_a_folder_without_a_seal_or_with_an_old_one(sealed: Path) -> None:
    seal = sealed / "complete.json"
    seal.write_text('{"step": 7, "files": {"a": 3}}')
    assert (damage_of(sealed) or "").startswith("complete.json: ")
    seal.unlink()
    assert damage_of(sealed) == "complete.json: No such file or directory"
    with pytest.raises(RunError, match="seal of a checkpoint"):
        read_seal(sealed)
