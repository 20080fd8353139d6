"""Tables and plots from the store; light to import, and in need of no task's own code."""

from .files import FORMATS, write_report
from .rows import FIELDS, rows
from .text import d_int90_text, row_text

__all__ = ["FIELDS", "FORMATS", "d_int90_text", "row_text", "rows", "write_report"]
