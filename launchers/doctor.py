"""Examine this machine: ``python launchers/doctor.py``. Exit code 0 = the main job can run, 1 = something is wrong."""

from __future__ import annotations

import argparse

from colocam_dist.console import run_console
from colocam_dist.doctor import examine, format_findings


def main() -> int:
    """Print every finding; 1 if one of them is wrong."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    findings = examine()
    print(format_findings(findings))
    return int(any(finding.state == "wrong" for finding in findings))


if __name__ == "__main__":
    run_console(main)
