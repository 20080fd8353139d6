"""The Markdown page as one page of HTML that needs nothing beside it but the plots and clips."""

from __future__ import annotations

from collections.abc import Sequence

from ..registry import Task
from .markdown import Figures, markdown
from .text import Row

HEAD = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Intrinsic dimension, measured</title>
<style>
body { max-width: 90rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff;
       font: 1rem/1.5 system-ui, sans-serif; }
table { display: block; overflow-x: auto; border-collapse: collapse; margin: 1rem 0;
        font-size: .875rem; font-variant-numeric: tabular-nums; }
p, li { max-width: 60rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #ddd; text-align: left;
         vertical-align: top; }
th { border-bottom: 2px solid #222; }
img { max-width: 100%; }
code { font-size: .875em; overflow-wrap: anywhere; }
a { color: #0a58a8; }
</style>
</head>
<body>
"""


def html(rows: Sequence[Row], figures: Figures, registered: Sequence[Task] = ()) -> str:
    """What a store holds as free text is escaped in the Markdown already."""
    from markdown_it import MarkdownIt  # 50 ms that no other verb needs

    renderer = MarkdownIt("commonmark").enable("table")
    body: str = renderer.render(markdown(rows, figures, registered))
    return f"{HEAD}{body}</body>\n</html>\n"
