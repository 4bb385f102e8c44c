"""Predictions with smoothing or several boxes: on disk as from Python, for any ranks, anew when asked for anew."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from colocam_dist.distributed import Place
from colocam_dist.errors import ConfigError
from colocam_dist.inference import overlay
from colocam_dist.inference import predict as prediction
from colocam_dist.inference.api import Localizer
from colocam_dist.inference.clip_rows import BoxOptions
from colocam_dist.inference.predict import predict
from launchers import predict as launcher

pytestmark = pytest.mark.usefixtures("green_maps")
WAYS = {"maps": {"smoothing": "maps"}, "viterbi": {"smoothing": "viterbi"}, "all": {"boxes": "all"}}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory, write_video: Callable[..., Path]) -> Path:
    """Three videos of 4 to 6 frames."""
    folder = tmp_path_factory.mktemp("input")
    for number in range(3):
        write_video(folder / f"{number}.mp4", 4 + number, number)
    return folder


def files(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in [*output.glob("predictions.*"), *output.glob("clips/*.json")]}


def test_without_options_files_are_as_they_were_before_there_were_any(
    small_run: Path, clips: Path, tmp_path: Path
) -> None:
    predict(small_run, clips, tmp_path, device="cpu", overlays=False)
    columns = ["clip", "frame", "cls", "score", "x0", "y0", "x1", "y1"]
    rows = [row.to_row() for row in Localizer.load(small_run, device="cpu").predict(clips)]
    lines = [",".join(columns), *(",".join(str(row[name]) for name in columns) for row in rows)]
    assert (tmp_path / "predictions.csv").read_text() == "\n".join(lines) + "\n"
    facts = {"run": str(small_run), "threshold": 0.7, "classes": ["bird", "cat", "train"]}
    assert (tmp_path / "predictions.json").read_text() == json.dumps({**facts, "frames": rows}, indent=1)
    record = json.loads((tmp_path / "clips/0.json").read_text())
    assert list(record) == ["clip", "settings", "input", "video", "frames"]
    assert list(record["settings"]) == ["version", "ends", "weights", "model", "classes", "size", "threshold"]


@pytest.mark.parametrize("way", WAYS)
def test_command_python_and_ranks_give_the_same(
    way: str, small_run: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (name, value), *_ = WAYS[way].items()
    words = ["--run", small_run, "--input", clips, "--output", tmp_path / "out", "--device", "cpu", "--no-video"]
    words += [f"--{name}", value, "--threshold", "0.9"]
    monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, words)])
    assert launcher.main() == 0
    assert "15 frames of 3 clips" in capsys.readouterr().out
    rows = Localizer.load(small_run, device="cpu").predict(clips, threshold=0.9, **WAYS[way])  # type: ignore[arg-type]
    document = json.loads((tmp_path / "out/predictions.json").read_text())
    assert document["frames"] == [row.to_row() for row in rows]
    assert document[name] == value
    assert ("threshold_of" in document) == (way == "maps")
    with (tmp_path / "out/predictions.csv").open() as table:
        assert [row.get("instance") for row in csv.DictReader(table)] == [
            None if row.instance is None else str(row.instance) for row in rows
        ]
    monkeypatch.setattr(prediction, "working_order", lambda clips, rank, world: (list(range(rank, clips, world)), []))
    for rank in (2, 0, 1):
        options = BoxOptions(0.9, **WAYS[way])  # type: ignore[arg-type]
        place = Place(rank, 3, rank, 1)
        predict(small_run, clips, tmp_path / "ranks", options=options, device="cpu", overlays=False, place=place)
    assert files(tmp_path / "ranks") == files(tmp_path / "out")


def test_clips_are_made_anew_when_asked_for_in_another_way(
    small_run: Path, clips: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    run, output = tmp_path / "run", tmp_path / "out"
    shutil.copytree(small_run, run)

    def made(**given: str) -> int:
        options = BoxOptions(0.9, **given)  # type: ignore[arg-type]
        return predict(run, clips, output, options=options, device="cpu", overlays=False).clips

    assert made() == 3
    plain = files(output)
    assert made(smoothing="viterbi") == 3
    assert "smoothing (None -> viterbi)" in caplog.text
    assert made(smoothing="viterbi") == 0
    assert made(smoothing="maps") == 3
    assert made(boxes="all") == 3
    assert made(boxes="all") == 0
    config = (run / "config.yaml").read_text()
    assert "sigma: 2.0" in config
    (run / "config.yaml").write_text(config.replace("sigma: 2.0", "sigma: 4.0"))
    assert made(boxes="all") == 0, "sigma does not count here"
    assert made() == 3
    assert files(output) == {
        name: content.replace(str(small_run).encode(), str(run).encode()) for name, content in plain.items()
    }
    assert made(smoothing="maps") == 3
    (run / "config.yaml").write_text(config)
    caplog.clear()
    assert made(smoothing="maps") == 3
    assert "maps.sigma (4.0 -> 2.0)" in caplog.text


def test_overlays_show_all_boxes_of_a_frame(
    small_run: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, shown = overlay.draw_prediction, []

    def draw(picture: Any, map_SS: Any, boxes: Any, caption: str) -> Any:
        shown.append((boxes, caption))
        return real(picture, map_SS, boxes, caption)

    monkeypatch.setattr(overlay, "draw_prediction", draw)
    summary = predict(small_run, clips / "2.mp4", tmp_path, options=BoxOptions(0.9, boxes="all"), device="cpu")
    rows = json.loads((tmp_path / "predictions.json").read_text())["frames"]
    assert summary.frames == len(shown) == 6 < len(rows)
    for frame, (boxes, caption) in enumerate(shown):
        mine = [row for row in rows if row["frame"] == frame]
        assert [list(box) for box in boxes] == [[row[end] for end in ("x0", "y0", "x1", "y1")] for row in mine]
        assert caption == f"{mine[0]['cls']} {mine[0]['score']:.2f}"


def test_several_boxes_with_smoothing_are_refused(
    small_run: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--run", small_run, "--input", clips, "--output", clips / "x", "--boxes", "all", "--smoothing", "maps"]
    monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, words)])
    with pytest.raises(ConfigError, match="not followed over time"):
        launcher.main()
    assert not (clips / "x").exists()
