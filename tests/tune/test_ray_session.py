"""What Ray is asked for is there."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import psutil
import pytest

from colocam_dist.errors import ClusterError
from tune.ray_session import _children, check_share


def cluster(monkeypatch: pytest.MonkeyPatch, *nodes: dict[str, float]) -> None:
    found = [{"Alive": True, "Resources": node} for node in nodes]
    found.append({"Alive": False, "Resources": {"CPU": 99.0, "GPU": 99.0}})
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(nodes=lambda: found))


def test_a_trial_that_fits_on_one_node_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(monkeypatch, {"CPU": 2.0}, {"CPU": 4.0, "GPU": 1.0})
    check_share({"CPU": 4.0, "GPU": 1.0})
    check_share({"CPU": 1.0, "GPU": 0.0})


def test_a_trial_that_fits_on_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(monkeypatch, {"CPU": 8.0}, {"CPU": 4.0, "GPU": 1.0})
    for share in ({"CPU": 8.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 2.0}):
        with pytest.raises(ClusterError, match="at most 8 CPU, 0 GPU or 4 CPU, 1 GPU"):
            check_share(share)


def test_children_that_end_while_they_are_listed_are_left_out() -> None:
    """A helper of Ray that ended between its listing and the reading of its name ended a study once."""

    def ended() -> str:
        raise psutil.NoSuchProcess(1)

    agent, other, gone = (SimpleNamespace(name=name) for name in (lambda: "ray::a", lambda: "log_monitor", ended))
    assert _children(SimpleNamespace(children=lambda: [gone, agent, other]), "ray::") == [agent]  # type: ignore[arg-type]
    assert _children(SimpleNamespace(children=ended), "ray::") == []  # type: ignore[arg-type]
