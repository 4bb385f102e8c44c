from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest

from colocam_dist.data.index import ShotIndex
from colocam_dist.data.shots import Shot


def test_shots_are_a_sequence(make_index: Callable[..., ShotIndex]) -> None:
    shots = make_index([2, 3, 4, 5]).shots
    assert len(shots) == 4
    assert shots[1] == Shot(1, "b/video é0/1", "b", 1, "video é0", 2, 3, 0)
    assert shots[-1] == shots[3] == list(shots)[3]
    assert shots[1:3] == [shots[1], shots[2]]
    assert list(pickle.loads(pickle.dumps(shots))) == list(shots)
    for absent in (4, -5):
        with pytest.raises(IndexError, match=f"no shot {absent} among 4"):
            shots[absent]
