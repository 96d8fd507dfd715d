"""The progress of a run on a terminal: a table of stages, a table of models, times and costs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.live import Live as Display
from rich.text import Text

from distillgen.runs.foreman import ShardProgress
from distillgen.runs.progress import ModelProgress, Progress, StageProgress, follow
from distillgen.runs.state import Live
from distillgen.text.display import counted, duration, field_lines, fitting, money, number, shortened, visible

PLAIN_EVERY = 20  # draws between two plain lines, without a terminal
BAR = {"utf": ("━", "╸", "─"), "": ("#", "#", "-")}
NARROW = 72  # columns; a narrower terminal gets no bars


async def watch(live: Live, console: Console | None = None) -> None:
    """Draw until cancelled: tables on a terminal, otherwise a plain line every ten seconds, and at
    the end.
    """
    screen = console or terminal()
    drawing = Drawing(screen)
    last: Progress | None = None

    def log_line(progress: Progress) -> None:
        screen.print(Text(visible(plain_line(progress))), soft_wrap=True)

    with Display(console=screen, auto_refresh=False, transient=not screen.is_interactive) as display:

        def show(progress: Progress) -> None:
            nonlocal last
            last = progress
            for text in drawing.news(progress):
                screen.print(text, soft_wrap=not screen.is_interactive)  # a terminal would break words
            display.update(drawing.table(progress), refresh=True)
            if not screen.is_interactive and drawing.count % PLAIN_EVERY == 0:
                log_line(progress)

        try:
            await follow(live, show)
        finally:
            if last and not screen.is_interactive:
                log_line(last)  # what the last line of a log says is how it ended


@contextlib.contextmanager
def shard_line(console: Console | None = None) -> Iterator[Callable[[ShardProgress], None]]:
    """Give a function that draws the progress of workers: a line, and one for each stage, on a terminal;
    otherwise plain lines every ten seconds, and at the end.
    """
    screen, count, warnings = console or terminal(), 0, 0
    last: ShardProgress | None = None

    def log_line(progress: ShardProgress) -> None:
        lines = [str(progress), *(" ".join(line.split()) for line in progress.stage_lines())]
        screen.print(Text(visible("  |  ".join(lines))), soft_wrap=True)

    with Display(console=screen, auto_refresh=False, transient=True) as display:

        def show(progress: ShardProgress) -> None:
            nonlocal count, warnings, last
            count, last = count + 1, progress
            for text in progress.tally.warnings[warnings:]:
                screen.print(Text(f"note: {visible(text)}", style="yellow"), soft_wrap=True)
            warnings = len(progress.tally.warnings)
            stages = [Text(f"\n{visible(line)}") for line in progress.stage_lines()]
            display.update(Text("").join([Text(str(progress), "bold"), *stages]), refresh=True)
            if not screen.is_interactive and count % PLAIN_EVERY == 0:
                log_line(progress)

        try:
            yield show
        finally:
            if last:
                log_line(last)


def terminal() -> Console:
    """Return standard error as a screen. FORCE_COLOR and NO_COLOR choose colours; only a terminal is drawn
    on.
    """
    interactive = None if sys.stderr.isatty() else False
    return Console(stderr=True, highlight=False, markup=False, force_interactive=interactive)


class Drawing:
    """Draws progress for a screen, and tells what is new since the last time."""

    def __init__(self, screen: Console) -> None:
        utf = screen.encoding.startswith("utf")
        self._bar = BAR["utf" if utf else ""]
        self._screen, self._margin = screen, 1 if utf else 3  # "…" takes three columns of ASCII
        self._warnings, self._first_shown = 0, False
        self.count = 0

    @property
    def width(self) -> int:
        """The columns that a line may take."""
        return max(40, self._screen.width - self._margin)

    def news(self, progress: Progress) -> Iterator[Text]:
        """Give the first kept row and the warnings that were not shown yet."""
        self.count += 1
        if progress.first_kept and not self._first_shown:
            self._first_shown = True
            fields = field_lines(progress.first_kept, 1000, most=12)
            after = f"first kept row, after {duration(progress.elapsed_s)}:"
            yield Text("\n  ".join([after, *(shortened(line, self.width - 2) for line in fields)]))
        for text in progress.warnings[self._warnings :]:
            yield Text(f"note: {visible(text)}", style="yellow")
        self._warnings = len(progress.warnings)

    def table(self, progress: Progress) -> Text:
        """Return the lines of the display."""
        return Text("\n").join([*self._stages(progress), *self._models(progress), *self._footer(progress)])

    def _stages(self, progress: Progress) -> Iterator[Text]:
        names = self._names([stage.name for stage in progress.stages], "stage")
        total = progress.total_rows
        cells = [(f"rows of {total:,}" if total is not None else "rows", "kept", "dropped")]
        for stage in progress.stages:
            dropped = sum(stage.dropped.values())
            cells.append((f"{stage.sources:,}", f"{stage.rows_out:,}", f"{dropped:,}" if dropped else ""))
        bar = 0 if self.width < NARROW or total is None else 10
        wide = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for i, (name, row) in enumerate(zip(names, cells, strict=True)):
            line = Text(f"{name}  ")
            if bar:
                share = progress.stages[i - 1].share or 0.0
                line.append_text(self._drawn_bar(share, bar) if i else Text(" " * bar)).append("  ")
            line.append("  ".join(f"{cell:>{n}}" for cell, n in zip(row, wide, strict=True)) + "  ")
            line.stylize("" if i else "dim")
            remarks = _remarks(progress.stages[i - 1]) if i else []
            if line.cell_len + len(", ".join(remarks)) > self.width:
                line.rstrip()
                yield line
                line = Text("  ")
            line.append(fitting(remarks, self.width - line.cell_len))
            line.rstrip()
            yield line

    def _models(self, progress: Progress) -> Iterator[Text]:
        models = [model for model in progress.models if model.active]
        if not models:
            return
        names = self._names([model.name for model in models], "model")
        titles: tuple[str, ...] = ("answers", "a second", "tokens", "cost", "in flight")
        cells = [titles, *map(_cells, models)]
        if not any(model.cost_usd is not None for model in models):
            cells = [(*row[:3], row[4]) for row in cells]
        if self.width < NARROW:
            cells = [row[:-1] for row in cells]
        wide = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for i, (name, row) in enumerate(zip(names, cells, strict=True)):
            line = Text("  ".join([name, *(f"{cell:>{n}}" for cell, n in zip(row, wide, strict=True))]))
            line.stylize("dim" if i == 0 else "")
            model = models[i - 1] if i else None
            if model and (troubles := _troubles(model)):
                if self.width - line.cell_len < cell_len(troubles) + 2:
                    yield line
                    line = Text("  ")
                else:
                    line.append("  ")
                line.append(shortened(troubles, self.width - line.cell_len), "yellow")
            yield line

    def _footer(self, progress: Progress) -> Iterator[Text]:
        line = ""
        for part in _times(progress):
            if line and len(line) + len(part) + 2 > self.width:
                yield Text(f"{line};", "bold")
                line = ""
            line = f"{line}; {part}" if line else part
        yield Text(line, "bold")
        if progress.stopping and progress.to_finish:
            text = f"stopping; waiting for {counted(progress.to_finish, 'paid answer')}"
            yield Text(f"{text}\n(Ctrl-C again gives them up)", "bold")
        if progress.waits:
            yield Text(visible(progress.waits), "yellow")

    def _names(self, names: Sequence[str], title: str) -> list[str]:
        """Return a column of names under its title."""
        texts = [title, *map(visible, names)]
        most = min(max(map(cell_len, texts)), self.width // 4)
        return [set_cell_size(shortened(text, most), most) for text in texts]

    def _drawn_bar(self, share: float, width: int) -> Text:
        full, half, empty = self._bar
        halves = int(2 * width * share)
        bar = full * (halves // 2) + half * (halves % 2)
        return Text(bar, "green" if share >= 1 else "cyan").append(empty * (width - len(bar)), "dim")


def plain_line(progress: Progress) -> str:
    """Return the progress in one line, for a log: what is done of the stages that go on."""
    open_stages = [stage for stage in progress.stages if not stage.complete and (stage.share or 0) < 1]
    stages = open_stages or progress.stages[-1:]
    parts = [
        f"{stage.name} {_count(stage, progress.total_rows)}, kept {stage.rows_out:,}" for stage in stages
    ]
    parts += [f"{stage.name}: {stage.note}" for stage in progress.stages if stage.note]
    for model in (model for model in progress.models if model.active):
        rate = f"{model.name} {counted(model.answered, 'answer')}, {model.answers_per_s:.1f} a second"
        parts.append(", ".join(filter(None, (rate, _troubles(model)))))
    return "  |  ".join([*_times(progress), *parts, *filter(None, (progress.waits,))])


def _times(progress: Progress) -> Iterator[str]:
    yield f"{duration(progress.elapsed_s)} elapsed"
    if progress.left_s is not None and (left_s := _rounded(progress.left_s)):
        yield f"about {duration(left_s)} left"
    if progress.cost_usd is not None:
        most = f" of at most {money(progress.most_usd)}" if progress.most_usd is not None else ""
        yield f"{money(progress.cost_usd)}{' of all seeds' if progress.of_all_seeds else most}"


def _rounded(seconds: float) -> float:
    """Return a time as exactly as an estimate can be."""
    step = 1 if seconds < 60 else 10 if seconds < 600 else 60
    return round(seconds / step) * step


def _count(stage: StageProgress, total: int | None) -> str:
    return f"{stage.sources:,}" + (f"/{total:,}" if total is not None else "")


def _remarks(stage: StageProgress) -> list[str]:
    """Return what the stage does, the reasons of drops, what was gathered and measured."""
    remarks = [stage.note] if stage.note else []
    remarks += [f"{name} {count:,}" for name, count in stage.dropped.items()]
    remarks += [f"gathered {stage.gathered:,}"] if stage.gathered else []
    return remarks + [f"{title} {number(value)}" for title, value in stage.measured.items()]


def _cells(model: ModelProgress) -> tuple[str, ...]:
    tokens = f"{model.input_tokens + model.output_tokens:,}"
    cost = money(model.cost_usd) if model.cost_usd is not None else ""
    return f"{model.answered:,}", f"{model.answers_per_s:.1f}", tokens, cost, f"{model.in_flight:,}"


def _troubles(model: ModelProgress) -> str:
    parts = [model.note, f"{model.from_ledger:,} from the ledger" if model.from_ledger else ""]
    if model.failed:
        parts.append(f"{model.failed:,} failed")
    if model.retries:
        parts.append(f"{counted(model.retries, 'retry')} ({shortened(model.trouble, 60)})")
    return visible(", ".join(filter(None, parts)))
