from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shards.files import remove_leftovers, replaced


def test_the_name_appears_only_with_the_content(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with replaced(path) as stream:
        stream.write(b"new")
        stream.flush()
        assert path.read_bytes() == b"old"
        (temporary,) = set(tmp_path.iterdir()) - {path}
        assert str(os.getpid()) in temporary.name
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def fail_halfway(path: Path) -> None:
    with replaced(path) as stream:
        stream.write(b"half")
        raise OSError("disk full")


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="disk full"):
        fail_halfway(tmp_path / "a.bin")
    assert not list(tmp_path.iterdir())


def test_leftovers_of_dead_processes_only(tmp_path: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    gone = tmp_path / f".{int(dead.stdout)}.tmp.train-000000.tar"
    mine = tmp_path / f".{os.getpid()}.tmp.train-000001.tar"
    foreign = tmp_path / ".notes.tmp.txt"
    for path in (gone, mine, foreign):
        path.touch()
    remove_leftovers(tmp_path)
    assert set(tmp_path.iterdir()) == {mine, foreign}
