"""Words of prompts: CLIP-ES's own, a user's, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from colocam_dist.clip_es.words import BACKGROUND, read_words, words_of
from colocam_dist.errors import ConfigError


def test_classes_are_called_by_their_names_but_for_those_that_clip_es_calls_otherwise() -> None:
    assert words_of(["aeroplane", "bird", "my thing"]) == ("aeroplane", "bird avian", "my thing")
    assert words_of(["aeroplane", "bird"], {"bird": "gull"}) == ("aeroplane", "gull")
    assert len(set(BACKGROUND)) == 25


def test_words_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "words.yaml"
    file.write_text("aeroplane: airplane\nmotorbike: 'motorcycle, bike'\n")
    assert read_words(file) == {"aeroplane": "airplane", "motorbike": "motorcycle, bike"}


@pytest.mark.parametrize("content", ["- cat", "cat: 3", "no: cat", "cat: ''", "{", "\x80"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "words.yaml"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match="file of words") as refusal:
        read_words(file)
    assert str(file) in str(refusal.value)


def test_a_missing_file_and_words_for_no_class_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_words(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="did you mean aeroplane"):
        words_of(["aeroplane", "cat"], {"aeroplan": "airplane"})
