"""A trial from its first process to its last figure, with work that is done by a script of steps."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from colocam_dist.config import Config
from tune import running
from tune.executors import WorkError
from tune.executors.local import LocalWork
from tune.folder import Record
from tune.running import OpenStudy, TrialRunner
from tune.space import BORN

ROOT = Path(__file__).parents[2]
POINT = {"data.n_frames": "2", "run.seed": 0}
Step = Callable[[Record], object]


class FakeWork(LocalWork):
    """Each look at it does the next step; it lives until none is left."""

    def __init__(self, record: Record, steps: Sequence[Step], killed: bool = False) -> None:
        super().__init__(record, 1, 0)
        self._steps = list(steps)
        self._killed = killed
        self.begun: list[Config] = []
        self.ended = 0

    def begin(self, config: Config) -> None:
        self.begun.append(config)

    def living(self) -> bool:
        if self._steps:
            self._steps.pop(0)(self._record)
            return True
        return False

    def leave(self) -> None:
        self.ended += 1

    @property
    def killed(self) -> bool:
        return self._killed

    def last_words(self) -> str:
        return "last words"


class Crew:
    """Does the works of a study: by default classifiers succeed, and trials give three rows and succeed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fake_runs: Any) -> None:
        self.works: list[FakeWork] = []
        self.of_classifiers: Sequence[Step] = (
            lambda record: fake_runs.rows(record.run, [11.0, 33.0, 22.0], stage="classifier"),
            lambda record: fake_runs.done(record.run),
        )
        self.of_trials: Sequence[Step] = (
            lambda record: fake_runs.rows(record.run, [10.0, 30.0]),
            lambda record: fake_runs.rows(record.run, [20.0], first=3),
            lambda record: fake_runs.done(record.run),
        )
        self.killed = False
        monkeypatch.setattr(running, "_LOOK_EVERY", 0.002)
        monkeypatch.setattr(OpenStudy, "work", lambda study, record: self._work(record))

    def _work(self, record: Record) -> FakeWork:
        steps = self.of_trials if record.kind == "trial" else self.of_classifiers
        self.works.append(FakeWork(record, steps, self.killed))
        return self.works[-1]

    def begun(self, kind: str) -> list[Config]:
        """Settings of what was started."""
        return [config for work in self.works if work._record.kind == kind for config in work.begun]


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch, fake_runs: Any) -> Crew:
    return Crew(monkeypatch, fake_runs)


@pytest.fixture
def study(desk: Any) -> OpenStudy:
    return desk.open()


def rows_of(runner: TrialRunner) -> list[dict[str, Any]]:
    """All that it gives."""
    rows = [runner.next()]
    while not rows[-1]["done"]:
        rows.append(runner.next())
    return rows


def figures(rows: Sequence[dict[str, Any]]) -> list[tuple[int, float, float, bool]]:
    return [(row["epoch"], row["corloc"], row["best_corloc"], row["done"]) for row in rows]


WHOLE = [(1, 10.0, 10.0, False), (2, 30.0, 30.0, False), (3, 20.0, 30.0, True)]


def test_rows_come_in_order_and_the_last_one_when_the_run_is_done(study: OpenStudy, crew: Crew, fake_runs: Any) -> None:
    runner = TrialRunner(study, POINT)
    told_done = []
    crew.of_trials = (
        lambda record: fake_runs.rows(record.run, [10.0, 30.0, 20.0]),
        lambda record: told_done.append(runner.record.end),  # as long as it evaluates
        lambda record: told_done.append(runner.record.end),
        lambda record: fake_runs.done(record.run),
    )
    rows = rows_of(runner)
    assert figures(rows) == WHOLE
    assert {row["id"] for row in rows} == {runner.record.id}
    assert told_done == [None, None]
    assert runner.record.end is not None
    assert runner.record.end["state"] == "finished"


def test_a_trial_that_is_over_gives_the_same_rows_and_starts_nothing(study: OpenStudy, crew: Crew) -> None:
    rows = rows_of(TrialRunner(study, POINT))
    crew.works.clear()
    assert rows_of(TrialRunner(study, POINT)) == rows
    assert crew.works == []


def test_what_a_killed_driver_did_not_write_down_is_found(study: OpenStudy, crew: Crew, fake_runs: Any) -> None:
    fake_runs.trial(study, POINT, [10.0, 30.0, 20.0])
    fake_runs.done(study.trial(POINT).run)
    assert figures(rows_of(TrialRunner(study, POINT))) == WHOLE
    assert crew.begun("trial") == crew.begun("classifier") == []


def test_an_interrupted_trial_gives_its_rows_and_goes_on(study: OpenStudy, crew: Crew, fake_runs: Any) -> None:
    fake_runs.trial(study, POINT, [10.0, 30.0])
    crew.of_trials = crew.of_trials[1:]
    runner = TrialRunner(study, POINT)
    assert figures([runner.next(), runner.next()]) == WHOLE[:2]
    assert crew.works == [], "nothing is started for rows that are there"
    assert figures([runner.next()]) == WHOLE[2:]
    (config,) = crew.begun("trial")
    assert config.run.on_exists == "resume"


def test_of_a_stopped_trial_the_rows_that_the_scheduler_saw_come_again(
    study: OpenStudy, crew: Crew, fake_runs: Any
) -> None:
    fake_runs.trial(study, POINT, [10.0, 30.0, 20.0], state="stopped", epoch=1)
    assert figures(rows_of(TrialRunner(study, POINT))) == [(1, 10.0, 10.0, False), (1, 10.0, 10.0, True)]
    other = {**POINT, "run.seed": 1}
    fake_runs.trial(study, other, [10.0, 30.0], state="stopped")
    assert figures(rows_of(TrialRunner(study, other))) == [*WHOLE[:2], (2, 30.0, 30.0, True)]
    assert crew.works == []


def test_a_failure_is_told_with_its_traceback_now_and_later(study: OpenStudy, crew: Crew, fake_runs: Any) -> None:
    crew.of_trials = (
        lambda record: fake_runs.rows(record.run, [10.0]),
        lambda record: fake_runs.failed(record.run, "loss is NaN", "Traceback\n  line 3"),
    )
    for attempt in range(2):
        runner = TrialRunner(study, POINT)
        assert figures([runner.next()]) == WHOLE[:1]
        with pytest.raises(WorkError, match="loss is NaN") as caught:
            runner.next()
        assert caught.value.traceback == "Traceback\n  line 3"
        assert len(crew.begun("trial")) == 1, attempt
    assert study.trial(POINT).end is not None


def test_an_end_without_a_word_is_a_failure_with_the_last_words(study: OpenStudy, crew: Crew) -> None:
    crew.of_trials = ()
    with pytest.raises(WorkError, match="ended without saying why") as caught:
        TrialRunner(study, POINT).next()
    assert caught.value.traceback == "last words"
    end = study.trial(POINT).end
    assert end is not None
    assert (end["state"], end["traceback"]) == ("failed", "last words")


@pytest.mark.parametrize("killed", [False, True])
def test_who_was_interrupted_has_not_failed(killed: bool, study: OpenStudy, crew: Crew, fake_runs: Any) -> None:
    usual = crew.of_trials
    crew.killed = killed
    crew.of_trials = () if killed else (lambda record: (record.run / "preempted.json").write_text("{}"),)
    rows_of_classifier = study.classifier_settings(POINT)
    assert rows_of_classifier is not None
    fake_runs.done(study.classifier(rows_of_classifier).run)
    study.trial(POINT).run.mkdir(parents=True)
    runner = TrialRunner(study, POINT)
    with pytest.raises(WorkError, match="were killed" if killed else "asked to leave"):
        runner.next()
    assert runner.record.end is None
    runner.leave()
    crew.of_trials = usual
    (runner.record.run / "preempted.json").unlink(missing_ok=True)  # as a new start does
    assert figures(rows_of(TrialRunner(study, POINT))) == WHOLE


def test_what_the_scheduler_decided_meanwhile_stands(study: OpenStudy, crew: Crew, fake_runs: Any) -> None:
    crew.of_trials = (
        lambda record: fake_runs.rows(record.run, [10.0]),
        lambda record: record.finish("stopped", epoch=1),
        lambda record: (record.run / "preempted.json").write_text("{}"),
    )
    runner = TrialRunner(study, POINT)
    assert figures(rows_of(runner)) == [WHOLE[0], (1, 10.0, 10.0, True)]


def test_when_the_session_ends_so_does_waiting(study: OpenStudy, crew: Crew) -> None:
    crew.of_trials = (lambda record: study.folder.leave_path.touch(),)
    runner = TrialRunner(study, POINT)
    with pytest.raises(WorkError, match="the study was asked to stop"):
        runner.next()
    assert runner.record.end is None
    (work,) = (work for work in crew.works if work._record.kind == "trial")
    assert work.ended == 0
    runner.leave()
    assert work.ended == 1
    claim = runner.record.claim()
    assert claim is not None
    claim.close()


def test_when_the_session_ends_a_classifier_is_asked_to_leave(study: OpenStudy, crew: Crew) -> None:
    crew.of_classifiers = (lambda record: study.folder.leave_path.touch(), lambda record: None)
    runner = TrialRunner(study, POINT)
    with pytest.raises(WorkError, match="the study was asked to stop"):
        runner.next()
    runner.leave()
    assert [work.ended for work in crew.works if work._record.kind == "classifier"] == [1]
    (classifier,) = study.folder.records("classifier")
    assert classifier.end is None


def test_a_run_has_its_place_and_its_share_of_the_machine(desk: Any, crew: Crew) -> None:
    study = desk.open(resources={"cpus": 5, "ranks": 2})
    point = {"data.n_frames": "4", "run.seed": 0}
    record = TrialRunner(study, point).record
    rows_of(TrialRunner(study, point))
    (classifier,), (trial,) = crew.begun("classifier"), crew.begun("trial")
    assert (trial.run.folder, trial.run.name, trial.run.on_exists) == (record.run.parent, record.id, "resume")
    assert trial.data.n_frames == 4
    assert trial.engine.threads == classifier.engine.threads == 2
    assert trial.run.stages == ("localizer", "evaluate")
    assert trial.classifier.from_run == classifier.run.folder / classifier.run.name
    assert classifier.run.stages == ("classifier", "cams")
    study = desk.open("engine.threads=7", name="t", resources={"cpus": 5})
    rows_of(TrialRunner(study, point))
    assert crew.begun("trial")[-1].engine.threads == 7


def test_a_record_says_what_the_trial_is(study: OpenStudy, crew: Crew) -> None:
    runner = TrialRunner(study, {"data.n_frames": "4", "run.seed": 0}, parent="other", member="1 x")
    facts = runner.record.facts
    assert facts["point"] == {"data.n_frames": "4", "run.seed": 0}
    assert facts["shown"] == {"data.n_frames": 4}
    assert facts["settings"] == ["data.n_frames=4", "run.seed=0"]
    assert (facts["seed"], facts["epochs"], facts["encoder"]) == (0, 3, "resnet18")
    assert facts["parent"] is None, "only what was born of another trial has a parent"
    assert runner.record.member == "1 x"
    settings = study.classifier_settings(POINT)
    assert settings is not None
    assert facts["shared"] == study.classifier(settings).id


SPACE = {
    "data.n_frames": [1, 2],
    "localizer.optimizer.lr": [0.1, 0.2],
    "data.sampling": ["adjacent", "gaussian"],
    "model.encoder": ["resnet18", "vgg16"],
    "classifier.epochs": [1, 2],
    "data.drop_shots": [0, 1],
}


@pytest.mark.parametrize(
    ("dimension", "value", "same"),
    [
        ("data.n_frames", "1", True),
        ("localizer.optimizer.lr", "0.2", True),
        ("data.sampling", "gaussian", True),
        ("model.encoder", "vgg16", False),
        ("classifier.epochs", "2", False),
        ("data.drop_shots", "1", False),
        ("run.seed", 1, False),
    ],
)
def test_trials_share_a_classifier_if_it_is_the_same(dimension: str, value: Any, same: bool, desk: Any) -> None:
    study = desk.open(space=SPACE)
    point = {name: str(values[0]) for name, values in SPACE.items()} | {"data.n_frames": "2", "run.seed": 0}
    assert point[dimension] != value
    one, other = (study.classifier_settings(point), study.classifier_settings({**point, dimension: value}))
    assert (study.classifier(one).id == study.classifier(other).id) == same
    assert study.trial(point).id != study.trial({**point, dimension: value}).id


def test_what_a_classifier_has_no_part_in_can_be_said(desk: Any) -> None:
    apart = ["localizer", "classifier.epochs"]
    study = desk.open(
        space={"classifier.epochs": [1, 2], "classifier.optimizer.lr": [0.1, 0.2]}, one_classifier_for=apart
    )
    ids = {
        (epochs, lr): study.classifier(
            study.classifier_settings({"classifier.epochs": epochs, "classifier.optimizer.lr": lr, "run.seed": 0})
        ).id
        for epochs in ("1", "2")
        for lr in ("0.1", "0.2")
    }
    assert ids["1", "0.1"] == ids["2", "0.1"] != ids["1", "0.2"] == ids["2", "0.2"]


def test_the_second_trial_finds_the_classifier_of_the_first(study: OpenStudy, crew: Crew) -> None:
    for n_frames in ("1", "2", "4"):
        rows_of(TrialRunner(study, {"data.n_frames": n_frames, "run.seed": 0}))
    rows_of(TrialRunner(study, {"data.n_frames": "1", "run.seed": 1}))
    assert [config.run.seed for config in crew.begun("classifier")] == [0, 1]
    assert len({config.classifier.from_run for config in crew.begun("trial")}) == 2


def test_a_classifier_that_fails_takes_its_trials_with_it(study: OpenStudy, crew: Crew, fake_runs: Any) -> None:
    crew.of_classifiers = (lambda record: fake_runs.failed(record.run, "no data", "Traceback of it"),)
    for n_frames in ("1", "2"):
        runner = TrialRunner(study, {"data.n_frames": n_frames, "run.seed": 0})
        with pytest.raises(WorkError, match="the classifier that it needs has failed: no data") as caught:
            runner.next()
        assert caught.value.traceback == "Traceback of it"
        assert runner.record.end is not None
        assert runner.record.end["state"] == "failed"
        runner.leave()
    assert len(crew.begun("classifier")) == 1, "it is not tried again for the second one"
    assert crew.begun("trial") == []


def test_a_run_with_a_classifier_of_another_one_trains_none(desk: Any, crew: Crew) -> None:
    study = desk.open("classifier.from_run=elsewhere", "run.stages=[localizer,evaluate]")
    assert study.classifier_settings(POINT) is None
    assert figures(rows_of(TrialRunner(study, POINT))) == WHOLE
    assert crew.begun("classifier") == []
    assert crew.begun("trial")[0].classifier.from_run == Path("elsewhere")
    assert study.trial(POINT).facts["shared"] is None


LAYERCAM = {
    "method": {
        "LayerCAM": {"run.stages": ["classifier", "cams", "evaluate"]},
        "bare": {"run.stages": ["classifier", "cams"]},
        "CoLo-CAM": {},
    }
}


@pytest.mark.parametrize(("method", "left"), [("LayerCAM", ("evaluate",)), ("bare", ())])
def test_a_trial_without_stage_2_has_the_figure_of_its_classifier(
    method: str, left: tuple[str, ...], desk: Any, crew: Crew, fake_runs: Any
) -> None:
    study = desk.open(space=LAYERCAM)
    point = {"method": method, "run.seed": 0}
    crew.of_trials = (lambda record: fake_runs.done(record.run),)
    runner = TrialRunner(study, point)
    assert figures(rows_of(runner)) == [(0, 33.0, 33.0, True)]
    assert runner.record.facts["epochs"] == 0
    assert crew.begun("trial")[0].run.stages == left
    (classifier,) = study.folder.records("classifier")
    assert classifier.id != runner.record.id, "not even if the trial is nothing else"
    assert study.classifier(study.classifier_settings({"method": "CoLo-CAM", "run.seed": 0})).id == classifier.id
    assert figures(rows_of(TrialRunner(study, point))) == [(0, 33.0, 33.0, True)]


@pytest.mark.parametrize("corlocs", [[40.0], [40.0, 11.0, 33.0]], ids=["no epochs", "best before the first"])
def test_an_untrained_classifier_may_be_the_figure_of_a_trial_without_stage_2(
    corlocs: list[float], desk: Any, crew: Crew, fake_runs: Any
) -> None:
    crew.of_classifiers = (
        lambda record: fake_runs.rows(record.run, corlocs, stage="classifier", first=0),
        lambda record: fake_runs.done(record.run),
    )
    crew.of_trials = (lambda record: fake_runs.done(record.run),)
    runner = TrialRunner(desk.open(space=LAYERCAM), {"method": "LayerCAM", "run.seed": 0})
    assert figures(rows_of(runner)) == [(0, 40.0, 40.0, True)]


def test_schedulers_do_not_see_the_untrained_network(study: OpenStudy, crew: Crew, fake_runs: Any) -> None:
    crew.of_trials = (lambda record: fake_runs.rows(record.run, [90.0], first=0), *crew.of_trials)
    assert figures(rows_of(TrialRunner(study, POINT))) == WHOLE


def test_a_classifier_without_validation_gives_nothing(desk: Any, crew: Crew, fake_runs: Any) -> None:
    crew.of_classifiers = crew.of_trials = (lambda record: fake_runs.done(record.run),)
    study = desk.open(space=LAYERCAM)
    assert figures(rows_of(TrialRunner(study, {"method": "LayerCAM", "run.seed": 0}))) == [(0, 0.0, 0.0, True)]


FOLLOWED = """
from tune.running import OpenStudy
with OpenStudy.at(Path(sys.argv[1])).folder.trial(sys.argv[2]).lock(lambda: None):
"""


@pytest.fixture
def elsewhere(study: OpenStudy, other_process: Any) -> Iterator[subprocess.Popen[str]]:
    """Another process that does the trial of POINT."""
    from colocam_dist.config import dump

    study.folder.path.mkdir(parents=True)
    study.folder.settings_path.write_text(dump(study.file))
    with other_process(FOLLOWED.strip(), study.folder.path, study.trial(POINT).id) as other:
        yield other


def test_a_trial_that_another_process_does_is_followed(
    study: OpenStudy, crew: Crew, fake_runs: Any, elsewhere: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = study.trial(POINT)
    runner = TrialRunner(study, POINT)
    news: Iterator[Callable[[], object]] = iter(
        [
            lambda: fake_runs.rows(record.run, [10.0, 30.0]),
            lambda: fake_runs.rows(record.run, [20.0], first=3),
            lambda: fake_runs.done(record.run),
            lambda: record.finish("finished"),
        ]
    )
    monkeypatch.setattr("tune.running.time.sleep", lambda seconds: next(news)())
    assert figures(rows_of(runner)) == WHOLE
    assert crew.works == []


def test_a_trial_whose_process_is_gone_is_taken_over(
    study: OpenStudy, crew: Crew, fake_runs: Any, elsewhere: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = TrialRunner(study, POINT)
    looks = []

    def pause(seconds: float) -> None:
        looks.append(len(crew.works))
        if len(looks) == 3:
            elsewhere.kill()
            elsewhere.wait()

    monkeypatch.setattr("tune.running.time.sleep", pause)
    assert figures(rows_of(runner)) == WHOLE
    assert looks[:3] == [0, 0, 0]
    assert len(crew.begun("trial")) == 1


def test_a_child_goes_on_behind_the_epochs_of_its_parent(study: OpenStudy, crew: Crew, fake_runs: Any) -> None:
    parent = fake_runs.trial(study, POINT, [10.0, 30.0])
    (parent.run / "checkpoints" / "localizer").mkdir(parents=True)
    usual = crew.of_trials
    child = TrialRunner(study, {**POINT, BORN: "ab12"}, parent=parent.id)
    assert child.record.id != parent.id
    assert child.record.facts["parent"] == parent.id
    crew.of_trials = (lambda record: fake_runs.rows(record.run, [40.0], first=3), *usual[2:])
    assert figures(rows_of(child)) == [(3, 40.0, 40.0, True)]
    assert (child.record.run / "checkpoints" / "localizer").is_dir()


def test_a_child_that_has_nothing_left_to_train_has_the_figure_of_its_parent(study: OpenStudy, fake_runs: Any) -> None:
    parent = fake_runs.trial(study, POINT, [10.0, 30.0, 20.0])
    child = TrialRunner(study, {**POINT, BORN: "ab12"}, parent=parent.id)
    fake_runs.done(child.record.run)
    row = child.next()
    assert (row["epoch"], row["corloc"], row["done"]) == (3, 20.0, True)
