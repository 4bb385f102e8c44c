"""Files of measurements are read, and others refused with a word about what is wanted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from colocam_dist.errors import DataError
from tune.paper.files import read_clip_es, read_costs, read_crf

CRF = "frames,term,n,size,method,forward_ms\n"


CASE = {"encoder": "resnet50", "size": 224}
COSTS: dict[str, Any] = {
    "machine": {"where": "a GPU"},
    "sizes": [
        {**CASE, "method": "localizer", "parameters": 32, "learnable": 9, "flops": 55, "macs": 27},
        {**CASE, "encoder": "vgg16", "method": "localizer", "parameters": 1, "learnable": 1, "flops": 1, "macs": 1},
    ],
    "steps": [
        {**CASE, "method": "layercam", "way": "plain", "batch": 32, "ms_p50": 60.0},
        {**CASE, "method": "layercam", "way": "compiled", "batch": 32, "ms_p50": 1.0},
        {**CASE, "method": "localizer", "way": "plain", "batch": 8, "ms_p50": 1.0},
    ],
    "inference": [
        {**CASE, "method": "layercam", "way": "plain", "batch": 1, "ms_p50": 20.0, "fps": 50.0},
        {**CASE, "method": "layercam", "way": "plain", "batch": 32, "ms_p50": 5.0, "fps": 200.0},
        {**CASE, "size": 112, "method": "layercam", "way": "plain", "batch": 1, "ms_p50": 1.0, "fps": 999.0},
    ],
}


def test_costs(tmp_path: Path) -> None:
    path = tmp_path / "cost.json"
    path.write_text(json.dumps(COSTS))
    sizes = {"parameters": 32.0, "learnable": 9.0, "flops": 55.0, "macs": 27.0}
    assert read_costs(path) == {
        **{f"localizer_{key}": value for key, value in sizes.items()},
        "layercam_step_ms": 60.0,
        "layercam_frame_ms": 20.0,
        "layercam_fps": 200.0,
    }


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"sizes": [], "steps": [], "inference": []}', '{"sizes": [1]}', '{"sizes": [{}]}']
)
def test_what_is_no_file_of_costs(tmp_path: Path, content: str) -> None:
    path = tmp_path / "cost.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"cost\.json"):
        read_costs(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_costs(tmp_path / "absent.json")


def test_clip_es(tmp_path: Path, clip_es: Any) -> None:
    path = tmp_path / "clip_es.json"
    content = clip_es(GT_initial=65.0, AVG_list=50.0)
    path.write_text(json.dumps({**content, "caveats": [*content["caveats"], "painted"]}))
    found = read_clip_es(path)
    assert found["methods"].keys() == {"gt_initial", "avg_list"}
    assert found["methods"]["gt_initial"]["seconds_per_frame"] == 0.04
    assert (found["caveats"], found["size"], found["split"]) == (["painted"], 224, "test")


@pytest.mark.parametrize("change", [{"rows": []}, {"rows": [{"labels": "GT"}]}, {"rows": 3}, {"milliseconds": {}}])
def test_what_is_no_file_of_clip_es(tmp_path: Path, clip_es: Any, change: dict[str, Any]) -> None:
    path = tmp_path / "clip_es.json"
    path.write_text(json.dumps({**clip_es(GT_initial=65.0), **change}))
    with pytest.raises(DataError, match="no scores of CLIP-ES"):
        read_clip_es(path)


def test_times_of_the_color_term(tmp_path: Path) -> None:
    path = tmp_path / "crf.csv"
    rows = [
        *("a,color,64,224,ours auto,40.5", "b,color,64,224,ours auto,50.5", "a,color,4,224,ours auto,5"),
        *("a,color,64,112,ours auto,1", "a,frame,1,224,ours auto,1", "a,color,64,224,dense,1"),
    ]
    path.write_text(CRF + "\n".join(rows) + "\n")
    assert read_crf(path) == {"64": [40.5, 50.5], "4": [5.0]}


@pytest.mark.parametrize("content", ["", CRF, "a,b\n1,2\n", CRF + "a,color,64,224,ours auto,\n"])
def test_what_is_no_table_of_times(tmp_path: Path, content: str) -> None:
    path = tmp_path / "crf.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=r"crf\.csv"):
        read_crf(path)
