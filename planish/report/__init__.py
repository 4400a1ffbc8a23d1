"""Reports: HTML pages, and the tables and progress bars of the terminal."""

from planish.report.pages.run import write_report

__all__ = ["write_report"]
