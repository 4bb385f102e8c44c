"""Predictions by any number of processes, in any order, killed or not, end in the same files."""

from __future__ import annotations

import csv
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

from colocam_dist.distributed import Place
from colocam_dist.errors import DataError, PreemptedError, RunError
from colocam_dist.inference import predict as prediction
from colocam_dist.inference.api import Localizer
from colocam_dist.inference.clip_rows import BoxOptions
from colocam_dist.inference.predict import predict

ROOT = Path(__file__).parents[3]
NAMES = [*(f"kind__clip-{number}" for number in range(6)), "pictures"]
CLIPS = len(NAMES)
PATIENCE = 240.0  # seconds, for ranks on a busy machine


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory, write_video: Callable[..., Path]) -> Path:
    """Seven clips of 2 to 8 frames, one of them a folder of pictures."""
    folder = tmp_path_factory.mktemp("input")
    for number in range(6):
        write_video(folder / "kind" / f"clip-{number}.mp4", 3 + number, number)
    (folder / "pictures").mkdir()
    for number in range(2):
        picture = np.random.default_rng(number).integers(0, 256, (31, 45, 3), np.uint8)
        cv2.imwrite(str(folder / "pictures" / f"{number}.png"), picture)
    return folder


@pytest.fixture(scope="module")
def whole(small_run: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of the clips."""
    output = tmp_path_factory.mktemp("whole") / "out"
    summary = predict(small_run, clips, output, device="cpu")
    assert (summary.clips, summary.kept, summary.frames, summary.complete) == (CLIPS, 0, 35, True)
    return output


def rank(number: int, world: int) -> Place:
    return Place(number, world, number, 1)


def tables(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.glob("predictions.*")}


def records(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (output / "clips").glob("*.json")}


def made_at(output: Path) -> dict[str, tuple[int, int]]:
    """Which file each clip's results are in, and since when: another one if the clip was made again."""
    found = {path.name: path.stat() for path in (output / "clips").glob("*.json")}
    return {name: (facts.st_ino, facts.st_mtime_ns) for name, facts in found.items()}


def leftovers(output: Path) -> list[str]:
    return [path.name for path in output.rglob(".*") if path.name != ".claims"]


def test_the_tables_hold_what_the_api_gives(small_run: Path, clips: Path, whole: Path) -> None:
    rows = [row.to_row() for row in Localizer.load(small_run, device="cpu").predict(clips)]
    document = json.loads((whole / "predictions.json").read_text())
    assert document.pop("frames") == rows
    assert document == {"run": str(small_run), "threshold": 0.7, "classes": ["bird", "cat", "train"]}
    with (whole / "predictions.csv").open() as table:
        assert list(csv.DictReader(table)) == [{name: str(value) for name, value in row.items()} for row in rows]
    assert len(records(whole)) == CLIPS
    assert leftovers(whole) == []


def test_overlays_have_every_frame_with_its_heat_and_box(clips: Path, whole: Path) -> None:
    for path in (clips / "kind").glob("*.mp4"):
        before, after = (cv2.VideoCapture(str(each)) for each in (path, whole / f"kind__{path.name}"))
        count = 0
        while (pair := [before.read(), after.read()])[0][0]:
            assert pair[1][0], "the overlay has as many frames"
            change = np.abs(pair[0][1].astype(int) - pair[1][1]).mean()
            assert 5 < change < 150, "it is drawn over, and still the same clip"
            count += 1
        assert not pair[1][0]
        assert count >= 3
    assert (whole / "pictures.mp4").is_file()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_three_ranks_make_the_files_of_one(
    order: tuple[int, ...], small_run: Path, clips: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One after another, without taking each other's clips over, as if all had begun together.
    monkeypatch.setattr(prediction, "working_order", lambda clips, rank, world: (list(range(rank, clips, world)), []))
    summaries = [predict(small_run, clips, tmp_path / "out", place=rank(number, 3), device="cpu") for number in order]
    assert [summary.complete for summary in summaries] == [False, False, True]
    assert sorted(summary.clips for summary in summaries) == [2, 2, 3]
    assert tables(tmp_path / "out") == tables(whole)
    assert records(tmp_path / "out") == records(whole)


def test_a_rank_makes_what_the_others_leave(small_run: Path, clips: Path, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prediction, "working_order", lambda clips, rank, world: ([1, 4], []))
        assert not predict(small_run, clips, output, place=rank(1, 3), overlays=False, device="cpu").complete
    before = made_at(output)
    summary = predict(small_run, clips, output, place=rank(0, 3), overlays=False, device="cpu")
    assert (summary.clips, summary.kept, summary.complete) == (CLIPS - 2, 2, True)
    assert {name: made for name, made in made_at(output).items() if name in before} == before
    assert tables(output) == tables(whole)


def test_finished_clips_are_kept_and_changed_ones_made_anew(
    small_run: Path, clips: Path, whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    shutil.copytree(clips, source)
    first = predict(small_run, source, output, device="cpu", overlays=False)
    before = made_at(output)
    again = predict(small_run, source, output, device="cpu", overlays=False)
    assert (again.clips, again.kept, again.complete) == (0, first.clips, True)
    assert made_at(output) == before
    assert tables(output) == tables(whole)

    caplog.set_level("INFO")
    touched = source / "kind" / "clip-2.mp4"
    os.utime(touched, ns=(1, 1))
    (output / "clips" / "kind__clip-4.json").write_text('{"clip": ')
    some = predict(small_run, source, output, device="cpu", overlays=False)
    assert (some.clips, some.kept) == (2, CLIPS - 2)
    assert "1 clips are made anew: its input has changed" in caplog.text
    assert "1 clips are made anew: its file is damaged" in caplog.text
    changed = {name for name, made in made_at(output).items() if made != before[name]}
    assert changed == {"kind__clip-2.json", "kind__clip-4.json"}
    assert tables(output) == tables(whole)

    (source / "kind" / "clip-0.mp4").unlink()
    fewer = predict(small_run, source, output, device="cpu", overlays=False)
    assert (fewer.clips, fewer.kept) == (0, CLIPS - 1)
    assert b"clip-0" not in tables(output)["predictions.csv"]


def test_tables_do_not_outlive_a_clip_that_is_made_anew(
    small_run: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = clips / "pictures", tmp_path / "out"
    predict(small_run, source, output, device="cpu", overlays=False)
    assert len(tables(output)) == 2

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prediction, "predict_clip", stop)
    with pytest.raises(KeyboardInterrupt):
        predict(small_run, source, output, device="cpu", overlays=False, options=BoxOptions(0.9))
    assert tables(output) == {}
    assert records(output) == {}


def test_another_threshold_or_missing_videos_make_clips_anew(
    small_run: Path, clips: Path, whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, output = clips / "pictures", tmp_path / "out"
    caplog.set_level("INFO")
    predict(small_run, source, output, device="cpu", overlays=False)
    assert predict(small_run, source, output, device="cpu").clips == 1
    assert "no overlay video" in caplog.text
    assert predict(small_run, source, output, device="cpu").clips == 0
    assert predict(small_run, source, output, device="cpu", overlays=False).clips == 0, "a video does no harm"
    other = predict(small_run, source, output, device="cpu", options=BoxOptions(0.9), overlays=False)
    assert (other.clips, other.kept) == (1, 0)
    assert "other settings: threshold (0.7 -> 0.9)" in caplog.text
    assert json.loads(tables(output)["predictions.json"])["threshold"] == 0.9
    assert predict(small_run, source, output, device="cpu", options=BoxOptions(0.9)).clips == 1, (
        "the old video has old boxes"
    )


def test_damaged_clips_do_not_keep_the_others_from_being_made(small_run: Path, clips: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    shutil.copytree(clips / "kind", source)
    (source / "a.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match="1 of 7 clips failed") as caught:
        predict(small_run, source, output, device="cpu", overlays=False)
    assert "a.mp4" in str(caught.value)
    assert len(records(output)) == 6
    assert tables(output) == {}
    (source / "a.mp4").unlink()
    summary = predict(small_run, source, output, device="cpu", overlays=False)
    assert (summary.clips, summary.kept, summary.complete) == (0, 6, True)
    (source / "b.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match="no frame can be decoded"):
        predict(small_run, source / "b.mp4", tmp_path / "single", device="cpu")


def test_an_input_that_changes_while_it_is_read_is_not_taken_for_finished(
    small_run: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "clip.mp4"
    shutil.copy(clips / "kind" / "clip-1.mp4", source)
    real = prediction.predict_clip

    def change(*given: Any) -> Any:
        rows = real(*given)
        os.utime(source, ns=(1, 1))
        return rows

    monkeypatch.setattr(prediction, "predict_clip", change)
    with pytest.raises(DataError, match="has changed while it was read"):
        predict(small_run, source, tmp_path / "out", device="cpu")
    assert records(tmp_path / "out") == {}


def test_an_output_within_the_input_is_refused(small_run: Path, clips: Path) -> None:
    with pytest.raises(RunError, match="the output would become input"):
        predict(small_run, clips, clips / "kind" / "out", device="cpu")
    assert not (clips / "kind" / "out").exists()


def test_an_overlay_never_replaces_an_input(small_run: Path, tmp_path: Path, write_video: Callable[..., Path]) -> None:
    folder = tmp_path / "videos"
    source = write_video(folder / "fish.mp4", 3, 1)
    before = source.read_bytes()
    with pytest.raises(RunError, match=r"an overlay would replace an input\n.*fish\.mp4"):
        predict(small_run, source, folder, device="cpu")
    assert predict(small_run, source, folder, device="cpu", overlays=False).complete, "tables do no harm"
    assert source.read_bytes() == before

    made = tmp_path / "out" / "fish.mp4"
    assert predict(small_run, source, made.parent, device="cpu").clips == 1
    overlay = made.read_bytes()
    for videos in (True, False):
        with pytest.raises(RunError, match="an overlay would replace an input"):
            predict(small_run, made, made.parent, device="cpu", overlays=videos)
    assert made.read_bytes() == overlay


def test_term_leaves_finished_clips_and_no_half_ones(
    small_run: Path, clips: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    real = prediction.draw_overlay

    def interrupted(path: Path, *given: Any) -> None:
        if path.stem == "kind__clip-3":
            os.kill(os.getpid(), signal.SIGTERM)
        real(path, *given)

    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(prediction, "draw_overlay", interrupted)
        with pytest.raises(PreemptedError, match="finished clips are kept"):
            predict(small_run, clips, output, device="cpu")
    assert signal.getsignal(signal.SIGTERM) is handler
    assert sorted(records(output)) == [f"kind__clip-{number}.json" for number in range(3)]
    assert leftovers(output) == []
    assert tables(output) == {}
    before = made_at(output)
    assert predict(small_run, clips, output, device="cpu").kept == 3
    assert {name: made_at(output)[name] for name in before} == before
    assert tables(output) == tables(whole)


HOLD = """
import sys
from pathlib import Path
from colocam_dist.inference.claims import Claims
claims = Claims(Path(sys.argv[1]))
print(claims.take(3), flush=True)
sys.stdin.read()
"""


def test_a_clip_that_another_process_is_at_is_left_to_it(small_run: Path, clips: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    (output / "clips").mkdir(parents=True)
    words = [sys.executable, "-c", HOLD, str(output / "clips" / ".claims")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        with pytest.raises(RunError, match="another process is at work"):
            predict(small_run, clips, output, device="cpu", overlays=False)
        assert sorted(records(output)) == sorted(f"{name}.json" for name in NAMES if name != "kind__clip-3")
        summary = predict(small_run, clips, output, place=rank(1, 2), device="cpu", overlays=False)
        assert (summary.clips, summary.complete) == (0, False), "a rank leaves it to the others"
        other.kill()
    assert predict(small_run, clips, output, device="cpu", overlays=False).clips == 1


def start(run: Path, source: Path, output: Path, *, ranks: int, slow: float = 0.0) -> list[subprocess.Popen[str]]:
    """The ranks of a prediction as processes, which rest after each clip."""
    code = (
        "import sys, time; from colocam_dist.inference import predict as p; from launchers.predict import main\n"
        "from colocam_dist.console import run_console; real = p.draw_overlay\n"
        f"p.draw_overlay = lambda *given: (real(*given), time.sleep({slow}))\n"
        "run_console(main)"
    )
    words = ["--run", str(run), "--input", str(source), "--output", str(output), "--device", "cpu"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    places = [{"RANK": str(n), "LOCAL_RANK": str(n), "WORLD_SIZE": str(ranks)} for n in range(ranks)]
    return [
        subprocess.Popen(
            [sys.executable, "-c", code, *words],
            env=environment | place,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for place in places
    ]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ranks_that_are_killed_leave_work_that_two_others_finish(
    small_run: Path, clips: Path, whole: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    processes = start(small_run, clips, output, ranks=3, slow=1.0)
    deadline = time.monotonic() + PATIENCE
    while len(made_at(output)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    for process in processes:
        process.send_signal(signal.SIGKILL)
    for process in processes:
        process.communicate()
    before = made_at(output)
    assert 2 <= len(before) < CLIPS
    assert tables(output) == {}
    ended = [process.communicate(timeout=PATIENCE) for process in start(small_run, clips, output, ranks=2)]
    printed = "".join(out for out, _ in ended)
    assert sum(int(count) for count in re.findall(r"frames of (\d+) clips", printed)) == CLIPS - len(before)
    assert f"done: {output}" in printed, ended
    assert {name: made_at(output)[name] for name in before} == before
    assert tables(output) == tables(whole)
    assert records(output) == records(whole)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_clips_of_a_rank_that_dies_are_made_by_the_others_which_do_not_wait(
    small_run: Path, clips: Path, whole: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    processes = start(small_run, clips, output, ranks=3, slow=2.0)
    deadline = time.monotonic() + PATIENCE
    while not made_at(output) and time.monotonic() < deadline:
        time.sleep(0.02)
    processes[2].kill()
    ended = [process.communicate(timeout=PATIENCE) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, -signal.SIGKILL], ended
    assert tables(output) == tables(whole)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_term_to_one_rank_ends_it_in_peace(small_run: Path, clips: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    (process,) = start(small_run, clips, output, ranks=1, slow=1.0)
    deadline = time.monotonic() + PATIENCE
    while not made_at(output) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.terminate()
    _, told = process.communicate(timeout=30)
    assert process.returncode == 85, told
    assert "finished clips are kept" in told
    assert "Traceback" not in told
    assert 1 <= len(records(output)) < CLIPS
    assert leftovers(output) == []
