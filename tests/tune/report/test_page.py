"""The page is one file, shows what was found and how it is labeled, and keeps users' text text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tune.report import best_point, write_study_report
from tune.report.page import duration
from tune.results import StudyResult, TrialResult

Make = Callable[..., TrialResult]
Study = Callable[..., StudyResult]


class Page(HTMLParser):
    """Fails on tags that do not close in order; collects text, pictures and links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.pictures: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []
        self.text = " ".join(" ".join(self.words).replace("\N{NO-BREAK SPACE}", " ").split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "img":
            self.pictures.append(found["src"] or "")
        elif tag == "a":
            self.links.append(found["href"] or "")
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)


def page(result: StudyResult) -> Page:
    return Page(write_study_report(result).read_text())


def test_a_whole_study(realistic: StudyResult) -> None:
    shown = page(realistic)
    best = best_point(realistic)
    assert best is not None
    assert f"{best.mean:.1f} % mean of 3 seeds, 95 % interval [{best.low:.1f}, {best.high:.1f}]" in shown.text
    assert "not used for selection" in shown.text
    assert shown.text.count(realistic.rule) >= 5
    assert shown.text.count(realistic.caveats[0]) >= 5
    assert len(shown.pictures) == 5  # three dimensions, all together, learning curves
    assert all(source.startswith("data:image/png;base64,") for source in shown.pictures)
    for state in ("finished", "stopped", "failed"):
        count = sum(trial.state == state for trial in realistic.trials)
        assert f"{count} {state}" in shown.text
    assert "CAM of its classifier" in shown.text
    assert "The 40 longest of 135 trials" in shown.text
    assert "aeroplane" in shown.text


def test_three_files_and_nothing_else(realistic: StudyResult) -> None:
    path = write_study_report(realistic)
    assert path == realistic.folder / "report.html"
    assert sorted(found.name for found in realistic.folder.iterdir()) == ["report.html", "study.json", "trials.csv"]
    assert json.loads((realistic.folder / "study.json").read_text())["name"] == realistic.name


def test_nothing_is_loaded_from_elsewhere(realistic: StudyResult) -> None:
    text = write_study_report(realistic).read_text()
    assert "http://" not in text
    assert "https://" not in text
    assert not re.search(r"<(script|link|iframe)\b", text)


def test_the_same_study_gives_the_same_page(realistic: StudyResult) -> None:
    assert write_study_report(realistic).read_bytes() == write_study_report(realistic).read_bytes()


def test_users_text_is_escaped(trial: Make, study: Study) -> None:
    evil = "<script>alert('1')</script>"
    point = {"x": evil}
    trials = [
        trial(point, state="failed", error=evil, traceback=f"{evil}\n</pre><b>"),
        trial(point, seed=1, state="failed", error=evil),
    ]
    result = study(
        trials, {"x": [evil, "b"]}, name=evil, rule=evil, caveats=[evil], command=evil, versions={evil: evil}
    )
    (result.folder / "best.yaml").write_text(f"a: {evil}\n")
    text = write_study_report(result).read_text()
    assert "<script" not in text
    assert Page(text).text.count(evil) > 8


def test_best_yaml_and_pages_of_runs_are_shown_if_they_are_there(trial: Make, study: Study) -> None:
    result = study([trial(), trial({"data.n_frames": 8})])
    assert "best.yaml" not in page(result).text
    (result.folder / "best.yaml").write_text("data:\n  n_frames: 8\n")
    result.trials[1].run.mkdir(parents=True)
    (result.trials[1].run / "report.html").write_text("page")
    shown = page(result)
    assert "n_frames: 8" in shown.text
    assert shown.links == [f"trials/{result.trials[1].id}/report.html"]


def test_one_seed_has_no_interval_and_the_page_says_so(trial: Make, study: Study) -> None:
    shown = page(study([trial()]))
    assert "one seed, so no interval" in shown.text
    assert "with one seed there is none" in shown.text
    assert "CAM of its classifier" not in shown.text


def test_a_best_point_with_stopped_and_failed_seeds_says_so(trial: Make, study: Study) -> None:
    trials = [trial(state="stopped"), trial(seed=1), trial(seed=2, state="failed")]
    shown = page(study(trials, seeds=[0, 1, 2]))
    assert "1 trial of this point was stopped early and counts with its best so far." in shown.text
    assert "1 trial of this point failed and is not in the mean." in shown.text
    assert "This is the best of the incomplete ones." in shown.text


def test_all_failed(trial: Make, study: Study) -> None:
    trials = [trial({"data.n_frames": n}, [], state="failed", error="CUDA is gone") for n in (2, 4)]
    shown = page(study(trials))
    assert "All trials failed." in shown.text
    assert shown.text.count("CUDA is gone") == 2
    assert shown.pictures == []


@pytest.mark.parametrize("corloc", [[], [math.nan]])
def test_no_figures(trial: Make, study: Study, corloc: list[float]) -> None:
    shown = page(study([trial(corloc=corloc, state="running")]))
    assert "No trial has a figure yet." in shown.text
    assert "nan" not in shown.text


def test_no_trials(study: Study) -> None:
    assert "No trial was begun." in page(study([])).text


def test_classes_are_those_of_the_best_finished_trial(
    trial: Make, study: Study, metrics: Callable[..., dict[str, object]]
) -> None:
    stopped = trial({"data.n_frames": 2}, [90.0], state="stopped", test=metrics(10.0, 20.0))
    good = trial({"data.n_frames": 4}, [80.0], test=metrics(10.0, 20.0))
    without = trial({"data.n_frames": 8}, [85.0])
    shown = page(study([trial(corloc=[70.0], test=metrics(1.0, 2.0)), stopped, good, without]))
    assert f"Trial {good.number} ( {good.id} ), the best of the finished trials" in shown.text
    assert "on split test, at the threshold" in shown.text


def test_savings(realistic: StudyResult) -> None:
    text = page(replace(realistic, trials=realistic.trials[:45])).text
    saved = sum(
        trial.total_epochs - trial.epochs[-1].epoch for trial in realistic.trials[:45] if trial.state == "stopped"
    )
    assert f"{saved} epochs {100 * saved / 450:.0f} % of 450 planned" in text
    assert "9 classifiers trained once, for 135 trials" in text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0 s"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599.0, "59 min 59 s"),
        (3600.0, "1 h 00 min"),
        (172_799.0, "2 d 0 h"),
        (200_000.0, "2 d 8 h"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds).replace("\N{NO-BREAK SPACE}", " ") == words
