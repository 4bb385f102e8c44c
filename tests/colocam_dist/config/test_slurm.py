"""The section ``slurm``: times as SLURM writes them, ranks, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from colocam_dist.config import Config, dump, load
from colocam_dist.config.slurm import Slurm, minutes_of
from colocam_dist.errors import ConfigError

FULL = [
    *("slurm.partition=gpu", "slurm.account=vision", "slurm.qos=high", "slurm.constraint=a100&nvlink"),
    *("slurm.nodes=2", "slurm.gpus_per_node=4", "slurm.tasks_per_node=2", "slurm.cpus_per_task=6"),
    *("slurm.memory_gb=240.5", "slurm.time=1-02:30:00", "slurm.warning=300", "slurm.python=/opt/python"),
    *("slurm.setup=[module load cuda, 'echo a: b']", "slurm.environment={NCCL_DEBUG: INFO, N: 3, T: '1:30:00'}"),
    *("slurm.container=image.sif", "slurm.container_runtime=pyxis", "slurm.container_options=[--container-writable]"),
    *("slurm.sbatch={reservation: night, exclusive: true, nice: 5}", "slurm.srun=[--cpu-bind=verbose]"),
]


def config(*overrides: str) -> Config:
    return load(None, ["data.shards=here", *overrides])


@pytest.mark.parametrize(
    ("time", "minutes"),
    [
        ("1", 1),
        ("90", 90),
        ("007", 7),
        ("90:00", 90),
        ("90:01", 91),
        ("0:01", 1),
        ("2:30:00", 150),
        ("2:30:01", 151),
        ("0:0:30", 1),
        ("100:00:00", 6000),
        ("1-0", 1440),
        ("1-12", 2160),
        ("0-0:30", 30),
        ("1-12:30", 2190),
        ("2-00:00:01", 2881),
        ("10-1:2:3", 14463),
    ],
)
def test_every_form_of_time_is_minutes_rounded_up(time: str, minutes: int) -> None:
    assert minutes_of(time) == minutes
    assert Slurm(time=time, warning=1).minutes == minutes


def test_a_warning_leaves_time_to_work() -> None:
    assert Slurm(time="4:01", warning=120).minutes == 5
    with pytest.raises(ValidationError, match=r"slurm\.time \(4\) leaves no time to work"):
        Slurm(time="4", warning=120)


@pytest.mark.parametrize(
    "time", ["", " 60", "60\n", "-1", "1-", "1.5", "1h", "1:2:3:4", "1-2:3:4:5", "1:", "1::2", "2-1-0", "UNLIMITED"]
)
def test_what_is_no_time_is_refused(time: str) -> None:
    with pytest.raises(ValueError, match="not a time; wanted minutes"):
        minutes_of(time)


@pytest.mark.parametrize("time", ["0", "0:00", "0:00:00", "0-0", "0-00:00:00"])
def test_no_time_at_all_is_refused(time: str) -> None:
    with pytest.raises(ValueError, match="the time is zero"):
        minutes_of(time)


@pytest.mark.parametrize(("written", "time"), [("2:30:00", "2:30:00"), ("150", "150"), ("0-2:30", "0-2:30")])
def test_a_time_is_read_as_it_is_written_and_not_as_a_number_in_base_60(
    written: str, time: str, tmp_path: Path
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"data: {{shards: here}}\nslurm:\n  time: {written}\n")
    for read in (load(path), config(f"slurm.time={written}"), config(f"slurm={{time: {written}}}")):
        assert (read.slurm.time, read.slurm.minutes) == (time, 150)


def test_no_setting_at_all_is_read_in_base_60() -> None:
    assert config("fault=1:30").fault == "1:30"
    assert config("slurm.environment={A: 190:20:30.15, B: 1_000, C: 0x10}").slurm.environment == {
        "A": "190:20:30.15",
        "B": 1000,
        "C": 16,
    }


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("1h", "not a time; wanted minutes, hours:minutes:seconds or days-hours:minutes:seconds, got '1h'"),
        ("0", "the time is zero, got 0"),
        ("-5", "not a time"),
        ("1.5", "valid string"),
        ("true", "valid string"),
    ],
)
def test_a_bad_time_is_named_with_its_setting(value: str, why: str) -> None:
    with pytest.raises(ConfigError, match=r"slurm\.time \[command line\]: ") as caught:
        config(f"slurm.time={value}")
    assert why in str(caught.value)


def test_the_dump_repeats_all_of_it(tmp_path: Path) -> None:
    first = config(*FULL)
    path = tmp_path / "config.yaml"
    path.write_text(dump(first))
    assert load(path) == first
    assert first.slurm.model_dump(exclude_defaults=True).keys() == {
        *("partition", "account", "qos", "constraint", "nodes", "gpus_per_node", "tasks_per_node", "cpus_per_task"),
        *("memory_gb", "time", "warning", "python", "setup", "environment", "container", "container_runtime"),
        *("container_options", "sbatch", "srun"),
    }


@pytest.mark.parametrize(
    ("settings", "on_a_node", "in_all"),
    [
        ({}, 1, 1),
        ({"nodes": 3}, 1, 3),
        ({"nodes": 2, "gpus_per_node": 4}, 4, 8),
        ({"nodes": 3, "tasks_per_node": 2}, 2, 6),
        ({"nodes": 2, "gpus_per_node": 4, "tasks_per_node": 1}, 1, 2),
    ],
)
def test_ranks_are_those_of_the_tasks_or_of_the_gpus(settings: dict[str, int], on_a_node: int, in_all: int) -> None:
    slurm = Slurm(**settings)
    assert (slurm.ranks_per_node, slurm.ranks) == (on_a_node, in_all)


def test_unknown_settings_are_named_with_the_nearest_ones() -> None:
    with pytest.raises(ConfigError, match="3 problems") as caught:
        config("slurm.nodse=2", "slurm.gpus_per_nod=4", "slrum.time=5")
    message = str(caught.value)
    assert "slurm.nodse [command line]: unknown setting; did you mean slurm.nodes" in message
    assert "slurm.gpus_per_nod [command line]: unknown setting; did you mean slurm.gpus_per_node" in message
    assert "slrum [command line]: unknown setting; did you mean slurm" in message


@pytest.mark.parametrize(
    "override",
    [
        "nodes=0",
        "gpus_per_node=-1",
        "tasks_per_node=0",
        "cpus_per_task=0",
        "memory_gb=0",
        "warning=0",
        "warning=3601",
        "max_requeues=-1",
        "max_restarts=-1",
        "array_limit=0",
        "container_runtime=docker",
        "setup=module load cuda",
        "sbatch={a: [1]}",
    ],
)
def test_values_out_of_range_are_refused(override: str) -> None:
    with pytest.raises(ConfigError, match=rf"^\d problems? in the settings\n  - slurm\.{override.partition('=')[0]}"):
        config(f"slurm.{override}")
