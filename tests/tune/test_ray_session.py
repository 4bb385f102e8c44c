"""What Ray is asked for is there."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from colocam_dist.errors import ClusterError
from tune.ray_session import check_share


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
