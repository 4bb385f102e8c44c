"""A small picture and a filled page."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from colocam_dist.report.page import ClassRow, Example, MethodScores, ReportData, VideoRow

RULES = ("validation", "pooled", "per_class")


@pytest.fixture
def picture() -> NDArray[np.uint8]:
    """uint8 RGB [61, 83, 3], a gray ramp."""
    ramp = np.linspace(30, 220, 83, dtype=np.uint8)
    return np.repeat(np.broadcast_to(ramp, (61, 83))[..., None], 3, axis=2).copy()


@pytest.fixture
def data(picture: NDArray[np.uint8]) -> ReportData:
    jpeg = cv2.imencode(".jpg", picture)[1].tobytes()

    def scores(name: str, base: float) -> MethodScores:
        values = {rule: base + place for place, rule in enumerate(RULES)}
        intervals = {"validation": (base - 4.0, base + 4.0), "pooled": None, "per_class": None}
        return MethodScores(name, f"{name} maps", values, intervals, values, 71.5, 12, 0.0034)

    names = ("layercam", "localizer")
    return ReportData(
        title="<script>alert(1)</script>",
        subtitle="tiny, split test",
        facts=[("encoder", "a & b")],
        caveats=["Generated <b>clips</b>."],
        methods=[scores("layercam", 41.0), scores("localizer", 63.25)],
        classes=[ClassRow("<i>cat</i>", 12, {name: dict.fromkeys(RULES, 50.0) for name in names})],
        videos=[VideoRow("v1", "cat", 12, dict.fromkeys(names, 25.0))],
        curves={"classifier": jpeg},
        examples_best=[Example(jpeg, 'say "cheese"')],
        examples_worst=[],
        strips=[],
        config_yaml="run:\n  name: <x>\n",
        versions=[("torch", "1")],
    )
