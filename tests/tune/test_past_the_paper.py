"""The study of what the paper leaves open, against the page that explains it."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from pydantic import BaseModel

from colocam_dist.config import Config, setting_names
from tune.settings import load_study
from tune.space import Space

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "configs/tune/past_the_paper.yaml"


def flat(config: Config) -> dict[str, object]:
    """Values by dotted name."""
    found = {name: functools.reduce(getattr, name.split("."), config) for name in setting_names()}
    return {name: value for name, value in found.items() if not isinstance(value, BaseModel)}


def test_each_option_changes_its_own_settings_and_all_that_the_page_explains_are_tried(
    tiny_shards: Path,
) -> None:
    space = Space(load_study(STUDY, [f"data.shards={tiny_shards}"]))
    configs = {str(point["option"]): flat(space.config(point)) for point in space.points() if point["run.seed"] == 0}
    base = configs.pop("base")
    changed = {
        option: {name: value for name, value in config.items() if value != base[name]}
        for option, config in configs.items()
    }
    assert all(changed.values()), changed
    assert len({repr(sorted(one.items())) for one in changed.values()}) == len(changed)
    page = (ROOT / "docs/method.md").read_text().partition("## Past the paper")[2].partition("\n## ")[0]
    explained = set(re.findall(r"localizer\.[a-z_]+(?:\.[a-z_]+)*\.[a-z_]+(?=[ `=])", page)) & base.keys()
    tried = {name for one in changed.values() for name in one}
    assert tried <= explained | {"localizer.presence.relative", "localizer.presence.threshold"}
    assert explained - tried <= {"localizer.loss.frame_crf.scale"}, "what a scale grows to is that of the base"
