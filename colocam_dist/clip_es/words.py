"""The words of CLIP-ES: its prompt, its background list, and what it calls some classes."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from colocam_dist.errors import ConfigError

__all__ = ["BACKGROUND", "TEMPLATE", "WORDS", "read_words", "words_of"]

TEMPLATE = "a clean origami {}."
"""The prompt of CLIP-ES's public code."""

# Also printed by the CoLo-CAM paper, section 4.4, footnote 5.
BACKGROUND = (
    *("ground", "land", "grass", "tree", "building", "wall", "sky", "lake", "water", "river", "sea", "railway"),
    *("railroad", "keyboard", "helmet", "cloud", "house", "mountain", "ocean", "road", "rock", "street", "valley"),
    *("bridge", "sign"),
)
"""What an object may be taken for by its surroundings."""

WORDS = {
    "bird": "bird avian",
    "chair": "chair seat",
    "person": "person with clothes,people,human",
    "tvmonitor": "tvmonitor screen",
}
"""The classes of PASCAL VOC that CLIP-ES calls by more than their name; YouTube-Objects has one of them, the bird."""


def words_of(classes: Sequence[str], given: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """What stands for each class in its prompt: what was given, else CLIP-ES's own words, else the name.

    Args:
        classes: names.
        given: words by name of class, for some or all of them.

    Raises:
        ConfigError: words for a class that there is not.
    """
    given = given or {}
    strange = [name for name in given if name not in classes]
    if strange:
        close = difflib.get_close_matches(strange[0], classes, n=1)
        raise ConfigError(
            "words are given for a class that the data does not have",
            got=strange[0],
            wanted=", ".join(classes),
            fix=f"did you mean {close[0]}?" if close else None,
        )
    return tuple(given.get(name, WORDS.get(name, name)) for name in classes)


def read_words(file: Path) -> dict[str, str]:
    """Words by name of class from a YAML (or JSON) file: ``aeroplane: airplane``.

    Raises:
        ConfigError: the file cannot be read, or is not a mapping of texts to texts.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError("the file of words cannot be read", where=file, got=str(error)) from None
    if not isinstance(content, dict):
        raise ConfigError("the file of words is not a mapping", where=file, wanted="lines like  aeroplane: airplane")
    for name, words in content.items():
        if not (isinstance(name, str) and isinstance(words, str) and words.strip()):
            raise ConfigError(
                "the file of words maps something else than texts",
                where=file,
                got=f"{name!r}: {words!r}",
                fix="put quotation marks around words that YAML takes for something else",
            )
    return content
