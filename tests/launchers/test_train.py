"""The launchers as a user runs them: real processes, real shards, gloo on the CPU."""

from __future__ import annotations

import csv
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from colocam_dist.data.index import ShotIndex
from colocam_dist.runs.weights import read_weights

ROOT = Path(__file__).parents[2]
PYTHON = Path(sys.executable)
SMALL = [
    *("data.resize=48", "data.crop=40", "data.n_frames=2", "data.workers=0", "data.central_fraction=1.0"),
    *("model.encoder=resnet18", "model.weights=none", "model.output_stride=16"),
    *("model.decoder_channels=[16,16,8,8,8]", "engine.device=cpu"),
    *("classifier.epochs=2", "classifier.global_batch=4", "classifier.optimizer.lr=0.01"),
    *("localizer.epochs=2", "localizer.global_batch=8", "localizer.seeds.n_fg=20", "localizer.seeds.n_bg=20"),
    *("localizer.loss.frame_crf.weight=1e-6", "localizer.loss.colocalization.weight=0.5"),
    *("evaluation.thresholds=50", "evaluation.validation_thresholds=50", "evaluation.bootstrap=50"),
    *("log.every_steps=1", "log.tensorboard=false"),
]


def command(*arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finished(process: subprocess.Popen[str], seconds: float = 240) -> tuple[int, str]:
    try:
        output, _ = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return process.returncode, output


def train(shards: Path, runs: Path, name: str, *more: str, ranks: int = 1) -> subprocess.Popen[str]:
    script = ["launchers/train.py", f"data.shards={shards}", f"run.folder={runs}", f"run.name={name}", *SMALL, *more]
    if ranks == 1:
        return command(str(PYTHON), *script)
    port = str(20000 + os.getpid() % 20000)
    launcher = str(PYTHON.parent / "deepspeed")
    return command(launcher, "--num_gpus", str(ranks), "--master_port", port, *script)


def rows(run: Path, stage: str) -> dict[int, dict[str, Any]]:
    """Training rows by step; of a repeated step the last one counts."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row for row in lines if row["stage"] == stage and row["kind"] == "train"}


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
def test_one_and_two_ranks_train_on_the_same_batches_and_agree_at_first(tiny_shards: Path, tmp_path: Path) -> None:
    runs = {}
    for ranks in (1, 2):
        shards = tmp_path / f"shards{ranks}"
        shutil.copytree(tiny_shards, shards)
        code, output = finished(
            train(shards, tmp_path, f"r{ranks}", "run.stages=[classifier]", "data.last=drop", ranks=ranks)
        )
        assert code == 0, output
        runs[ranks] = rows(tmp_path / f"r{ranks}", "classifier")
    assert runs[1].keys() == runs[2].keys()
    # BatchNorm sees half of the batch on each rank, so the losses are near each other, not equal.
    assert runs[1][1]["loss"] == pytest.approx(runs[2][1]["loss"], rel=0.3)


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


@pytest.mark.parametrize(
    "more",
    [
        pytest.param([], id="plain", marks=pytest.mark.slow),
        # In the last epoch the loss depends on the average, by the seeds.
        pytest.param(
            ["localizer.ema.decay=0.9", "localizer.seeds.refresh_epoch=2"], id="averaged", marks=pytest.mark.long
        ),
    ],
)
def test_a_killed_run_continues_to_the_same_losses(more: list[str], tiny_shards: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(tiny_shards, shards)
    options = ("checkpoint.every_steps=1", "run.stages=[classifier,cams,localizer]", *more)
    code, output = finished(train(shards, tmp_path, "whole", *options))
    assert code == 0, output

    process = train(shards, tmp_path, "cut", *options)
    log = tmp_path / "cut" / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if log.is_file() and len(rows(tmp_path / "cut", "localizer")) >= 2:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "cut" / "done.json").exists()

    code, output = finished(train(shards, tmp_path, "cut", *options))
    assert code == 2
    assert "a run of this name exists" in output
    code, output = finished(train(shards, tmp_path, "cut", *options, "run.on_exists=resume"))
    assert code == 0, output
    for stage in ("classifier", "localizer"):
        whole, cut = rows(tmp_path / "whole", stage), rows(tmp_path / "cut", stage)
        assert cut.keys() == whole.keys()
        assert {step: row["loss"] for step, row in cut.items()} == {step: row["loss"] for step, row in whole.items()}
    receipts = [(tmp_path / name / "receipt.json").read_text() for name in ("cut", "whole")]
    assert receipts[0] == receipts[1]
    best = [tmp_path / name / "checkpoints" / "localizer" / "best-localization.pt" for name in ("cut", "whole")]
    assert read_weights(best[0])["sha256"] == read_weights(best[1])["sha256"]


def ranks_of(run: Path) -> list[int]:
    """Processes of any kind that train this run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"run.name={run.name}".encode() in words and f"run.folder={run.parent}".encode() in words:
            found.append(int(folder.name))
    return found


def is_rank(process: int) -> bool:
    return Path(f"/proc/{process}/environ").read_bytes().find(b"\0LOCAL_RANK=") >= 0


FOUR_EPOCHS = ("run.stages=[classifier]", "classifier.epochs=4")


@pytest.fixture(scope="module")
def undisturbed(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Gives the folder of a run of so many ranks that nobody asks to stop; its shards lie beside it."""

    @functools.cache
    def run(ranks: int) -> Path:
        folder = tmp_path_factory.mktemp(f"undisturbed{ranks}")
        shutil.copytree(tiny_shards, folder / "shards")
        code, output = finished(train(folder / "shards", folder, "whole", *FOUR_EPOCHS, ranks=ranks))
        assert code == 0, output
        return folder / "whole"

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "number", "to"),
    [(1, signal.SIGUSR2, "rank"), (2, signal.SIGUSR1, "rank"), (2, signal.SIGTERM, "launcher")],
)
def test_a_run_that_is_asked_to_stop_saves_and_resumes(
    undisturbed: Callable[[int], Path], tmp_path: Path, ranks: int, number: signal.Signals, to: str
) -> None:
    reference = undisturbed(ranks)
    shards, run = reference.with_name("shards"), tmp_path / "cut"
    process = train(shards, tmp_path, "cut", *FOUR_EPOCHS, ranks=ranks)
    deadline = time.monotonic() + 100
    while not (run / "metrics.jsonl").is_file() or len(rows(run, "classifier")) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    asked = process.pid if to == "launcher" or ranks == 1 else next(filter(is_rank, ranks_of(run)))
    began = time.monotonic()
    os.kill(asked, number)
    while ranks_of(run):
        assert time.monotonic() - began < 15, "processes stay"
        time.sleep(0.05)
    _, output = process.communicate()
    told = json.loads((run / "preempted.json").read_text())
    assert ("end of deepspeed" if to == "launcher" else number.name) in told["reason"]
    assert not (run / "done.json").exists()
    assert not (run / "failed.json").exists()
    if to != "launcher":
        assert process.returncode == 85, output

    code, output = finished(train(shards, tmp_path, "cut", *FOUR_EPOCHS, "run.on_exists=resume", ranks=ranks))
    assert code == 0, output
    assert not (run / "preempted.json").exists()
    whole, cut = rows(reference, "classifier"), rows(run, "classifier")
    assert {step: row["loss"] for step, row in cut.items()} == {step: row["loss"] for step, row in whole.items()}


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
    for stage in (0, 2, 3):  # test_engine_state.py has all four
        name = f"zero{stage}"
        options = [*settings, f"engine.zero_stage={stage}", "engine.gradient_clipping=5.0"]
        code, output = finished(train(shards, tmp_path, name, *options, ranks=2))
        assert code == 0, output
        losses[stage] = [row["loss"] for row in rows(tmp_path / name, "classifier").values()]
    assert len(losses[0]) == 6
    assert losses[2] == pytest.approx(losses[0], rel=1e-4)
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
