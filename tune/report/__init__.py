"""The report of a study: statistics over seeds, tables, pictures, and one page with everything in it."""

from tune.report.page import write_study_report
from tune.report.points import PointResult, best_point, grouped

__all__ = ["PointResult", "best_point", "grouped", "write_study_report"]
