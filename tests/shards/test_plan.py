from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from colocam_dist.errors import ConfigError
from shards.plan import main, wait_share
from shards.simulate import Cluster, Forecast


def epoch(frames_per_step: int, steps: int = 10) -> Forecast:
    empty = np.zeros(1, np.int64)
    return Forecast(steps, 1, frames_per_step, empty.astype(float), empty, empty, 0, 0, [])


def test_the_slowest_sets_the_pace() -> None:
    local = Cluster(1, 1, workers=2)
    assert wait_share(epoch(32), local, 0.001, 0.05, 0, None) == 0.0  # 16 ms of reading beside 50 ms of computing
    assert wait_share(epoch(32), local, 0.010, 0.05, 0, None) == pytest.approx(1 - 0.05 / 0.16)
    assert wait_share(epoch(32), Cluster(1, 1, workers=0), 0.001, 0.05, 0, None) == pytest.approx(1 - 0.05 / 0.082)
    # 10 steps of 0.05 s take 0.5 s; a line of 1 MB/s brings 1 MB in a second.
    assert wait_share(epoch(32), local, 0.001, 0.05, 10**6, 1e6) == pytest.approx(0.5)


def test_the_table(tiny_shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"--shards {tiny_shards} --ranks 3 --global-batch 6 --step-time 0.5 --cache-gb 1 --frame-ms 2 --resize 32"
    assert main(words.split()) == 0
    table = dict(re.split(r"  +", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert table["data"] == "21 shots of 99 frames"
    assert table["steps an epoch"] == "4 of 6 windows, 2 a rank"
    assert table["cluster"] == "3 ranks on 1 nodes, 2 workers a rank"
    assert table["a rank's loader gives"] == "1000 frames/s = 125.00 steps/s"
    assert table["predicted data wait"] == "0.0% of the time at 0.5 s a step"
    assert table["shards of a node"].startswith("6 of 6, ")


def test_a_frame_is_timed_if_nobody_says(tiny_shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"--shards {tiny_shards} --ranks 1 --global-batch 4 --resize 32".split()) == 0
    assert re.search(r"cost of a frame +0\.\d\d ms of one core, timed now", capsys.readouterr().out)


@pytest.mark.parametrize(
    "words",
    [
        "--ranks 0 --global-batch 4",
        "--ranks 1 --global-batch 4 --step-time nan",
        "--ranks 1",
        "--ranks 1 --global-batch 4 --workers -5",
    ],
)
def test_wrong_numbers(tiny_shards: Path, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--shards", str(tiny_shards), *words.split()])
    assert "error:" in capsys.readouterr().err


def test_lanes_need_blocks_as_in_training(tiny_shards: Path) -> None:
    words = ["--shards", str(tiny_shards), "--ranks", "1", "--global-batch", "6", "--frame-ms", "1", "--lanes"]
    with pytest.raises(ConfigError, match=r"lanes need blocks of shards\n  where: --lanes\n(.|\n)*--block-shards"):
        main([*words, "2"])
    with pytest.raises(
        ConfigError, match=r"lanes\n  where: --lanes\n  got: 6 .*4 lanes\n  wanted: a divisor of 6\n  fix"
    ):
        main([*words, "4", "--block-shards", "2"])
    assert main([*words, "2", "--block-shards", "2"]) == 0
