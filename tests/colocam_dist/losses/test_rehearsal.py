from __future__ import annotations

import pytest
import torch

from colocam_dist.config import load
from colocam_dist.errors import RunError
from colocam_dist.losses.rehearsal import rehearse
from colocam_dist.training.inputs import loss_settings

CPU = torch.device("cpu")
BOTH = ["localizer.loss.frame_crf.weight=1e-9", "localizer.loss.colocalization={weight: 0.1, ramp_steps: 5}"]


def test_affinities_that_can_be_computed_pass() -> None:
    rehearse(loss_settings(load(None, ["data.shards=x", *BOTH])), CPU)


@pytest.mark.parametrize("term", ["frame_affinity", "color_affinity"])
def test_what_a_compiler_says_is_told_before_training(term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object, **more: object) -> None:
        raise RuntimeError("Failed to find C compiler.\nPlease specify")

    module = {"frame_affinity": "frame_crf", "color_affinity": "colocalization"}[term]
    monkeypatch.setattr(f"colocam_dist.losses.{module}.{term}", fail)
    with pytest.raises(RunError, match=r"RuntimeError: Failed to find C compiler\.\n") as caught:
        rehearse(loss_settings(load(None, ["data.shards=x", *BOTH])), CPU)
    assert "torch:histogram" in str(caught.value)


def test_terms_that_are_off_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("colocam_dist.losses.colocalization.color_affinity", None)
    off = "localizer.loss.colocalization.weight=0"
    rehearse(loss_settings(load(None, ["data.shards=x", BOTH[0], off])), CPU)


def test_the_backends_named_as_a_way_out_exist() -> None:
    ways = ["localizer.loss.frame_crf.backend=torch:grid", "localizer.loss.colocalization.backend=torch:histogram"]
    rehearse(loss_settings(load(None, ["data.shards=x", *BOTH, *ways])), CPU)
