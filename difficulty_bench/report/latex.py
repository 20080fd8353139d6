"""The main tables for a paper: one LaTeX `table` a paradigm, to \\input."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..registry import Task
from . import text
from .markdown import Figures
from .study import PARADIGMS
from .text import Row
from .variants import leading

HEAD = r"""% \input this file; the preamble needs \usepackage{array,booktabs,graphicx}.
\newcolumntype{P}[1]{>{\raggedright\arraybackslash}p{#1}}
"""
TABLE = r"""
\begin{{table}}
\centering
\caption{{{caption}}}
\label{{tab:difficulty-{paradigm}}}
\medskip
\resizebox{{\linewidth}}{{!}}{{%
\begin{{tabular}}{{lP{{12em}}rP{{9em}}P{{9em}}P{{9em}}P{{9em}}lr}}
\toprule
{columns} \\
\midrule
{lines}
\bottomrule
\end{{tabular}}}}
\end{{table}}
"""
CAPTION = (
    "Intrinsic dimension, {paradigm}: the d at which a fresh training in a random "
    "d-dimensional subspace reaches the threshold with probability 1/2, with its 95% interval. "
    "†: the search has not met its stopping rule."
)
COLUMNS = (
    *("task", "learner", "$D$", r"$d_{\mathrm{int90}}$ local", r"$d_{\mathrm{int90}}$ global"),
    *("bits local", "published", r"baseline $\pm$ sd", "trials"),
)
SPECIAL = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        **{c: f"\\{c}" for c in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": "$>$",
        "≤": r"$\le$",
        "±": r"$\pm$",
        "×": r"$\times$",
        "–": "--",
        "†": r"$\dagger$",
        "|": r"\textbar{}",
    }
)
MINUS = re.compile(r"(?<![\w-])-(?=\d)")


def latex(rows: Sequence[Row], figures: Figures, registered: Sequence[Task] = ()) -> str:
    led = leading(rows, registered)
    return HEAD + "".join(
        _table(p, [row for row in led if row["paradigm"] == p]) for p in PARADIGMS
    )


def _table(paradigm: str, rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    return TABLE.format(
        caption=escape(CAPTION.format(paradigm=paradigm)),
        paradigm=paradigm,
        columns=" & ".join(COLUMNS),
        lines="\n".join(f"{' & '.join(map(escape, _cells(row)))} \\\\" for row in rows),
    )


def _cells(row: Row) -> list[str]:
    return [
        f"{row['task']} v{row['version']}",
        text.learner(row),
        text.count(row["D"]),
        text.d_int90(row),
        text.d_int90(row, "_global"),
        text.bits(row),
        text.published(row),
        text.baseline(row),
        text.trials(row),
    ]


def escape(value: str) -> str:
    """Free text as one line that LaTeX prints as it is, with a minus sign before a number."""
    return MINUS.sub("$-$", " ".join(value.split()).translate(SPECIAL))
