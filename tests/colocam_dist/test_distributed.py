"""Where ranks come from, and which device a run may use."""

from __future__ import annotations

import pytest
import torch

from colocam_dist.config.machine import Engine
from colocam_dist.distributed import Place, environment_from_slurm, find_place, resolve_device, share_cores
from colocam_dist.errors import ConfigError, RunError


def test_a_slurm_step_gives_all_variables() -> None:
    step = {
        "SLURM_STEP_ID": "0",
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_STEP_NODELIST": "gpu[03-07,9],cpu1",
        "SLURM_STEP_TASKS_PER_NODE": "2,1(x2)",
        "SLURM_NODEID": "2",
        "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1",  # of srun, which may have been called elsewhere
        "SLURM_JOB_ID": "123456",
    }
    given = environment_from_slurm(step)
    assert given == {
        "RANK": "3",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "4",
        "MASTER_ADDR": "gpu03",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_PORT": str(20000 + 16 * 123456 % 12000),
    }
    assert environment_from_slurm({**step, "SLURM_NODEID": "0"})["LOCAL_WORLD_SIZE"] == "2"


def test_steps_and_neighboring_jobs_have_ports_of_their_own() -> None:
    def port(job: int, step: int) -> str:
        place = {"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step), "SLURM_PROCID": "0"}
        return environment_from_slurm(place)["MASTER_PORT"]

    assert len({port(job, step) for job in range(500, 600) for step in range(16)}) == 1600


@pytest.mark.parametrize(
    ("local_rank", "gpus", "device"), [(0, 4, "cuda:0"), (3, 4, "cuda:3"), (3, 1, "cuda:0"), (0, 1, "cuda:0")]
)
def test_a_rank_takes_the_gpu_of_its_number_or_the_only_one_it_sees(
    local_rank: int, gpus: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert str(resolve_device(Engine(), local_rank)) == device


def test_more_ranks_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for gpus in (1, 2):  # a single one is another rank's, unless SLURM gives each task its own
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        # Rank 0 of the same machine does not meet it, and of a ConfigError it alone would speak.
        with pytest.raises(RunError, match="more ranks than GPUs"):
            resolve_device(Engine(), 2)


def test_a_batch_script_is_not_a_rank() -> None:
    assert environment_from_slurm({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "1"}) == {}


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("one", "one"), ("a,b", "a"), ("n[1,2]", "n1"), ("n[08-11]", "n08"), ("r[2-3]n[5,7]-ib,x", "r2n5-ib")],
)
def test_the_first_node_of_a_list(nodes: str, first: str) -> None:
    step = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_STEP_NODELIST": nodes}
    assert environment_from_slurm(step)["MASTER_ADDR"] == first


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"device": "cuda"}, "no CUDA device"),
        ({"precision": "fp16"}, "fp16 needs a GPU"),
        ({"precision": "bf16"}, "bf16 was asked for and there is no GPU"),
    ],
)
def test_what_needs_a_gpu_is_refused_without_one(
    settings: dict[str, str], part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=part) as caught:
        resolve_device(Engine.model_validate(settings), 0)
    assert "fix:" in str(caught.value)


@pytest.mark.parametrize(
    ("machine", "capability", "emulated"),
    [("x86_64", "AVX2", True), ("x86_64", "DEFAULT", True), ("x86_64", "AVX512", False), ("aarch64", "DEFAULT", False)],
)
def test_bf16_on_a_cpu_is_possible_when_said_and_warned_of_where_it_is_emulated(
    machine: str, capability: str, emulated: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    assert resolve_device(Engine(device="cpu", precision="bf16"), 0) == torch.device("cpu")
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == emulated
    if emulated:
        assert f"this CPU ({capability}) has no instructions for bf16" in warned[0]
        resolve_device(Engine(device="cpu"), 0)
        resolve_device(Engine(device="cpu", precision="bf16"), 1)
        assert len(caplog.records) == 1, "fp32 needs no warning, and one rank of a machine is enough"


def test_a_place_comes_from_the_launcher_and_needs_no_rendezvous() -> None:
    assert find_place({}) == Place(0, 1, 0, 1)
    torchrun = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    assert find_place(torchrun) == Place(5, 8, 1, 4)
    assert find_place({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}) == Place(1, 2, 1, 2)
    step = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "4"}
    assert find_place({**step, "SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_NODEID": "1"}) == Place(3, 4, 1, 2)
    with pytest.raises(ConfigError, match="rank out of range"):
        find_place({"RANK": "2", "WORLD_SIZE": "2"})


@pytest.mark.parametrize(("given", "threads"), [(None, 1), ("3", None)])
def test_ranks_of_one_machine_share_its_cores_unless_told_otherwise(
    given: str | None, threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("SLURM_STEP_ID", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    set_to: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    share_cores(Place())
    assert set_to == []
    share_cores(Place(1, 1000, 1, 1000))
    assert set_to == ([] if threads is None else [threads])
