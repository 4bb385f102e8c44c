"""Table 8 as text, with the published figures beside ours and what must be said about both."""

from __future__ import annotations

from colocam_dist.clip_es.maps import CONFIGURATIONS
from colocam_dist.clip_es.table import LABELS, Table
from colocam_dist.config import Config
from colocam_dist.data.index import ShotIndex
from colocam_dist.data.index_files import read_manifest
from colocam_dist.data.opening import caveats_of
from colocam_dist.evaluation.corloc import RULES

__all__ = ["PUBLISHED", "PUBLISHED_MILLISECONDS", "format_table", "warnings_about"]

PUBLISHED = {
    ("GT", "initial"): (65.1, 60.2),
    ("GT", "list"): (76.6, 72.6),
    ("GT", "refined"): (88.2, 84.8),
    ("PR", "initial"): (56.7, 50.7),
    ("PR", "list"): (70.9, 64.9),
    ("PR", "refined"): (83.9, 78.9),
    ("AVG", "initial"): (22.0, 21.7),
    ("AVG", "list"): (51.9, 44.6),
    ("AVG", "refined"): (68.7, 63.7),
}
"""CorLoc on the test sets of YouTube-Objects v1.0 and v2.2 (paper, Table 8), percent."""
PUBLISHED_ACCURACY = (72.5, 68.5)  # of the classifiers behind PR (paper, section 4.4)
PUBLISHED_MILLISECONDS = 49.9  # per frame (paper, Table 1)
NAMES = {"initial": "initial CAM", "list": "+ background list", "refined": "+ refined CAM"}
REAL = ("youtube-objects-v1", "youtube-objects-v2.2")


def format_table(table: Table) -> str:
    """The nine rows, ours under each threshold rule, the published ones beside them, and accuracy and time below."""
    found = {(row.labels, row.configuration): row.corloc for row in table.rows}
    head = f"{'label':<6}{'configuration':<20}" + "".join(f"{rule:>12}" for rule in RULES)
    lines = [f"{head}  | published: YTOv1  YTOv2.2"]
    for key in ((labels, configuration) for labels in LABELS for configuration in CONFIGURATIONS):
        ours = "".join(f"{found[key][rule]:>12.1f}" if key in found else f"{'-':>12}" for rule in RULES)
        v1, v2 = PUBLISHED[key]
        lines.append(f"{key[0]:<6}{NAMES[key[1]]:<20}{ours}  | {v1:>16.1f}{v2:>9.1f}")
    if table.classification is None:
        lines.append("PR: not computed, because no run was given whose classifier predicts classes")
    else:
        v1, v2 = PUBLISHED_ACCURACY
        lines.append(f"PR: {table.classification:.1f} % of frames classified right (published: {v1}, {v2})")
    lines.append(f"CLIP's own nearest class prompt: {table.zero_shot:.1f} % of frames right")
    times = ", ".join(f"{NAMES[name]} {value:.1f}" for name, value in table.milliseconds.items())
    lines.append(f"ms per frame (network, map, box): {times} (published, on another machine: {PUBLISHED_MILLISECONDS})")
    return "\n".join(lines)


def warnings_about(index: ShotIndex, config: Config) -> list[str]:
    """Sentences without which the figures must not be read: caveats of the settings, and what the data are not.

    Args:
        index: the evaluated split.
        config: its ``data.caveats`` follow those of the shards.

    Raises:
        DataError: the manifest of the split cannot be read.
    """
    said = caveats_of(index.caveats, config.data)
    source = read_manifest(index.shards[0].storage, index.split)["source"]
    reasons = [] if source.get("kind") in REAL else [f"these are not YouTube-Objects but shards of {source['kind']}"]
    reasons += [] if index.split == "test" else [f"this is split {index.split}, not test"]
    lacking = {"parts of the raw data": len(source.get("left_out") or ()), "shards": len(index.skipped_shards)}
    reasons += [f"{count} {what} are missing" for what, count in lacking.items() if count]
    if reasons:
        said.append(f"Not comparable with the published figures: {'; '.join(reasons)}.")
    said.append("Published figures choose one threshold per class on the test set: compare them with per_class only.")
    return said
