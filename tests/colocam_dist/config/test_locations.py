from __future__ import annotations

from pathlib import Path

import pytest

from colocam_dist.config import dump, load
from colocam_dist.config.locations import location_name, scheme_of
from colocam_dist.errors import ConfigError


@pytest.mark.parametrize(
    ("location", "scheme"),
    [
        ("data/mine", None),
        ("/data/mine", None),
        ("./a:b", None),
        ("", None),
        ("C:/data", None),
        ("https://host/data", "https"),
        ("S3://bucket/data", "s3"),
        ("pipe:cat x", "pipe"),
        ("a+b-c.d://x", "a+b-c.d"),
        ("1x://y", None),
    ],
)
def test_schemes(location: str, scheme: str | None) -> None:
    assert scheme_of(location) == scheme


def test_names() -> None:
    names = [location_name(place) for place in ("data/mine", "s3://bucket/data/", "x", "/", "https://host")]
    assert names == ["mine", "data", "x", "data", "host"]


def test_settings_keep_urls_and_make_equal_paths_equal(tmp_path: Path) -> None:
    assert load(None, ["data.shards=data//mine/"]).data.shards == "data/mine"
    config = load(None, ["data.shards=s3://bucket//data", "data.mix=[{shards: 'https://h/x', weight: 2}]"])
    assert config.data.shards == "s3://bucket//data"
    assert (config.data.mix[0].shards, config.data.mix[0].split) == ("https://h/x", "train")
    (tmp_path / "again.yaml").write_text(dump(config))
    assert load(tmp_path / "again.yaml") == config


def test_lanes_need_blocks() -> None:
    with pytest.raises(ConfigError, match=r"data.lanes \(4\) needs data.block_shards"):
        load(None, ["data.shards=x", "data.lanes=4"])
