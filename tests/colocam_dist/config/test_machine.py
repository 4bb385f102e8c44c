"""Settings of the machine that contradict each other."""

from __future__ import annotations

import pytest

from colocam_dist.config import load
from colocam_dist.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("compile=default", "zero_stage=3"), "engine.compile needs engine.zero_stage 0 to 2"),
        (("compile=reduce-overhead", "accumulation=2"), "needs engine.accumulation=1"),
        (("compile=max-autotune", "on_out_of_memory=halve"), "engine.on_out_of_memory=stop"),
        (("compile=fast",), "engine.compile"),
        (("precision=fp16", "zero_stage=1"), "engine.precision=fp16 needs engine.zero_stage=0"),
        (("precision=fp16", "fused_optimizer=true"), "needs engine.fused_optimizer=false"),
    ],
)
def test_what_cannot_work_together_is_said_before_the_run(settings: tuple[str, ...], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load(None, ["data.shards=x", *(f"engine.{setting}" for setting in settings)])


def test_other_combinations_are_fine() -> None:
    given = ["data.shards=x", "engine.compile=default", "engine.zero_stage=2", "engine.accumulation=2"]
    assert load(None, given).engine.compile == "default"
    assert load(None, ["data.shards=x"]).engine.compile == "none"
