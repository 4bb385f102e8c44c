from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from colocam_dist.config import Config, load
from colocam_dist.data.opening import open_split, open_training, order_settings, remote_settings
from colocam_dist.errors import ConfigError, DataError


def config(*settings: str) -> Config:
    return load(None, list(settings))


def test_the_training_split_takes_in_what_is_mixed(tiny_shards: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tiny_shards, tmp_path / "other"))
    mix = f"data.mix=[{{shards: '{other}', split: val, weight: 3}}]"
    data = config(f"data.shards={tiny_shards}", mix, "data.weight=2", "data.balance=class").data
    train = open_training(data)
    assert (len(train.shots), train.shots.source.tolist()) == (27, [0] * 21 + [1] * 6)
    settings = order_settings(data)
    assert (settings.weights, settings.balance, settings.min_frames) == ((2.0, 3.0), "class", 1)
    assert len(open_split(data, "val").shots) == 6


def test_without_a_mix_there_are_no_weights(tiny_shards: Path) -> None:
    words = ["data.min_frames=3", "data.block_shards=2", "data.lanes=4", "data.drop_shots=5", "data.drop_seed=6"]
    data = config(f"data.shards={tiny_shards}", *words).data
    settings = order_settings(data)
    assert (settings.drop_shots, settings.drop_seed) == (5, 6)
    assert (settings.weights, settings.windows) == (None, None)
    assert (settings.min_frames, settings.block_shards, settings.lanes) == (3, 2, 4)
    assert len(open_training(data).shots) == 21


def test_settings_of_remote_data(tmp_path: Path) -> None:
    words = [f"data.remote.cache_folder={tmp_path}", "data.remote.cache_gb=1.5", "data.remote.tries=2"]
    data = config("data.shards=https://host/x", *words, "data.remote.options={a: 1}").data
    remote = remote_settings(data)
    assert (remote.cache, remote.cache_bytes, remote.retry.tries) == (tmp_path, 1_500_000_000, 2)
    assert remote.options == {"a": 1}
    with pytest.raises(ConfigError, match="not allowed"):
        open_split(config("data.shards=memory://x").data, "train")


def test_missing_shards_are_skipped_if_wanted(tiny_shards: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_shards, tmp_path / "copy"))
    (copy / "train-000001.tar").unlink()
    with pytest.raises(DataError, match="1 of 6 shards"):
        open_training(config(f"data.shards={copy}").data)
    assert len(open_training(config(f"data.shards={copy}", "data.missing=skip").data).shards) == 5


@pytest.mark.parametrize(("more", "warned"), [((), True), (("data.block_shards=2",), False)])
def test_a_cache_that_is_too_small_for_mixed_windows_is_warned_about(
    tiny_shards: Path, tmp_path: Path, more: tuple[str, ...], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    memory = pytest.importorskip("fsspec").filesystem("memory")
    for path in tiny_shards.iterdir():
        memory.pipe(f"/opening/{path.name}", path.read_bytes())
    try:
        words = ["data.shards=memory://opening", "data.remote.schemes=[memory]", "data.remote.cache_gb=1.0e-4"]
        open_training(config(*words, f"data.remote.cache_folder={tmp_path}", *more).data)
    finally:
        memory.rm("/opening", recursive=True)
    assert ("do not fit the cache of 0.0001 GB" in caplog.text) == warned
