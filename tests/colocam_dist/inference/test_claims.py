"""Every clip has an owner and is looked at by all; claims end with their process."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from colocam_dist.inference.claims import Claims, working_order


@pytest.mark.parametrize(("clips", "world"), [(1, 1), (7, 3), (2, 5), (12, 4)])
def test_each_clip_is_in_one_part_and_everybody_comes_by(clips: int, world: int) -> None:
    orders = [working_order(clips, rank, world) for rank in range(world)]
    assert sorted(clip for own, _ in orders for clip in own) == list(range(clips))
    for own, others in orders:
        assert sorted(own + others) == list(range(clips))
        assert others == sorted(others, reverse=True)
    sizes = [len(own) for own, _ in orders]
    assert max(sizes) - min(sizes) <= 1


HOLD = """
import sys
from pathlib import Path
from colocam_dist.inference.claims import Claims
claims = Claims(Path(sys.argv[1]))
print(claims.take(3), flush=True)
sys.stdin.read()
"""


def test_a_claim_is_of_one_process_and_ends_when_it_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "claims"
    words = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        with Claims(path) as claims:
            assert not claims.take(3)
            assert claims.take(2)
            assert claims.possible
            other.kill()
            other.wait()
            assert claims.take(3)
            claims.release(3)


def test_without_locks_every_claim_is_granted_and_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with Claims(tmp_path / "claims") as claims:
        assert claims.take(0)
        assert not claims.possible
        assert claims.take(0)
        claims.release(0)
    assert "No locks available" in caplog.text
