"""The losses of 20 steps of both stages of every recipe, to the last digit.

They should be the same on every x86-64 Linux machine. That was tried on one Intel Xeon with AVX-512 and AMX, Debian 12
(glibc 2.36), the CPU build of torch, by answering the process's CPUID instruction with what another processor says:
the digits of all recipes stayed the same as an AMD Zen 2 and as an Intel Haswell with smaller caches, those of the demo
also as processors without AVX, and with MKL_ENABLE_INSTRUCTIONS at SSE4_2 and AVX2. Without `CPU_INDEPENDENT` the three
differ from each other. Of its settings ATen's, MKL's and OpenCV's are needed for that; those of glibc, NumPy and
OpenBLAS changed nothing and are a precaution. Not tried: silicon of another vendor (whose approximate reciprocals may
differ, if anything uses them), another C library (it is not pinned), the CUDA build of torch.
"""

from __future__ import annotations

import copy
import json
import math
import re
from typing import Any

import pytest

from tests.golden.record import (
    PINNED,
    RECIPES,
    ROOT,
    STEPS,
    explain,
    first_difference,
    golden_file,
    record,
    record_all,
    versions,
)

pytestmark = pytest.mark.patient


def golden(recipe: str) -> dict[str, Any]:
    return json.loads(golden_file(recipe).read_text())


def skip_elsewhere(recipe: str) -> None:
    """Skip where versions or machine are not those of the recording: digits need not be the same there."""
    here, there = versions(), golden(recipe)["versions"]
    other = [f"{name} {here[name]} instead of {there[name]}" for name in there if here[name] != there[name]]
    if other:
        pytest.skip(f"{recipe} was recorded elsewhere: {', '.join(other)}")


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_has_twenty_finite_steps_of_both_stages(recipe: str) -> None:
    steps = golden(recipe)["steps"]
    for stage in ("classifier", "localizer"):
        assert [step["step"] for step in steps if step["stage"] == stage] == [*range(1, STEPS + 1)]
    digits = [value for step in steps for name, value in step.items() if name not in ("stage", "step")]
    assert all(math.isfinite(float.fromhex(value)) for value in digits)
    terms = {"loss", "partial_cross_entropy", "size_barrier", "frame_crf", "colocalization"}
    assert all(terms <= step.keys() for step in steps if step["stage"] == "localizer")


@pytest.mark.parametrize("recipe", RECIPES)
def test_recorded_with_the_versions_that_ci_installs(recipe: str) -> None:
    recorded, constraints = golden(recipe)["versions"], (ROOT / "constraints.txt").read_text()
    for name in PINNED:
        pins = re.findall(rf'^{name}==([^\s;]+)(?: ; python_version >= "3.11")?$', constraints, re.MULTILINE)
        assert pins == [recorded[name]], f"{name}: record anew, else the comparison is skipped everywhere"


def test_a_changed_last_digit_is_named_with_its_step_and_term() -> None:
    old = golden("demo")
    assert first_difference(old, copy.deepcopy(old)) is None
    new = copy.deepcopy(old)
    value = float.fromhex(new["steps"][22]["frame_crf"])
    new["steps"][22]["frame_crf"] = math.nextafter(value, 0.0).hex()
    new["steps"][23]["loss"] = "0x0.0p+0"
    said = first_difference(old, new)
    assert said is not None
    assert said.startswith("localizer, step 3, frame_crf: recorded ")
    assert value.hex() in said
    assert math.nextafter(value, 0.0).hex() in said
    assert "record.py --write demo" in explain("demo", old, said)


def test_a_missing_step_a_new_term_and_other_data_are_differences() -> None:
    old = golden("demo")
    assert first_difference(old, old | {"steps": old["steps"][:-1]}) == "40 steps recorded, 39 now"
    more = [{**step, "extra": "0x1.0p+0"} for step in old["steps"]]
    assert first_difference(old, old | {"steps": more}) == "classifier, step 1, extra: recorded None, now 0x1.0p+0 (1)"
    assert "the data are others" in str(first_difference(old, old | {"data_sha256": "0"}))


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_all_recipes_have_the_golden_losses() -> None:
    for recipe in RECIPES:
        skip_elsewhere(recipe)
    said = []
    for recipe, recording in zip(RECIPES, record_all(RECIPES), strict=True):
        difference = first_difference(golden(recipe), recording)
        if difference is not None:
            said.append(explain(recipe, golden(recipe), difference))
    assert not said, "\n" + "\n".join(said)


@pytest.mark.slow
def test_a_learning_rate_that_is_off_by_a_millionth_is_noticed() -> None:
    skip_elsewhere("demo")
    steps = [step for step in golden("demo")["steps"] if step["stage"] == "classifier"]
    found = record("demo", "run.stages=[classifier]", "classifier.optimizer.lr=0.002000002")["steps"]
    assert [step["loss"] for step in found[:1]] == [step["loss"] for step in steps[:1]], "before the first update"
    assert [step["loss"] for step in found[1:]] != [step["loss"] for step in steps[1:]]
