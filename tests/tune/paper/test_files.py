"""Files of measurements are read, and others refused with a word about what is wanted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from colocam_dist.errors import DataError
from tune.paper.files import read_clip_es, read_costs, read_crf

CRF = "frames,term,n,size,method,forward_ms\n"


def test_costs(tmp_path: Path) -> None:
    path = tmp_path / "cost.json"
    path.write_text(json.dumps({"layercam_gflops": 38.2, "colocam_parameters": 32541740, "device": "a GPU"}))
    assert read_costs(path) == {"layercam_gflops": 38.2, "colocam_parameters": 32541740.0}


@pytest.mark.parametrize("content", ["{", "[]", '{"gflops": 1.0}', '{"layercam_gflops": "many"}'])
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
