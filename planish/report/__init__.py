"""What people read: the HTML page of a run, and the tables and progress bar of the terminal."""

from planish.report.pages.run import write_report

__all__ = ["write_report"]
