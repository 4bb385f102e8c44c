"""Jobs of a run, of a chain, of an array: what is written and queued, and what is left after a refusal."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
from submitit.core.utils import DelayedSubmission

from colocam_dist.config import Config, load
from colocam_dist.errors import ClusterError, ColocamError, ConfigError, DataError, RunError
from colocam_dist.runs.folder import RunFolder
from colocam_dist.slurm.record import DONE, Part, SlurmFolder, Submission
from colocam_dist.slurm.submission import Order, array_configs, order, order_again, scripts, submit

MARK = '{"stages": ["classifier", "cams", "localizer", "evaluate"]}'


STAGES = ("classifier", "cams", "localizer", "evaluate")
CHAIN = (*(Part((stage,), f"done-{stage}.json") for stage in STAGES[:-1]), Part(STAGES[-1:], DONE))


@pytest.fixture(autouse=True)
def _desk(fake_slurm: Any, small_package: Path) -> None:
    """A cluster that takes everything, a working folder, and a package that is quickly copied."""
    fake_slurm.cluster()


@pytest.fixture
def settings(tiny_shards: Path) -> list[str]:
    return [f"data.shards={tiny_shards}", "run.name=a", "model.weights=none", "slurm.python=python"]


def asked(settings: list[str], *overrides: str, arrays: tuple[str, ...] = (), chain: bool = False) -> Order:
    return order(array_configs(None, [*settings, *overrides], arrays), "a", chain=chain)


def names_and_values(configs: list[Config]) -> list[tuple[str, int, int]]:
    return [(config.run.name, config.run.seed, config.data.n_frames) for config in configs]


def test_without_an_array_there_is_one_run(settings: list[str]) -> None:
    assert array_configs(None, settings, []) == [load(None, settings)]


def test_an_array_is_a_run_for_each_combination(settings: list[str], tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("run: {name: sweep, seed: 9}\ndata: {shards: here, n_frames: 8}\n")
    assert names_and_values(array_configs(path, [], ["run.seed=0,1,2"])) == [
        ("sweep.seed-0", 0, 8),
        ("sweep.seed-1", 1, 8),
        ("sweep.seed-2", 2, 8),
    ]
    product = array_configs(path, ["run.name=b", "run.seed=5"], ["run.seed=3,4", "data.n_frames=1,2"])
    assert names_and_values(product) == [
        ("b.seed-3.n_frames-1", 3, 1),
        ("b.seed-3.n_frames-2", 3, 2),
        ("b.seed-4.n_frames-1", 4, 1),
        ("b.seed-4.n_frames-2", 4, 2),
    ]


@pytest.mark.parametrize("axis", ["run.seed", "run.seed=", "run.seed=0,,1", "run.seed=0,", "", "run.seed=0,1,0"])
def test_what_is_no_axis_is_refused(axis: str, settings: list[str]) -> None:
    with pytest.raises(ConfigError, match="not an axis of an array") as caught:
        array_configs(None, settings, ["data.n_frames=1,2", axis])
    assert caught.value.got == axis


@pytest.mark.parametrize(
    ("axis", "why"), [("run.sead=0,1", "did you mean run.seed"), ("run.seed=0,x", "valid integer"), ("=0,1", "unknown")]
)
def test_the_values_of_an_axis_are_checked_as_all_settings(axis: str, why: str, settings: list[str]) -> None:
    with pytest.raises(ConfigError, match=why):
        array_configs(None, settings, [axis])


def test_an_order_says_all_that_later_commands_must_know(settings: list[str], tmp_path: Path) -> None:
    limits = ("slurm.max_requeues=7", "slurm.max_restarts=2", "slurm.warning=60")
    made = asked(settings, *limits, "run.folder=out")
    assert made.submission == Submission((str(tmp_path / "out/a"),), (Part(STAGES),), str(tmp_path), 7, 2, 60)
    assert made.folder.run == tmp_path / "out/a"
    assert list(made.part_numbers) == [0]
    assert asked(settings, chain=True).submission.parts == CHAIN
    assert asked(settings, "run.stages=[cams]", chain=True).submission.parts == (Part(("cams",)),)
    assert list(tmp_path.iterdir()) == [], "nothing is written before all checks"


def test_an_order_of_an_array_has_a_folder_for_the_group(settings: list[str], tmp_path: Path) -> None:
    made = asked(settings, arrays=("run.seed=0,1",))
    assert made.submission.runs == tuple(str(tmp_path / "runs" / name) for name in ("a.seed-0", "a.seed-1"))
    assert made.folder.run == tmp_path / "runs/a"


@pytest.mark.parametrize(
    ("overrides", "error", "why"),
    [
        (["data.shards=nowhere"], DataError, "nowhere"),
        (["data.validation_split=nope"], DataError, "nope"),
        (["data.split=nope"], DataError, "nope"),
        (["slurm.nodes=3"], ConfigError, "over 3 ranks x 1 accumulation"),
        (["slurm.tasks_per_node=4", "engine.accumulation=4"], ConfigError, "4 ranks x 4 accumulation steps"),
        (["engine.device=cuda"], ConfigError, "slurm.gpus_per_node"),
        (["engine.device=auto", "engine.precision=bf16"], ConfigError, "slurm.gpus_per_node"),
        (["model.weights=nowhere.pt"], ColocamError, "there is no such file of weights"),
        (["classifier.from_run=nowhere"], RunError, "not a run folder"),
    ],
)
def test_what_would_fail_on_the_nodes_is_refused_here(
    overrides: list[str], error: type[ColocamError], why: str, settings: list[str], tmp_path: Path, fake_slurm: Any
) -> None:
    with pytest.raises(error, match=why):
        asked(settings, *overrides)
    assert list(tmp_path.iterdir()) == []
    assert fake_slurm.calls("sbatch") == []


def test_a_run_that_exists_is_refused_or_resumed(settings: list[str]) -> None:
    RunFolder.create(load(None, [*settings, "run.name=a.seed-1"]))
    for overrides, arrays in ((["run.name=a.seed-1"], ()), ([], ("run.seed=0,1",))):
        with pytest.raises(RunError, match="a run of this name exists"):
            asked(settings, *overrides, arrays=arrays)
    assert asked(settings, "run.name=a.seed-1", "run.on_exists=resume").first_part == 0


def test_what_a_refused_start_has_left_is_in_nobodys_way(settings: list[str], tmp_path: Path) -> None:
    config = load(None, [*settings, "run.name=refused"])
    RunFolder.create(config).write_json("failed.json", {"error": "the batch does not divide"})
    before = sorted((config.run.folder / "refused").iterdir())
    asked(settings, "run.name=refused")
    assert sorted((config.run.folder / "refused").iterdir()) == before, "an order writes nothing"


def test_scripts_of_a_chain_wait_for_each_other(settings: list[str]) -> None:
    texts = scripts(asked(settings, chain=True))
    waits = [[line for line in text.splitlines() if "--dependency" in line] for text in texts]
    assert waits == [[], *[["#SBATCH --dependency=afterok:JOB"]] * 3]
    assert [f"--part {number} " in text for number, text in enumerate(texts)] == [True] * 4
    (array,) = scripts(asked(settings, arrays=("run.seed=0,1",)))
    assert "#SBATCH --array=0-1%2" in array


def job_script(folder: SlurmFolder, name: str) -> list[str]:
    return (folder.logs / f"{name}_submission.sh").read_text().splitlines()


def call_of(folder: SlurmFolder, job: str) -> tuple[str, int]:
    """What the ranks of a job will call."""
    call = DelayedSubmission.load(folder.logs / f"{job}_submitted.pkl").function
    return call.folder, call.part


def test_a_submitted_run_has_all_that_its_job_needs(settings: list[str], fake_slurm: Any) -> None:
    made = asked(settings)
    assert submit(made) == ["101"]
    folder = SlurmFolder.open(made.folder.run)
    assert folder.jobs() == {0: "101"}
    assert load(folder.run / "config.yaml") == made.configs[0]
    assert job_script(folder, "101") == scripts(made)[0].splitlines()
    assert fake_slurm.read("tested") == scripts(made)[0], "what is tried is what is queued"
    assert call_of(folder, "101") == (str(folder.run), 0)
    assert (folder.code / "colocam_dist/code.py").is_file()
    written = json.loads((folder.path / "submission.json").read_text())
    assert written["code"].keys() >= {"version"}
    assert (written["parts"], written["working_folder"]) == (
        [{"stages": list(STAGES), "marker": "done.json"}],
        str(Path.cwd()),
    )
    assert {path.name for path in folder.run.iterdir()} == {"config.yaml", "slurm"}
    assert not [path for path in folder.logs.iterdir() if path.name.startswith("tmp")]


def test_every_part_of_a_chain_waits_for_the_one_before(settings: list[str]) -> None:
    made = asked(settings, chain=True)
    assert submit(made) == ["101", "102", "103", "104"]
    assert made.folder.jobs() == {0: "101", 1: "102", 2: "103", 3: "104"}
    for part, job in made.folder.jobs().items():
        assert call_of(made.folder, job) == (str(made.folder.run), part)
        wait = f"#SBATCH --dependency=afterok:{int(job) - 1}"
        assert (wait in job_script(made.folder, job)) == (part > 0)


def test_an_array_is_one_job_of_tasks(settings: list[str], tmp_path: Path, fake_slurm: Any) -> None:
    made = asked(settings, arrays=("run.seed=0,1",), chain=True)
    assert submit(made) == ["101", "102", "103", "104"]
    assert made.folder.all_jobs() == [f"{job}_{task}" for job, task in itertools.product(range(101, 105), (0, 1))]
    for part, job in made.folder.jobs().items():
        text = job_script(made.folder, job)
        assert "#SBATCH --array=0-1%2" in text
        assert (f"#SBATCH --dependency=aftercorr:{int(job) - 1}" in text) == (part > 0)
        assert [call_of(made.folder, f"{job}_{task}") for task in (0, 1)] == [(str(tmp_path / "runs/a"), part)] * 2
    assert [load(tmp_path / f"runs/a.seed-{seed}/config.yaml").run.seed for seed in (0, 1)] == [0, 1]
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"a", "a.seed-0", "a.seed-1"}


def test_a_job_that_is_submitted_inside_of_another_one_takes_nothing_over(
    settings: list[str], fake_slurm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_CONF": "/etc/slurm.conf"}
    for name, value in inside.items():
        monkeypatch.setenv(name, value)
    submit(asked(settings))
    assert fake_slurm.read("environment") == "SLURM_CONF=/etc/slurm.conf\n"
    assert inside.items() <= dict(os.environ).items()


def refuse_after(fake_slurm: Any, job: int) -> None:
    fake_slurm.set("last", str(job))


def test_after_a_refusal_nothing_new_is_left_and_earlier_parts_are_cancelled(
    settings: list[str], tmp_path: Path, fake_slurm: Any
) -> None:
    refuse_after(fake_slurm, 102)
    with pytest.raises(ClusterError, match="SLURM refuses") as caught:
        submit(asked(settings, arrays=("run.seed=0,1",), chain=True))
    assert caught.value.got == "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy"
    assert fake_slurm.calls("scancel") == [["101"], ["102"]]
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize(
    ("sbatch", "got"),
    [
        ("exit 1", "no reason is given"),
        ("echo 'accepted, but I say no number'", "Could not make sense of sbatch output "),
    ],
)
def test_an_sbatch_that_says_nothing_of_use_is_reported(
    sbatch: str, got: str, settings: list[str], tmp_path: Path, fake_slurm: Any
) -> None:
    fake_slurm.add("sbatch", f'case "$1" in --*) exit ;; esac; {sbatch}')
    with pytest.raises(ClusterError, match="SLURM refuses") as caught:
        submit(asked(settings))
    assert str(caught.value.got).startswith(got)
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_run_that_was_there_before_stays_after_a_refusal(settings: list[str], fake_slurm: Any) -> None:
    submit(asked(settings))
    refuse_after(fake_slurm, 101)
    again = asked(settings, "run.on_exists=resume")
    with pytest.raises(ClusterError, match="SLURM refuses"):
        submit(again)
    assert again.folder.jobs() == {0: "101"}
    assert (again.folder.run / "config.yaml").exists()


@pytest.mark.parametrize(
    ("break_it", "why"),
    [
        ("sinfo", "the nodes do not see"),
        ("scontrol", "longer than the partition allows"),
        ("sbatch", "SLURM refuses"),
        (None, "SLURM is not here"),
    ],
)
def test_a_refusal_before_anything_is_written(
    break_it: str | None, why: str, settings: list[str], tmp_path: Path, fake_slurm: Any
) -> None:
    bodies = {"scontrol": "echo PartitionName=main Default=YES MaxTime=00:30:00", "sbatch": "exit 1"}
    if break_it == "sinfo":
        fake_slurm.add("srun", "echo missing something on vn1")
    elif break_it is None:
        fake_slurm.remove("sbatch")
    else:
        fake_slurm.add(break_it, bodies[break_it])
    with pytest.raises(ClusterError, match=why):
        submit(asked(settings))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("state", ["PENDING", "COMPLETING"])
def test_a_run_with_a_job_that_is_not_over_is_not_submitted_again(
    state: str, settings: list[str], fake_slurm: Any
) -> None:
    submit(asked(settings))
    fake_slurm.queue(f"101|{state}|None|vn1|0:01|1:00:00|N/A")
    with pytest.raises(ClusterError, match="has a job that is not over") as caught:
        submit(asked(settings, "run.on_exists=resume"))
    assert caught.value.got == f"job 101 {state}"
    fake_slurm.queue("101|CANCELLED|None|vn1|0:01|1:00:00|N/A")
    assert submit(asked(settings, "run.on_exists=resume")) == ["102"]


def test_what_is_done_stays_done_and_what_failed_is_forgotten(settings: list[str]) -> None:
    made = asked(settings)
    submit(made)
    for ending in (DONE, "failed.json", "preempted.json"):
        (made.folder.run / ending).write_text(MARK)
    submit(asked(settings, "run.on_exists=resume"))
    assert [path.name for path in made.folder.run.iterdir() if path.suffix == ".json"] == [DONE]


def test_a_name_is_submitted_once(settings: list[str]) -> None:
    made = asked(settings, arrays=("run.seed=0,1",))
    submit(made)
    with pytest.raises(RunError, match="submitted before"):
        asked(settings, arrays=("run.seed=2,3",))
    with pytest.raises(ClusterError, match="task of an array"):
        SlurmFolder.open(Path(made.submission.runs[0]))


def test_tasks_of_an_array_have_the_same_resources(settings: list[str]) -> None:
    with pytest.raises(ConfigError, match="different resources"):
        asked(settings, arrays=("slurm.nodes=1,2",))
    with pytest.raises(ConfigError, match="different resources"):
        asked(settings, arrays=("data.workers=0,1",))


@pytest.mark.parametrize("override", ["run.name=b", "run.seed=5", "run.stages=[evaluate]", "run={name: b}"])
def test_again_is_the_same_run(chain: SlurmFolder, override: str) -> None:
    with pytest.raises(ConfigError, match="keeps its name, seed and stages"):
        order_again(chain, [override])


@pytest.fixture
def chain(settings: list[str]) -> SlurmFolder:
    """A submitted chain of four parts, of which the first one is done."""
    made = asked(settings, chain=True)
    submit(made)
    (made.folder.run / "done-classifier.json").write_text(MARK)
    return made.folder


def test_again_takes_only_what_is_not_done(chain: SlurmFolder) -> None:
    again = order_again(chain, ["slurm.time=45", "slurm.max_restarts=9"])
    assert list(again.part_numbers) == [1, 2, 3]
    assert again.submission.max_restarts == 9
    assert submit(again, snapshot=False) == ["105", "106", "107"]
    assert chain.jobs() == {0: "101", 1: "105", 2: "106", 3: "107"}
    assert chain.read().max_restarts == 9
    texts = [job_script(chain, str(job)) for job in (105, 106, 107)]
    waits = [[line for line in text if "--dependency" in line] for text in texts]
    assert waits == [[], ["#SBATCH --dependency=afterok:105"], ["#SBATCH --dependency=afterok:106"]]
    assert all("#SBATCH --time=45" in text for text in texts)
    assert (chain.run / "done-classifier.json").exists()
    assert load(chain.run / "config.yaml").run.on_exists == "resume"


def test_again_keeps_the_code_unless_it_is_told_otherwise(chain: SlurmFolder) -> None:
    (chain.code / "mark").touch()
    chain.write(Submission(**{**vars(chain.read()), "code": {"version": "old"}}))
    submit(order_again(chain, []), snapshot=False)
    assert (chain.code / "mark").exists()
    assert chain.read().code == {"version": "old"}
    submit(order_again(chain, []), snapshot=True)
    assert not (chain.code / "mark").exists()
    assert chain.read().code["version"] != "old"


def test_again_may_not_change_what_is_computed(chain: SlurmFolder) -> None:
    with pytest.raises(RunError, match=r"data\.n_frames \(4 -> 2\)"):
        submit(order_again(chain, ["data.n_frames=2"]))
    with pytest.raises(ConfigError, match=r"slurm\.nodse"):
        order_again(chain, ["slurm.nodse=2"])
    with pytest.raises(ConfigError, match="over 3 ranks"):
        order_again(chain, ["slurm.nodes=3"])


def test_nothing_is_left_when_all_parts_are_done(chain: SlurmFolder) -> None:
    for part in CHAIN:
        (chain.run / part.marker).write_text(MARK)
    with pytest.raises(ClusterError, match="nothing is left to do"):
        order_again(chain, [])


def test_a_part_of_an_array_is_queued_again_if_one_run_has_not_done_it(settings: list[str], tmp_path: Path) -> None:
    made = asked(settings, arrays=("run.seed=0,1",), chain=True)
    submit(made)
    for run, stages in (("a.seed-0", ("classifier", "cams", "localizer")), ("a.seed-1", ("classifier",))):
        for stage in stages:
            (tmp_path / "runs" / run / f"done-{stage}.json").write_text(MARK)
    again = order_again(made.folder, [])
    assert list(again.part_numbers) == [1, 2, 3]
    assert [config.run.seed for config in again.configs] == [0, 1]


def test_nodes_are_looked_at_unless_it_was_done_before(settings: list[str], fake_slurm: Any) -> None:
    submit(asked(settings), look=False)
    assert fake_slurm.calls("srun") == []
    fake_slurm.queue("101|COMPLETED|None|vn1|0:01|1:00:00|N/A")
    submit(asked(settings, "run.on_exists=resume"))
    assert len(fake_slurm.calls("srun")) == 1
