from __future__ import annotations

import json
from pathlib import Path

import pytest

from colocam_dist.data.index import ShotIndex
from colocam_dist.errors import ConfigError
from shards.build import main


def frames_csv(frames: Path, output: Path, *more: str) -> int:
    return main(["--source", "frames-csv", "--input", str(frames), "--output", str(output), "--workers", "1", *more])


def test_frames_csv(tiny_frames: Path, tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert frames_csv(tiny_frames, tmp_path, "--frames-per-piece", "4", "--shard-mb", "0.04") == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: path.read_bytes() for path in tiny_shards.iterdir()
    }
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in lines] == ["train: 21 shots", "val: 6 shots", "test: 6 shots"]
    assert "99 frames, 0 boxes, 0.3 MB in 6 shards, " in lines[0]
    assert frames_csv(tiny_frames, tmp_path, "--frames-per-piece", "4", "--shard-mb", "0.04") == 0
    assert "6 of them kept from an earlier build" in capsys.readouterr().out


def test_one_split_with_smaller_frames(tiny_frames: Path, tmp_path: Path) -> None:
    frames_csv(tiny_frames, tmp_path, "--splits", "test", "--short-side", "32", "--quality", "80")
    assert not (tmp_path / "train.manifest.json").exists()
    index = ShotIndex.open(tmp_path, "test")
    assert set(index.frame_height.tolist()) | set(index.frame_width.tolist()) == {32, 41, 48}
    settings = json.loads((tmp_path / "test.manifest.json").read_text())["settings"]
    assert (settings["short_side"], settings["quality"]) == (32, 80)


def test_caveats_come_with_the_data_and_can_be_changed_without_writing_shards(
    tiny_frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert frames_csv(tiny_frames, tmp_path, "--caveat", "Drawn by hand.", "--caveat", "Few.") == 0
    assert {ShotIndex.open(tmp_path, split).caveats for split in ("train", "val", "test")} == {
        ("Drawn by hand.", "Few.")
    }
    capsys.readouterr()
    assert frames_csv(tiny_frames, tmp_path, "--caveat", "Painted.") == 0
    assert "1 of them kept from an earlier build" in capsys.readouterr().out
    assert ShotIndex.open(tmp_path, "train").caveats == ("Painted.",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "frames-csv"], "needs --input"),
        (["--source", "frames-csv", "--input", "/no/such/folder"], "does not exist"),
        (["--source", "frames-csv", "--input", ".", "--every", "2"], r"--every means nothing(?s:.*)--source videos"),
        (["--source", "synthetic", "--input", "."], r"--input means nothing(?s:.*)frames-csv or videos"),
        (["--source", "frames-csv", "--input", ".", "--splits", "train=1"], "no shares"),
        (["--source", "synthetic", "--classes", "9"], "2 to 8"),
        (["--source", "synthetic", "--size", "97x64"], "even"),
    ],
)
def test_options_that_do_not_fit_the_source(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        main([*arguments, "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--source", "films"],
        ["--splits", "train,val,train"],
        ["--splits", "train,dev"],
        ["--splits", "train=0.7,val=0.1"],
        ["--splits", "train=0.7,val"],
        ["--splits", "train=-1,val=2"],
        ["--frames-per-piece", "65"],
        ["--quality", "0"],
        ["--shard-mb", "0"],
        ["--workers", "none"],
        ["--size", "128"],
        ["--output-option", "anon"],
        ["--output-option", "=true"],
        ["--output-option", "a=[1"],
    ],
)
def test_options_that_no_source_takes(arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--source", "synthetic", "--output", str(tmp_path), *arguments])
    assert caught.value.code == 2
    assert f"argument {arguments[0]}" in capsys.readouterr().err
