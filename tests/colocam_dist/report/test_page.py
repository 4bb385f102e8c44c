"""The page is whole, self-contained, and shows users' text as text."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from colocam_dist.report.page import RULES, ReportData, Table, write_report

VOID = {"meta", "img", "br", "input", "link", "hr"}


class Balanced(HTMLParser):
    """Fails on tags that do not close in order; collects text and pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.pictures: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.pictures.append(dict(attrs)["src"] or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def page(data: ReportData, tmp_path: Path) -> str:
    write_report(tmp_path / "report.html", data)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    return (tmp_path / "report.html").read_text()


def test_tags_balance_and_figures_are_shown(page: str) -> None:
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    for shown in ("63.2", "[59.2, 67.2]", "+22.2", "71.5", "3.4", "Generated <b>clips</b>.", "name: <x>"):
        assert shown in parser.text


def test_nothing_is_loaded_from_elsewhere(page: str) -> None:
    assert "http://" not in page
    assert "https://" not in page
    assert not re.search(r"<(script|link|iframe)\b", page)


def test_users_text_is_escaped(page: str) -> None:
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;i&gt;cat&lt;/i&gt;" in page


def test_pictures_decode(page: str, picture: np.ndarray) -> None:
    parser = Balanced()
    parser.feed(page)
    assert len(parser.pictures) == 2
    for source in parser.pictures:
        data = np.frombuffer(base64.b64decode(source.split(",", 1)[1]), np.uint8)
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert decoded is not None
        assert decoded.shape == picture.shape


def test_each_rule_is_explained_and_each_class_has_a_bar_per_method(page: str) -> None:
    for meaning in RULES.values():
        assert meaning in page
    assert page.count('<i style="width: 50.0%"></i><u style="left: 50.0%">') == 2


def test_one_method_without_a_classifier_is_compared_with_nothing(data: ReportData, tmp_path: Path) -> None:
    alone = replace(data.methods[0], top1=None)
    write_report(tmp_path / "r.html", replace(data, methods=[alone], classes=[], videos=[], curves={}, caveats=[]))
    parser = Balanced()
    parser.feed((tmp_path / "r.html").read_text())
    assert parser.open == []
    assert "Best frames" in parser.text
    for absent in ("difference", "localizer", "By class", "Training"):
        assert absent not in parser.text


def test_a_worse_method_has_a_true_minus_sign(data: ReportData, tmp_path: Path) -> None:
    write_report(tmp_path / "r.html", replace(data, methods=data.methods[::-1]))
    assert "\N{MINUS SIGN}22.2" in (tmp_path / "r.html").read_text()


def test_a_page_needs_a_method_and_a_failed_one_leaves_the_old(data: ReportData, tmp_path: Path) -> None:
    path = tmp_path / "r.html"
    path.write_text("old")
    with pytest.raises(ValueError, match="at least one method"):
        write_report(path, replace(data, methods=[]))
    assert path.read_text() == "old"


def test_seven_methods_have_colors_of_their_own(data: ReportData, tmp_path: Path) -> None:
    names = ["cam", "gradcam", "gradcam++", "smoothgradcam++", "xgradcam", "layercam", "localizer"]
    methods = [replace(data.methods[0], name=name) for name in names]
    classes = [replace(data.classes[0], corloc={name: dict.fromkeys(RULES, 50.0) for name in names})]
    videos = [replace(data.videos[0], corloc=dict.fromkeys(names, 25.0))]
    strips = [replace(data.examples_best[0], caption="a strip")]
    many = replace(data, methods=methods, classes=classes, videos=videos, strips=strips)
    write_report(tmp_path / "r.html", many)
    page = (tmp_path / "r.html").read_text()
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    for place, name in enumerate(names):
        assert f'<dt class="c{place}">{name}</dt>' in page
        assert f".c{place} {{ color: var(--m{place})" in page
        assert page.count(f"--m{place}: #") == 2, "one for light, one for dark"
    strip = page[page.index("Across a shot") : page.index("a strip")]
    assert "localizer" in strip
    assert "layercam" not in strip, "only the last method is in these pictures"


def test_more_tables_stand_on_the_page_as_text(data: ReportData, tmp_path: Path) -> None:
    table = Table("Steadiness <b>", "What it is.", ["method", "jumps"], [["localizer", "2.5 [1.0, 4.0]"], ["<i>", ""]])
    write_report(tmp_path / "r.html", replace(data, tables=[table]))
    parser = Balanced()
    parser.feed((tmp_path / "r.html").read_text())
    assert parser.open == []
    for shown in ("Steadiness <b>", "What it is.", "jumps", "2.5 [1.0, 4.0]", "<i>"):
        assert shown in parser.text
