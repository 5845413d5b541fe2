"""The outcome of a run: a page for people (`report.html`), the same numbers for programs (`result.json`), a table."""

from .page import write_html
from .result import RunReport, console_table, write_json

__all__ = ["RunReport", "console_table", "write_html", "write_json"]
