"""Files of measurements that tables take figures from, beside studies.

- **Costs** (Table 4): one JSON object with ``sizes``, ``steps`` and ``inference``, lists of rows with ``encoder``,
  ``size`` and ``method`` (layercam or localizer). Rows of a ResNet-50 at 224 pixels count, and of those with a ``way``
  the plain one. They become the keys of :data:`COST_KEYS`.
- **CLIP-ES** (Tables 1 and 8): one JSON object a dataset with ``rows``, each with ``labels`` (GT, PR or AVG),
  ``configuration`` (initial, list or refined), ``corloc`` by threshold rule and ``results``, which are of the form that
  ``metrics.json`` has for a method; ``milliseconds`` by configuration; ``shards``, ``split``, ``size``, ``caveats``.
- **Times of the co-localization term** (Fig. 2d): the ``crf.csv`` of ``benchmarks/crf.py``.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from colocam_dist.errors import DataError
from tune.paper.figures import SIZE

__all__ = ["CLIP_ES_METHODS", "COST_KEYS", "read_clip_es", "read_costs", "read_crf"]

COST_KEYS = tuple(
    f"{method}_{key}"
    for method in ("layercam", "localizer")
    for key in ("step_ms", "frame_ms", "fps", "parameters", "learnable", "flops", "macs")
)
"""Of LayerCAM (the classifier of stage 1) and CoLo-CAM (classifier and decoder): milliseconds of one optimizer step of
32 frames, its losses included (median; ``ms_p50`` of ``steps``); milliseconds of one frame by itself, from pixels to
map (``ms_p50`` of ``inference`` with ``batch`` 1); frames a second in the best of the measured batches; numbers of
weights, all and those that the stage trains; floating-point operations, and multiply-accumulates, of one frame's
forward pass."""

_COST_FORM = "sizes, steps and inference with rows of resnet50 at 224 pixels, methods layercam and localizer"
_STEP_FRAMES = 32

CLIP_ES_METHODS = tuple(f"{labels}_{maps}" for labels in ("gt", "pr", "avg") for maps in ("initial", "list", "refined"))
"""By the class that is asked for (true; a classifier's answer; mean over all classes) and the maps: initial ones, those
with the list of background classes, and refined ones on top."""

_OF_ALL_DATA = "Published figures choose one threshold"  # how a sentence begins that is no caveat of the data
_CLIP_ES_FORM = "rows with labels (GT, PR, AVG), configuration (initial, list, refined), corloc and results"


def read_costs(path: Path) -> dict[str, float]:
    """The costs in a JSON file, as far as it has them.

    Raises:
        DataError: the file has another form, or none of the costs.
    """
    content = _json_object(path)
    found: dict[str, float] = {}
    try:
        for kind in ("sizes", "steps", "inference"):
            for row in content[kind]:
                if (row["encoder"], row["size"], row.get("way", "plain")) == ("resnet50", SIZE, "plain"):
                    _add_costs(found, kind, row)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            "no costs in the file", where=path, got=f"{type(error).__name__}: {error}", wanted=_COST_FORM
        ) from None
    if not found.keys() & set(COST_KEYS):
        raise DataError("no costs in the file", where=path, got=", ".join(found) or "no such rows", wanted=_COST_FORM)
    return found


def _add_costs(found: dict[str, float], kind: str, row: dict[str, Any]) -> None:
    method = row["method"]
    if kind == "sizes":
        found.update({f"{method}_{key}": float(row[key]) for key in ("parameters", "learnable", "flops", "macs")})
    elif kind == "steps" and row["batch"] == _STEP_FRAMES:
        found[f"{method}_step_ms"] = float(row["ms_p50"])
    elif kind == "inference":
        found[f"{method}_fps"] = max(float(row["fps"]), found.get(f"{method}_fps", 0.0))
        if row["batch"] == 1:
            found[f"{method}_frame_ms"] = float(row["ms_p50"])


def read_clip_es(path: Path) -> dict[str, Any]:
    """The scores of CLIP-ES on one dataset, in the form of a run's ``metrics.json``; methods: :data:`CLIP_ES_METHODS`.

    Raises:
        DataError: the file has another form, or no rows.
    """
    content = _json_object(path)
    try:
        methods = {}
        for row in content["rows"]:
            scores = {**row["results"][0], "corloc": row["corloc"]}
            if row["labels"] == "GT":
                scores["seconds_per_frame"] = content["milliseconds"][row["configuration"]] / 1000.0
            methods[f"{row['labels'].lower()}_{row['configuration']}"] = scores
        caveats = [text for text in content["caveats"] if not text.startswith(_OF_ALL_DATA)]
        found = {"methods": methods, "caveats": caveats, **{key: content[key] for key in ("shards", "split", "size")}}
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise DataError(
            "no scores of CLIP-ES in the file", where=path, got=f"{type(error).__name__}: {error}", wanted=_CLIP_ES_FORM
        ) from None
    if not set(methods) & set(CLIP_ES_METHODS):
        raise DataError(
            "no scores of CLIP-ES in the file", where=path, got=", ".join(methods) or "no rows", wanted=_CLIP_ES_FORM
        )
    return found


def read_crf(path: Path) -> dict[str, list[float]]:
    """Milliseconds of the forward pass of the color term by number of frames, one for each source of frames.

    Raises:
        DataError: it is no table of benchmarks/crf.py, or has no such row.
    """
    found: dict[str, list[float]] = {}
    try:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                if (row["term"], row["method"], row["size"]) == ("color", "ours auto", str(SIZE)):
                    found.setdefault(row["n"], []).append(float(row["forward_ms"]))
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            "cannot be read as crf.csv of benchmarks/crf.py", where=path, got=f"{type(error).__name__}: {error}"
        ) from None
    if not found:
        raise DataError(
            "no times in the file", where=path, wanted=f"rows of the color term by 'ours auto' at {SIZE} pixels"
        )
    return found


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError("cannot be read as JSON", where=path, got=str(error)) from None
    if not isinstance(content, dict):
        raise DataError("is no JSON object", where=path, got=type(content).__name__)
    return content
