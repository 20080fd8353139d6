"""Tables and plots from the store; light to import, and in need of no task's own code."""

from .files import FORMATS, clip_path, write_file, write_report
from .markdown import anchor
from .rows import FIELDS, rows
from .text import d_int90_text, row_text

__all__ = [
    "FIELDS",
    "FORMATS",
    "anchor",
    "clip_path",
    "d_int90_text",
    "row_text",
    "rows",
    "write_file",
    "write_report",
]
