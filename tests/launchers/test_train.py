"""The launchers as a user runs them: real processes, real shards, gloo on the CPU."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from colocam_dist.data.index import ShotIndex
from tests.launchers.small_runs import PYTHON, command, finished, rows, train

pytestmark = pytest.mark.patient


@pytest.mark.slow
def test_two_ranks_from_shards_to_report_and_prediction(tiny_shards: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(tiny_shards, shards)
    code, output = finished(train(shards, tmp_path, "two", ranks=2))
    run = tmp_path / "two"
    assert code == 0, output
    assert json.loads((run / "done.json").read_text())["world"] == 2
    metrics = json.loads((run / "metrics.json").read_text())
    assert {"validation", "pooled", "per_class"} == set(metrics["corloc"])
    assert set(metrics["methods"]) == {"layercam", "localizer"}
    assert metrics["frames"] > 0
    assert 0 < metrics["seconds_per_frame"] < 10
    assert metrics["top1"].keys() == metrics["corloc"].keys()
    receipt = json.loads((run / "receipt.json").read_text())
    for stage, windows in (("classifier", 24), ("localizer", 24)):  # 21 shots in steps of 4 windows
        assert [epoch["epoch"] for epoch in receipt[stage]] == [0, 1]
        for epoch in receipt[stage]:
            assert epoch["windows"] == windows, "of both ranks together"
            assert epoch["frames_promised"] == epoch["frames_read"]
            assert sum(shard["read"] for shard in epoch["shards"].values()) == epoch["frames_read"]
    assert (run / "report.html").read_text().rstrip().endswith("</html>")
    assert not list(run.rglob("*.partial"))

    code, output = finished(command(str(PYTHON), "launchers/evaluate.py", "--run", str(run), "data.split=val"))
    assert code == 0, output
    assert (run / "evaluations" / "shards-val" / "metrics.json").is_file()

    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(3):
        picture = np.random.default_rng(number).integers(0, 256, (64, 96, 3), np.uint8)
        cv2.imwrite(str(frames / f"{number}.png"), picture)
    out = tmp_path / "out"
    code, output = finished(
        command(str(PYTHON), "launchers/predict.py", "--run", str(run), "--input", str(frames), "--output", str(out))
    )
    assert code == 0, output
    with (out / "predictions.csv").open() as table:
        predicted = list(csv.DictReader(table))
    assert [row["frame"] for row in predicted] == ["0", "1", "2"]
    assert all(0 <= float(row["x0"]) <= float(row["x1"]) <= 96 for row in predicted)
    assert all(row["cls"] in metrics["classes"] for row in predicted)
    assert (out / "frames.mp4").is_file()


@pytest.mark.slow
def test_a_profile_is_recorded_and_changes_no_digit(tiny_shards: Path, tmp_path: Path) -> None:
    options = ("run.stages=[classifier]", "classifier.epochs=1")
    for name, more in (("plain", ()), ("profiled", ("log.profile_steps=2", "engine.keep_memory=false"))):
        code, output = finished(train(tiny_shards, tmp_path, name, *options, *more))
        assert code == 0, output
    found = [rows(tmp_path / name, "classifier") for name in ("plain", "profiled")]
    assert [row["loss"] for row in found[0].values()] == [row["loss"] for row in found[1].values()]
    assert all(row["tflops"] > 0 and "mfu" not in row for each in found for row in each.values())
    assert not (tmp_path / "plain" / "profile").exists()
    folder = tmp_path / "profiled" / "profile"
    assert {path.name for path in folder.iterdir()} == {"classifier.json.gz", "classifier.txt"}
    table = (folder / "classifier.txt").read_text()
    assert table.startswith("2 steps of stage classifier")
    assert "aten::convolution_backward" in table


@pytest.mark.slow
def test_two_ranks_that_share_windows_train_as_one_that_has_them_whole(tiny_shards: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(tiny_shards, shards)
    code, output = finished(train(shards, tmp_path, "first", "run.stages=[classifier,cams]"))
    assert code == 0, output
    more = ("run.stages=[cams,localizer]", f"classifier.from_run={tmp_path / 'first'}", "localizer.epochs=1")
    for name, ranks in (("whole", 1), ("shared", 2)):
        settings = (*more, f"engine.window_ranks={ranks}", "engine.threads=1")
        code, output = finished(train(shards, tmp_path, name, *settings, ranks=ranks))
        assert code == 0, output
    whole, shared = (rows(tmp_path / name, "localizer") for name in ("whole", "shared"))
    assert whole.keys() == shared.keys()
    for term in ("loss", "partial_cross_entropy", "frame_crf", "color_disagreement", "fg_mean"):
        # The first step is before any update; later ones amplify rounding.
        assert shared[1][term] == pytest.approx(whole[1][term], rel=1e-5), term
        assert [row[term] for row in shared.values()] == pytest.approx([r[term] for r in whole.values()], rel=0.01)
    receipts = [json.loads((tmp_path / name / "receipt.json").read_text())["localizer"] for name in ("whole", "shared")]
    assert receipts[0] == receipts[1]


@pytest.mark.slow
def test_damaged_mixed_and_remote_data_end_in_a_receipt(tiny_shards: Path, tmp_path: Path) -> None:
    shards, other = tmp_path / "shards", tmp_path / "other"
    shutil.copytree(tiny_shards, shards)
    shutil.copytree(tiny_shards, other)
    index = ShotIndex.open(shards, "train")
    longest = int(index.shots.n_frames.argmax())
    frame = int(index.shots.first_frame[longest]) + 1
    with index.shard_paths[index.frame_shard[frame]].open("r+b") as shard:
        shard.seek(int(index.frame_offset[frame]) + 30)
        shard.write(b"damaged")
    serve = [PYTHON, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", other]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            port = re.search(r"port (\d+)", server.stdout.readline())
            assert port
            mixed = f"data.mix=[{{shards: 'http://127.0.0.1:{port[1]}', weight: 2.0}}]"
            more = ("data.balance=class", f"data.remote.cache_folder={tmp_path / 'cache'}", "data.n_frames=9")
            size = ("data.epoch_windows=36", "data.sampling=interval", "localizer.global_batch=36")
            code, output = finished(train(shards, tmp_path, "mixed", mixed, *more, *size))
            assert code == 0, output
        finally:
            server.kill()
    epochs = json.loads((tmp_path / "mixed" / "receipt.json").read_text())["localizer"]
    for epoch in epochs:
        by_place = {"remote": 0, "local": 0}
        for name, counts in epoch["shards"].items():
            by_place["remote" if name.startswith("http://") else "local"] += counts["promised"]
        assert by_place["remote"] > by_place["local"] > 0
        assert epoch["windows"] == 36
        assert epoch["frames_promised"] == epoch["frames_read"] + epoch["frames_replaced"] + epoch["frames_skipped"]
    # In two epochs a class of seven local shots gives 8 windows, so every shot has one; the long shot shows all it has.
    assert sum(epoch["frames_replaced"] for epoch in epochs) >= 1
    assert "frames were damaged and replaced" in output
    assert list((tmp_path / "cache").glob("*.shard"))


@pytest.mark.slow
def test_zero_stages_give_the_same_losses_and_resume(tiny_shards: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(tiny_shards, shards)
    # Many frames and small steps: BatchNorm over a few frames and large steps amplify rounding to percents.
    settings = ["run.stages=[classifier]", "classifier.global_batch=16", "classifier.epochs=3"]
    settings += ["classifier.optimizer.lr=0.0001"]
    losses = {}
    for stage in (0, 3):  # test_engine_state.py has all four
        name = f"zero{stage}"
        options = [*settings, f"engine.zero_stage={stage}", "engine.gradient_clipping=5.0"]
        code, output = finished(train(shards, tmp_path, name, *options, ranks=2))
        assert code == 0, output
        losses[stage] = [row["loss"] for row in rows(tmp_path / name, "classifier").values()]
    assert len(losses[0]) == 6
    assert losses[3] == pytest.approx(losses[0], rel=1e-4)
    code, output = finished(train(shards, tmp_path, "zero3", *options, "run.on_exists=resume", ranks=2))
    assert code == 0, output


@pytest.mark.long
def test_a_vision_transformer_trains_both_stages_whatever_holds_its_weights(tiny_shards: Path, tmp_path: Path) -> None:
    """One rank, and two that hold a part of every weight each; pictures of 40 pixels are enlarged to 48."""
    options = ("model.encoder=vit_tiny", "classifier.epochs=1", "localizer.epochs=1", "classifier.optimizer.lr=0.001")
    ways = {"one": (1, "engine.zero_stage=0"), "two": (2, "engine.zero_stage=3")}
    losses = {}
    for name, (ranks, stage) in ways.items():
        shutil.copytree(tiny_shards, tmp_path / f"shards-{name}")
        code, output = finished(train(tmp_path / f"shards-{name}", tmp_path, name, *options, stage, ranks=ranks))
        assert code == 0, output
        assert set(json.loads((tmp_path / name / "metrics.json").read_text())["methods"]) == {"layercam", "localizer"}
        losses[name] = [
            row["loss"] for stage in ("classifier", "localizer") for row in rows(tmp_path / name, stage).values()
        ]
    assert len(losses["one"]) == 12
    assert losses["two"] == pytest.approx(losses["one"], abs=1e-4)


@pytest.mark.slow
def test_bf16_on_the_cpu_trains_both_stages(tiny_shards: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(tiny_shards, shards)
    settings = ["run.stages=[classifier,cams,localizer]", "engine.precision=bf16"]
    settings += ["classifier.epochs=1", "localizer.epochs=1"]
    code, output = finished(train(shards, tmp_path, "bf16", *settings))
    assert code == 0, output
    losses = [row["loss"] for stage in ("classifier", "localizer") for row in rows(tmp_path / "bf16", stage).values()]
    assert all(isinstance(loss, float) for loss in losses), "numbers that are not finite are written as text"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (["data.nframes=3", "model.encodr=x"], ["unknown setting; did you mean data.n_frames", "model.encoder"]),
        (["localizer.global_batch=6"], ["cannot be divided", "localizer.global_batch=8"]),
        (["engine.precision=fp16"], ["fp16 needs a GPU"]),
        (["model.encoder=resnet19"], ["resnet18"]),
        (["data.split=holdout"], ["no finished shards of split 'holdout'"]),
    ],
)
def test_bad_settings_end_in_one_message_before_any_training(
    changes: list[str], parts: list[str], tiny_shards: Path, tmp_path: Path
) -> None:
    accumulate = ["engine.accumulation=2"] if "localizer.global_batch=6" in changes else []
    code, output = finished(train(tiny_shards, tmp_path, "bad", *changes, *accumulate))
    assert code == 2, output
    assert "Traceback" not in output
    for part in parts:
        assert part in output
    assert not list(tmp_path.rglob("*.pt"))
