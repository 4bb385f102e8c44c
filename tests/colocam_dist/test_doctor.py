"""The doctor finds what is broken and survives it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest

from colocam_dist import doctor
from colocam_dist.doctor import Finding, examine, format_findings


def by_topic(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.topic: finding for finding in findings}


def test_a_complete_installation_has_nothing_wrong() -> None:
    findings = examine()
    assert not [finding for finding in findings if finding.state == "wrong"]
    assert by_topic(findings)["mp4"].text == "OpenCV wrote 2 frames and read 2 back"


def test_a_missing_package_is_wrong_and_says_how_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in ("webdataset", "timm") else real(name))
    found = by_topic(examine())
    assert found["webdataset"].state == "wrong"
    assert "pip install" in found["webdataset"].fix
    assert found["timm"].state == "note", "an extra is not needed for the main job"


def test_two_opencv_packages_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: "5.0")
    found = by_topic(examine())
    assert found["opencv"].state == "wrong"
    assert "opencv-python and" in found["opencv"].text


def test_a_check_that_breaks_becomes_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def broken(name: str) -> object:
        if name == "deepspeed":
            raise ImportError("no such symbol")
        return real(name)

    monkeypatch.setattr(importlib, "import_module", broken)
    assert by_topic(examine())["deepspeed"] is not None
    wrong = [finding for finding in examine() if finding.state == "wrong"]
    assert [finding.text for finding in wrong] == ["ImportError: no such symbol"]


def test_the_table_shows_fixes_of_what_is_not_ok_only() -> None:
    def findings() -> Iterator[Finding]:
        yield Finding("good", "ok", "fine", fix="never shown")
        yield Finding("bad", "wrong", "broken", fix="do this")

    table = format_findings(list(findings()))
    assert "never shown" not in table
    assert "WRONG  bad   broken\n" in table
    assert "fix: do this" in table
