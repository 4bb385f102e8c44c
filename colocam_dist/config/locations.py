"""Paths and URLs of data sets."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["KNOWN_SCHEMES", "location_name", "scheme_of"]

KNOWN_SCHEMES = ("http", "https", "s3", "gs", "gcs", "az", "abfs", "hf", "oci", "oss")
"""Schemes that are allowed unless told otherwise: plain readers of remote objects."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(//)?")


def scheme_of(location: str) -> str | None:
    """Scheme of a URL in lower case; None for a path of this machine.

    A path may hold a colon if a slash or a dot comes first: "./a:b".
    """
    match = _SCHEME.match(location)
    return match[1].lower() if match else None


def location_name(location: str | Path) -> str:
    """Last part of a path or URL, fit for titles and file names."""
    return str(location).rstrip("/").rpartition("/")[2] or "data"
