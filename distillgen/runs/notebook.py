"""The progress of a run in a notebook: the tables of the terminal, in one output that is drawn again."""

from __future__ import annotations

import io
import sys
from importlib import import_module

from rich.console import Console
from rich.text import Text

from distillgen.html_table import NO_FORMULAS
from distillgen.runs.progress import Progress, follow
from distillgen.runs.progress_lines import Drawing
from distillgen.runs.state import Live

COLUMNS = 100  # of the tables
PAGE = f"<pre class='{NO_FORMULAS}' style='line-height:1.3;white-space:pre-wrap'>{{code}}</pre>"


def in_notebook() -> bool:
    """Return whether a kernel runs this code, and not a terminal or a script."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return hasattr(shell, "kernel")


async def watch(live: Live) -> None:
    """Draw until cancelled. Needs IPython, which a notebook has."""
    screen = Console(file=io.StringIO(), width=COLUMNS, record=True, force_jupyter=False, color_system="256")
    display, drawing, news = import_module("IPython.display"), Drawing(screen), list[Text]()
    handle = display.DisplayHandle()

    def show(progress: Progress) -> None:
        news.extend(drawing.news(progress))
        lines = Text("\n").join([*news, drawing.table(progress)])
        screen.print(lines, soft_wrap=True)
        page = screen.export_html(inline_styles=True, code_format=PAGE)
        draw = handle.display if drawing.count == 1 else handle.update
        draw({"text/plain": lines.plain, "text/html": page}, raw=True)

    await follow(live, show)
