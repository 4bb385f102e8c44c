"""Typed settings of a run: :class:`Config`, read by :func:`load` from YAML and ``section.key=value`` overrides."""

from colocam_dist.config.command_line import CommandLine, parse
from colocam_dist.config.load import dump, load, setting_names
from colocam_dist.config.schema import Config

__all__ = ["CommandLine", "Config", "dump", "load", "parse", "setting_names"]
