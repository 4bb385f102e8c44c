from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from colocam_dist.errors import ConfigError
from colocam_dist.progress import Position
from colocam_dist.training.faults import Fault, Faults, parse_faults

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLOCAM_FAULTS", "allowed")


def test_the_form() -> None:
    assert parse_faults("") == []
    assert parse_faults("kill@1:20:forward, nan@0:3:localizer.backward") == [
        Fault("kill", 1, 20, None, "forward"),
        Fault("nan", 0, 3, "localizer", "backward"),
    ]
    assert str(parse_faults("nan@0:3:localizer.backward")[0]) == "nan@0:3:localizer.backward"


@pytest.mark.parametrize("text", ["kill", "kill@1:2", "explode@0:1:data", "kill@-1:2:data", "kill@0:1:data:x"])
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"not a fault(.|\n)*wanted: kind@rank:step:phase"):
        parse_faults(text)


def test_real_runs_cannot_have_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLOCAM_FAULTS")
    assert parse_faults("") == []
    with pytest.raises(ConfigError, match="for tests only"):
        parse_faults("kill@0:1:data")


def test_a_fault_strikes_once_at_its_place_only(tmp_path: Path) -> None:
    given = parse_faults("nan@0:3:localizer.backward,nan@1:3:localizer.backward")
    faults = Faults(given, 0, tmp_path)
    for elsewhere in (
        Position("localizer", 1, "backward"),
        Position("localizer", 3, "backward"),
        Position("localizer", 2, "forward"),
        Position("classifier", 2, "backward"),
    ):
        assert faults.strike(elsewhere) is None
    here = Position("localizer", 2, "backward")
    assert faults.strike(here) == "nan"
    assert faults.strike(here) is None
    assert Faults(given, 0, tmp_path).strike(here) is None, "not after a restart either"
    assert Faults(given, 1, tmp_path).strike(here) == "nan", "the other rank's is another one"


def test_saving_belongs_to_the_step_before_it(tmp_path: Path) -> None:
    faults = Faults(parse_faults("full_disk@0:4:save.write"), 0, tmp_path)
    faults.strike(Position("classifier", 3, "save.write"))
    with pytest.raises(OSError, match="No space left"):
        faults.strike(Position("classifier", 4, "save.write"))


@pytest.mark.parametrize(
    ("kind", "error"), [("exception", RuntimeError), ("out_of_memory", torch.OutOfMemoryError), ("full_disk", OSError)]
)
def test_errors_are_raised(tmp_path: Path, kind: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="injected"):
        Faults(parse_faults(f"{kind}@0:1:data"), 0, tmp_path).strike(Position("classifier", 0, "data"))


@pytest.mark.parametrize(
    ("kind", "number"), [("kill", signal.SIGKILL), ("segfault", signal.SIGSEGV), ("corrupt", signal.SIGKILL)]
)
def test_ends_of_processes(tmp_path: Path, kind: str, number: signal.Signals) -> None:
    older, newest = (tmp_path / "checkpoints" / "classifier" / f"step-{step}" / "state.pt" for step in (1, 2))
    for path in (older, newest):
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(100))
    code = f"""
from pathlib import Path
from colocam_dist.progress import Position
from colocam_dist.training.faults import Faults, parse_faults
Faults(parse_faults("{kind}@0:1:data"), 0, Path({str(tmp_path)!r})).strike(Position("classifier", 0, "data"))
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == -number
    assert older.read_bytes() == bytes(100)
    assert (newest.read_bytes() != bytes(100)) == (kind == "corrupt")
