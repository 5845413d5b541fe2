"""
What came of a run, or of a deployment so far: gathered once from the log and the registry, shown as a page for people
(`report.html`, the server's dashboard), as the same numbers for programs, and as tables in a terminal.
"""

from .gather import Gatherer
from .page import dashboard_html, write_html
from .record import RunReport
from .result import console_table, plain_report, write_json

__all__ = ["Gatherer", "RunReport", "console_table", "dashboard_html", "plain_report", "write_html", "write_json"]
