"""What is found wrong with a submission before anything is queued."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from colocam_dist.config import Config, load
from colocam_dist.errors import ClusterError, ConfigError, RunError
from colocam_dist.slurm import checks
from colocam_dist.slurm.checks import check_cluster, check_devices, check_visible, paths_of

TEST_ONLY = """
[ "$1" = --test-only ] || exit 0
echo "allocation failure: {words}" >&2
exit 1
"""
OFFER_OF_MAIN = "main: 2 nodes of 4 CPUs, 1000 MB, gpu:2, 1:00:00 at most"
OFFER = f"{OFFER_OF_MAIN}; long: 1 nodes of 8 CPUs, 2000 MB, no GPUs, infinite at most"


def config(*overrides: str) -> Config:
    return load(None, ["data.shards=here", *overrides])


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["engine.device=cpu", "slurm.gpus_per_node=2", "slurm.tasks_per_node=4"],
        ["engine.device=cuda", "slurm.gpus_per_node=2"],
        ["engine.device=cuda", "slurm.gpus_per_node=2", "slurm.tasks_per_node=1"],
        ["engine.device=auto", "slurm.tasks_per_node=4"],
    ],
)
def test_ranks_that_can_have_their_devices(settings: list[str]) -> None:
    check_devices(config(*settings))


@pytest.mark.parametrize(
    ("settings", "where", "got"),
    [
        (["engine.device=cuda"], "slurm.gpus_per_node", "0, with engine.device=cuda"),
        (
            ["slurm.gpus_per_node=2", "slurm.tasks_per_node=3"],
            "slurm.tasks_per_node",
            "3, with slurm.gpus_per_node=2",
        ),
    ],
)
def test_ranks_that_cannot_have_their_devices(settings: list[str], where: str, got: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_devices(config(*settings))
    assert (caught.value.where, caught.value.got) == (where, got)


def test_slurm_is_shown_the_script_and_says_when_it_would_start(fake_slurm: Any) -> None:
    fake_slurm.cluster()
    said = check_cluster(config().slurm, "#!/bin/sh\ntrue\n")
    assert said == "sbatch: Job 9 to start at 2026-11-25T15:40:37 using 2 processors on nodes vn1 in partition main"
    assert fake_slurm.read("tested") == "#!/bin/sh\ntrue\n"
    assert not Path(fake_slurm.calls("sbatch")[1][1]).exists()


def test_without_slurm_it_is_said_at_once(fake_slurm: Any) -> None:
    with pytest.raises(ClusterError, match="SLURM is not here"):
        check_cluster(config().slurm, "")


@pytest.mark.parametrize(
    ("partition", "named", "offer"),
    [("main", "main", OFFER_OF_MAIN), ("nope", "nope", OFFER), (None, "(default)", OFFER)],
)
def test_a_refusal_says_what_there_is(partition: str | None, named: str, offer: str, fake_slurm: Any) -> None:
    fake_slurm.cluster()
    fake_slurm.add("sbatch", TEST_ONLY.format(words="Requested node configuration is not available"))
    with pytest.raises(ClusterError) as caught:
        check_cluster(config(*([f"slurm.partition={partition}"] if partition else [])).slurm, "")
    error = caught.value
    assert (error.what, error.where) == ("SLURM refuses", f"partition {named}")
    assert error.got == "allocation failure: Requested node configuration is not available"
    assert error.wanted == offer
    assert str(error.fix).startswith("ask for less: slurm.nodes")


@pytest.mark.parametrize("sinfo", ["exit 1", "echo nothing of use", "exit 0"])
def test_a_refusal_is_said_even_if_nothing_else_is_known(sinfo: str, fake_slurm: Any) -> None:
    fake_slurm.cluster()
    fake_slurm.add("sbatch", TEST_ONLY.format(words="no"))
    fake_slurm.add("sinfo", sinfo)
    with pytest.raises(ClusterError) as caught:
        check_cluster(config().slurm, "")
    assert (caught.value.got, caught.value.wanted) == ("allocation failure: no", None)


@pytest.mark.parametrize("settings", [["slurm.time=60"], ["slurm.partition=long", "slurm.time=30-0"]])
def test_a_time_that_the_partition_allows(settings: list[str], fake_slurm: Any) -> None:
    fake_slurm.cluster()
    assert check_cluster(config(*settings).slurm, "")


@pytest.mark.parametrize("settings", [["slurm.time=61"], ["slurm.partition=main", "slurm.time=1:00:01"]])
def test_a_time_that_would_let_the_job_wait_forever_is_refused(settings: list[str], fake_slurm: Any) -> None:
    fake_slurm.cluster()
    with pytest.raises(ClusterError, match="longer than the partition allows") as caught:
        check_cluster(config(*settings).slurm, "")
    assert (caught.value.where, caught.value.wanted) == ("slurm.time, partition main", "01:00:00 at most")
    assert caught.value.got == settings[-1].partition("=")[2]


def test_everything_that_ranks_read_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "cams").mkdir()
    (tmp_path / "other").mkdir()
    first = config(
        "data.mix=[{shards: more, weight: 1}, {shards: https://example.org/x, weight: 1}]",
        "cams.folder=cams",
        "classifier.from_run=other",
        "model.weights=~/weights.pt",
    )
    second = config("data.shards=/data", "cams.folder=not-yet", "model.weights=none")
    assert paths_of([first, second], f"{sys.executable} -X dev") == [
        tmp_path / "here",
        tmp_path / "more",
        tmp_path / "other",
        tmp_path / "cams",
        tmp_path / "home/weights.pt",
        Path("/data"),
        Path(sys.executable),
    ]
    assert paths_of([config("data.shards=s3://x/y")], "apptainer exec image.sif python") == []


def test_the_image_of_a_container_is_looked_for_as_well(tmp_path: Path) -> None:
    image = tmp_path / "image.sif"
    image.touch()
    command = f"apptainer exec --bind /no/such:/data {image} python"
    assert paths_of([config("data.shards=s3://x/y")], command) == [image]


def visible(run: Path, *paths: Path, **settings: str) -> bool:
    return check_visible(config(*(f"slurm.{name}={value}" for name, value in settings.items())).slurm, run, paths)


def test_a_node_looks_whether_it_sees_the_paths(fake_slurm: Any, tmp_path: Path) -> None:
    fake_slurm.cluster()
    there = tmp_path / "it's there"
    there.touch()
    place = {"partition": "main", "account": "vision", "qos": "high", "constraint": "a100"}
    assert visible(tmp_path / "runs/not/yet", there, **place)
    (call,) = fake_slurm.calls("srun")
    assert {"--immediate=3", "--time=1", "--nodes=1", "--ntasks=1", "--chdir=/"} < set(call)
    assert {f"--{name}={value}" for name, value in place.items()} < set(call)
    probe = Path(call[call.index("sh", call.index("sh") + 1) + 1])
    assert probe.parent == tmp_path
    assert list(tmp_path.iterdir()) == [there], "nothing stays behind"


def test_what_a_node_does_not_see_is_named(fake_slurm: Any, tmp_path: Path) -> None:
    fake_slurm.cluster()
    with pytest.raises(ClusterError, match="the nodes do not see what the run needs") as caught:
        visible(tmp_path, tmp_path / "a b", tmp_path, tmp_path / "c", partition="main")
    error = caught.value
    names = [part.partition(" on ")[0] for part in str(error.got).split("; ")]
    assert names == [f"missing: {tmp_path}/a b", f"{tmp_path}/c"]
    assert error.where == "main"
    assert "slurm.container" in str(error.fix)
    assert not list(tmp_path.iterdir())


def test_what_is_written_here_must_be_seen_there(fake_slurm: Any, tmp_path: Path) -> None:
    fake_slurm.cluster()
    fake_slurm.add("srun", f'for path; do case "$path" in {tmp_path}/*) echo "missing $path on vn1" ;; esac; done')
    with pytest.raises(ClusterError) as caught:
        visible(tmp_path)
    assert str(caught.value.got).startswith(f"missing: {tmp_path}/.colocam-look-")
    assert caught.value.where == "the default partition"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("free", ["", "0", "0\n0"])
def test_nobody_waits_for_a_free_node(free: str, fake_slurm: Any, tmp_path: Path) -> None:
    fake_slurm.cluster()
    fake_slurm.set("free", free)
    assert not visible(tmp_path, tmp_path / "missing", partition="main")
    assert fake_slurm.calls("sinfo") == [["--noheader", "--states=idle,mixed", "--format=%D", "--partition=main"]]
    assert fake_slurm.calls("srun") == []


@pytest.mark.parametrize("srun", ["echo 'srun: error: Unable to allocate resources' >&2; exit 1", "exec sleep 20"])
def test_a_look_that_is_not_possible_is_no_error(
    srun: str, fake_slurm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "_PROBE_SECONDS", 0.1)
    fake_slurm.cluster()
    fake_slurm.add("srun", srun)
    assert not visible(tmp_path, tmp_path / "missing")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no folder that even root cannot write to")
def test_a_place_that_cannot_be_written_to_is_named(fake_slurm: Any) -> None:
    fake_slurm.cluster()
    with pytest.raises(RunError, match="the place of the run cannot be written to") as caught:
        visible(Path("/proc/runs/a"))
    assert caught.value.where == Path("/proc")
    assert fake_slurm.calls("srun") == []
