"""Tables of the report about what is past the paper."""

from __future__ import annotations

from collections.abc import Sequence

from colocam_dist.evaluation.consistency import JUMP, Consistency
from colocam_dist.inference.past_paper import Entry
from colocam_dist.report.page import Table

__all__ = ["past_paper_tables"]

Interval = tuple[float, float] | None

NOTHING = "\N{EN DASH}"

DESCRIPTIONS = {
    "maps": "maps averaged over neighboring frames",
    "viterbi": "cheapest path through candidate boxes",
    "all": "several boxes per frame",
}
GROUPS = {"all": "all frames", "several": "frames with several true boxes"}


def past_paper_tables(entries: Sequence[Entry]) -> list[Table]:
    """Tables of CorLoc by way, of steadiness and of several boxes, of which those without a row are left out."""
    tables = [_ways(entries), _steadiness(entries), _instances(entries)]
    return [table for table in tables if table.rows]


def _ways(entries: Sequence[Entry]) -> Table:
    with_ways = {entry.method for entry in entries if entry.gain is not None}
    rows = []
    for entry in entries:
        if entry.method not in with_ways or entry.result is None:
            continue
        result = entry.result
        oracles = [f"{result.corloc[rule]:.1f}" if entry.oracles else NOTHING for rule in ("pooled", "per_class")]
        gain = (
            ""
            if entry.gain is None
            else _with_interval(f"{entry.gain[0]:+.1f}".replace("-", "\N{MINUS SIGN}"), entry.gain[1])
        )
        value = _with_interval(f"{result.corloc['validation']:.1f}", result.intervals["validation"])
        what = DESCRIPTIONS.get(entry.way, "each frame alone, as published")
        rows.append([entry.name, what, value, gain, *oracles, f"{1000 * entry.seconds_per_frame:.1f}"])
    return Table(
        "Smoothing over time",
        "CorLoc, percent. The gain is over the same method frame by frame, at validation thresholds, with the 95 % "
        "interval of the difference over videos. A path's boxes belong to no threshold, so it has no oracle.",
        ["method", "what it is", "validation", "gain", "pooled", "per class", "ms per frame"],
        rows,
    )


def _steadiness(entries: Sequence[Entry]) -> Table:
    measured = [(entry.name, entry.steadiness) for entry in entries if isinstance(entry.steadiness, Consistency)]
    return Table(
        "Steadiness of boxes",
        f"Boxes of consecutive frames, percent: their mean IoU, the share of jumps (IoU below {JUMP}), and the mean "
        "distance of their IoU from that of the true boxes. Steady boxes need not be right ones.",
        ["method", "mean IoU", "jumps", "distance from true", "IoU of true boxes", "pairs"],
        [
            [
                name,
                *(
                    _figure(getattr(steady, figure), steady.intervals[figure])
                    for figure in ("iou", "jumps", "difference")
                ),
                _figure(steady.truth_iou, None),
                str(steady.pairs),
            ]
            for name, steady in measured
        ],
    )


def _instances(entries: Sequence[Entry]) -> Table:
    rows = []
    for group, title in GROUPS.items():
        for entry in entries:
            scores = entry.instances.get(group)
            if scores is not None:
                figures = [
                    _figure(getattr(scores, figure), scores.intervals[figure])
                    for figure in ("recall", "precision", "f1")
                ]
                rows.append([title, entry.name, *figures, str(scores.boxes), str(scores.truth)])
    return Table(
        "Several boxes per frame",
        "Each predicted box, the one with the highest score first, finds the free true box that it overlaps most, if "
        "the IoU is enough. CorLoc asks for one right box only and says nothing about this.",
        ["frames", "method", "recall", "precision", "F1", "boxes", "true boxes"],
        rows,
    )


def _figure(value: float | None, interval: Interval) -> str:
    return NOTHING if value is None else _with_interval(f"{value:.1f}", interval)


def _with_interval(text: str, interval: Interval) -> str:
    return text if interval is None else f"{text} [{interval[0]:.1f}, {interval[1]:.1f}]"
