"""The cost table and the dry run of the GPU's checks run in small, and their exact figures are right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.patient

ROOT = Path(__file__).parents[2]


def ran(*command: str) -> str:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def check_rows(found: dict[str, list[dict[str, Any]]], ways: list[str]) -> None:
    assert {(row["method"], row["way"]) for row in found["steps"]} == {
        (method, way) for method in ("layercam", "localizer") for way in ways
    }
    for row in found["steps"]:
        assert 0 < row["ms_p20"] <= row["ms_p50"] <= row["ms_p80"]
        parts = set(row["parts_ms"])
        assert {"network, backward", "optimizer"} < parts
        terms = {"encoder", "decoder", "seeds, begin", "seeds, draw", "frame_crf", "colocalization", "size_barrier"}
        assert terms < parts if row["method"] == "localizer" else not terms & parts


@pytest.mark.slow
def test_a_small_case(tmp_path: Path) -> None:
    ways = ["plain", "bf16+channels_last"]
    given = ["--encoders", "resnet18", "--size", "33", "--batch", "8", "--frames", "4", "--ways", *ways]
    given += ["--repeats", "1", "--inference", "2", "--threads", "1", "--json", str(tmp_path / "cost.json")]
    shown = ran("benchmarks/cost.py", *given)
    found = json.loads((tmp_path / "cost.json").read_text())
    check_rows(found, ways)
    by_method = {row["method"]: row for row in found["sizes"]}
    assert by_method["layercam"]["learnable"] == by_method["layercam"]["parameters"]
    assert by_method["localizer"]["learnable"] < by_method["localizer"]["parameters"]
    assert by_method["layercam"]["macs"] < by_method["localizer"]["macs"]
    assert [row["batch"] for row in found["inference"]] == [2, 2, 2, 2]
    assert "[" not in shown.split("\n\n", 1)[1], "published figures stand beside the published case only"


@pytest.mark.slow
def test_the_dry_run_of_the_gpus_checks(tmp_path: Path) -> None:
    shown = ran("benchmarks/gpu_check.py", "--dry-run", "--output", str(tmp_path / "found.json"))
    found = json.loads((tmp_path / "found.json").read_text())
    check_rows(found["cost"], ["plain", "fused"])
    assert found["checks"] == {"costs": True}
    assert "goal 60 ms: MISSED" in shown
    assert "goal 3000: " in shown
    assert "all checks passed" in shown
