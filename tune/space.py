"""Search spaces: dimensions over any settings of a run, checked before the first trial, and their points."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from colocam_dist.config import Config, setting_names
from colocam_dist.errors import ColocamError, ConfigError
from colocam_dist.slurm.checks import check_devices
from colocam_dist.training.batches import stage_batch, trained_stages
from colocam_dist.training.preflight import check_run
from tune.folder import content_hash
from tune.settings import Range, StudyFile, as_overrides

__all__ = ["BORN", "SEED", "Dimension", "Point", "Space"]

SEED = "run.seed"
"""Key of a point under which its seed stands."""

BORN = "born"
"""Key of a point that PBT has made of another one: a word that no other point has."""

_ON_THE_WAY = ("localizer.optimizer.", "localizer.loss.", "localizer.seeds.")
"""Settings that may change between two epochs of a run."""

Point = Mapping[str, Any]
"""For each dimension the label of a choice, or a number of a range; and the seed."""


_NAMED = 10  # points that an error names

_VARIABLE = re.compile(r'="\$(\w+)"$')


def _filled(text: str, variables: Mapping[str, Any]) -> str:
    match = _VARIABLE.search(text)
    return text if match is None else f"{text[: match.start()]}={json.dumps(variables[match[1]])}"


@dataclass(frozen=True)
class Dimension:
    """One axis of the space.

    Attributes:
        name: a setting, or any name if its choices set several of them.
        choices: by label; empty for a range.
        values: what the report shows for each label.
        range: bounds of numbers; None for choices.
    """

    name: str
    choices: Mapping[str, Mapping[str, Any]]
    values: Mapping[str, Any]
    range: Range | None = None

    @classmethod
    def of(cls, name: str, written: Range | Sequence[Any] | Mapping[str, Mapping[str, Any]]) -> Dimension:
        """From what stands in the file.

        Raises:
            ValueError: no choices, or one twice.
        """
        if isinstance(written, Range):
            return cls(name, {}, {}, written)
        if isinstance(written, Mapping):
            if not written:
                raise ValueError("has no choices")
            return cls(name, dict(written), {label: label for label in written})
        labels = [value if isinstance(value, str) else json.dumps(value) for value in written]
        if not labels or len(set(labels)) < len(labels):
            raise ValueError("has no values" if not labels else f"has a value twice ({', '.join(labels)})")
        choices = {label: {name: value} for label, value in zip(labels, written, strict=True)}
        return cls(name, choices, dict(zip(labels, written, strict=True)))

    def settings(self, value: Any, variables: Mapping[str, Any]) -> list[str]:
        """Overrides of the run for a label or number.

        Args:
            value: the label or number.
            variables: what stands for ``$name`` among the settings of a choice.
        """
        written = as_overrides(self.choices[value] if self.choices else {self.name: self.whole(value)})
        return [_filled(text, variables) for text in written]

    @property
    def mentions(self) -> set[str]:
        """Names that its choices use as ``$name``."""
        texts = [text for choice in self.choices.values() for text in as_overrides(choice)]
        return {match[1] for text in texts if (match := _VARIABLE.search(text))}

    def shown(self, value: Any) -> Any:
        """A label or number as it stands in the file."""
        return self.values[value] if self.choices else self.whole(value)

    def has(self, value: Any) -> bool:
        """Whether it is one of its labels, or lies in its range."""
        if self.range is None:
            return value in self.choices
        return isinstance(value, int | float) and self.whole(value) == value

    def at(self, share: float) -> Any:
        """The label or number at a share in [0, 1) of the way."""
        if self.range is None:
            return list(self.choices)[int(share * len(self.choices))]
        low, high = self.range.low, self.range.high
        if self.range.integer:
            low, high = low - 0.5, high + 0.5
        number = low * (high / low) ** share if self.range.log and low > 0 else low + (high - low) * share
        return self.whole(number)

    def whole(self, number: float) -> float:
        """The nearest number of the range: PBT and rounding leave it."""
        assert self.range is not None
        within = min(max(number, self.range.low), self.range.high)
        return round(within) if self.range.integer else within


class Space:
    """The dimensions of a study.

    Args:
        file: of the study.
        checked: its values are known to be right; to look at all of them means to open the data for each.

    Attributes:
        dimensions: by name.

    Raises:
        ConfigError: every dimension that is none, and every value that runs would refuse.
    """

    def __init__(self, file: StudyFile, *, checked: bool = False) -> None:
        self._file = file
        self.dimensions: dict[str, Dimension] = {}
        problems = []
        for name, written in file.study.space.items():
            try:
                self.dimensions[name] = Dimension.of(name, written)
            except ValueError as error:
                problems.append(f"{name}: {error}")
        mentioned = {name for one in self.dimensions.values() for name in one.mentions}
        problems += [f"${name} is not a dimension" for name in sorted(mentioned - self.dimensions.keys())]
        self._variables = mentioned - set(setting_names())
        problems += self._clashes()
        if not problems and not checked:
            problems += [problem for one in self.dimensions.values() for problem in self._refused(one)]
        if problems:
            raise ConfigError(
                f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in the search space"
                + "".join(f"\n  - {problem}" for problem in problems),
                where="study.space",
                fix="python launchers/train.py --print-config --config FILE shows every setting with its value",
            )

    def _clashes(self) -> list[str]:
        """Settings that two dimensions set, or that belong to the study."""
        found, owners = [], dict[str, str]()
        for dimension in self.dimensions.values():
            keys = {key for choice in dimension.choices.values() for key in as_keys(choice)} or {dimension.name}
            keys -= self._variables
            for key in sorted(keys):
                if key == SEED or key in ("run.name", "run.folder", "run.on_exists"):
                    found.append(f"{dimension.name}: {key} is set by the study itself (study.seeds, study.name)")
                if self._file.study.scheduler.name == "pbt" and not key.startswith(_ON_THE_WAY):
                    wanted = ", ".join(f"{section}*" for section in _ON_THE_WAY)
                    found.append(f"{dimension.name}: pbt cannot change {key} between epochs; wanted {wanted}")
                if owners.setdefault(key, dimension.name) != dimension.name:
                    found.append(f"{dimension.name}: {key} is set by {owners[key]} as well")
        return found

    def _refused(self, dimension: Dimension) -> list[str]:
        """What runs would refuse of a dimension, and what makes no difference to them."""
        found: dict[str, None] = {}
        computed: dict[str, str] = {}
        for part in self._values(dimension):
            where = _written(part)
            try:
                config = self._file.config(self._part(part))
                check_run(config, self._world(config))
                if self._file.study.executor == "slurm":
                    check_devices(config)
                twin = computed.setdefault(content_hash(config), where)
                if twin != where and len(part) == 1:
                    found[f"{twin} and {where} compute the same"] = None
            except ColocamError as error:
                found[f"{where}: {_in_short(error)}"] = None
        return list(found)

    def _values(self, dimension: Dimension) -> Iterator[dict[str, Any]]:
        """Each value of a dimension, or its ends, with each of those that its choices mention."""
        if dimension.name in self._variables:
            return
        axes = [dimension, *(self.dimensions[name] for name in sorted(dimension.mentions))]
        ends = [list(one.choices) or [one.at(0.0), one.at(1.0 - 1e-9)] for one in axes]
        by_itself = all(dimension.name in choice for choice in dimension.choices.values())  # also if it is a range
        if by_itself and dimension.name not in set(setting_names()):
            ends[0] = ends[0][:1]
        for values in itertools.product(*ends):
            yield {one.name: value for one, value in zip(axes, values, strict=True)}

    @property
    def epochs(self) -> int:
        """Epochs of stage 2 of the longest run."""
        parts = [part for one in self.dimensions.values() for part in self._values(one)]
        return max(self._file.config(self._part(part)).localizer.epochs for part in [{}, *parts])

    def _world(self, config: Config) -> int:
        return config.slurm.ranks if self._file.study.executor == "slurm" else self._file.study.ranks

    def _part(self, point: Point) -> list[str]:
        """Overrides for some of the dimensions."""
        variables = {name: self.dimensions[name].shown(point[name]) for name in self._variables & point.keys()}
        named = [name for name in point if name in self.dimensions and name not in self._variables]
        return [text for name in named for text in self.dimensions[name].settings(point[name], variables)]

    def settings(self, point: Point) -> list[str]:
        """Overrides of the run for a point."""
        return [*self._part({name: point[name] for name in self.dimensions}), f"{SEED}={point[SEED]}"]

    def config(self, point: Point) -> Config:
        """The settings of a point's run.

        Raises:
            ConfigError: values that are right by themselves contradict each other.
        """
        return self._file.config(self.settings(point))

    def shown(self, point: Point) -> dict[str, Any]:
        """A point for people, without its seed."""
        return {name: dimension.shown(point[name]) for name, dimension in self.dimensions.items()}

    def points(self) -> list[dict[str, Any]]:
        """All points of a grid or of a random search, every seed of them, in their order; more samples only add some.

        Raises:
            ConfigError: values that are right by themselves contradict each other in some points.
        """
        study = self._file.study
        if study.search == "grid":
            axes = [[(name, label) for label in one.choices] for name, one in self.dimensions.items()]
            found = [dict(corner) for corner in itertools.product(*axes)]
        else:
            found = [self._sample(number) for number in range(study.samples or 0)]
        # The whole space with the first seed, then with the next.
        kept: dict[str, dict[str, Any]] = {}
        problems: dict[str, None] = {}
        for seed, point in itertools.product(study.seeds, found):
            seeded = {**point, SEED: seed}
            try:
                config = self.config(seeded)
                for stage in trained_stages(config):
                    stage_batch(config, stage, self._world(config))
                kept.setdefault(content_hash(config), seeded)  # of points whose runs are the same, the first
            except ColocamError as error:
                problems[f"{_written(point)}: {_in_short(error)}"] = None
        if problems:
            raise ConfigError(
                f"{len(problems)} point{'s' if len(problems) > 1 else ''} of the search space cannot be run"
                + "".join(f"\n  - {problem}" for problem in list(problems)[:_NAMED])
                + (f"\n  - and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""),
                where="study.space",
                fix="choices with names can set several settings that fit together",
            )
        return list(kept.values())

    def _sample(self, number: int) -> dict[str, Any]:
        """A random point that depends on its number only, so that a larger space or more samples keep it."""
        return {
            name: one.at(_share(self._file.study.search_seed, name, number)) for name, one in self.dimensions.items()
        }


def _written(point: Point) -> str:
    return ", ".join(f"{name}={value}" for name, value in point.items())


def _in_short(error: ColocamError) -> str:
    """In one line, if it is one about settings."""
    if not isinstance(error, ConfigError):
        return str(error)
    lines = [line.strip(" -") for line in str(error).splitlines()]
    return "; ".join(line for line in lines if not line.startswith("fix:") and not line.endswith("in the settings"))


def as_keys(tree: Mapping[str, Any]) -> list[str]:
    """The names of nested settings."""
    return [text.partition("=")[0] for text in as_overrides(tree)]


def _share(seed: int, name: str, number: int) -> float:
    digest = hashlib.sha256(f"{seed} {name} {number}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
