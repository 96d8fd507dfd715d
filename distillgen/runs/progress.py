"""The display of a run: a line per stage, a line per model, and the reason for a long wait."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live as Display
from rich.text import Text

from distillgen.text.display import clipped, duration, field_lines, money, stage_line, visible

if TYPE_CHECKING:
    from distillgen.inference.teacher import Teacher
    from distillgen.runs.state import Live

SILENCE_S = 30.0
DRAW_EVERY_S = 0.5
PLAIN_EVERY = 20  # draws between two plain lines, without a terminal


async def watch(live: Live, console: Console | None = None) -> None:
    """Draw until cancelled: live lines on a terminal, otherwise a plain line every ten seconds."""
    screen = console or Console(stderr=True, highlight=False, markup=False)
    warned: list[str] = []
    standings: deque[tuple[float, int, dict[str, int]]] = deque(maxlen=round(30 / DRAW_EVERY_S))

    def draw() -> list[str]:
        if live.first_kept and not live.first_shown:
            live.first_shown = True
            after = f"first kept row, after {duration(time.monotonic() - live.started)}:"
            screen.print(Text("\n  ".join([after, *field_lines(live.first_kept, 150)])), soft_wrap=True)
        for text in live.warnings[len(warned) :]:
            warned.append(text)
            screen.print(Text(f"note: {visible(text)}"), soft_wrap=True)
        answered = {name: teacher.activity.answered for name, teacher in live.teachers.items()}
        standings.append((time.monotonic(), live.stages[live.last].sources, answered))
        (now, done, _), (before, done_before, answered_before) = standings[-1], standings[0]
        recent = {name: count - answered_before.get(name, 0) for name, count in answered.items()}
        lines = [*_lines(live, now - before, done - done_before, recent)]
        display.update(Text(visible("\n".join(lines))), refresh=True)
        return lines

    with Display(console=screen, auto_refresh=False, transient=not screen.is_interactive) as display:
        try:
            for drawn in itertools.count():
                lines = draw()
                if not screen.is_interactive and drawn % PLAIN_EVERY == 0:
                    screen.print(Text("  |  ".join(map(clipped, lines))), soft_wrap=True)
                await asyncio.sleep(DRAW_EVERY_S)
        finally:
            draw()


def _lines(live: Live, seconds: float, rows: int, answered: Mapping[str, int]) -> Iterator[str]:
    """Give a line for each stage and model, then the cost, the time left, and what the run waits for.

    `rows` were finished in the last `seconds`; `answered` is the number of answers of each model in that
    time.
    """
    for count in live.stages:
        yield stage_line(vars(count), live.total)
    for name, note in live.notes.items():
        yield f"{name:<12} {note}"
    costs: dict[str, float] = dict.fromkeys(live.teachers, 0.0)
    for used in live.ledger.usage(live.ledger_run):
        costs[used.model] = costs.get(used.model, 0.0) + used.cost_usd
    for name, teacher in live.teachers.items():
        a = teacher.activity
        parts = [
            f"{len(a.sending)} in flight",
            f"{a.answered:,} answered",
            f"{answered[name] / (seconds or 1):.1f}/s",
        ]
        parts += [f"{a.input_tokens + a.output_tokens:,} tokens"]
        parts += [money(costs[name])] if teacher.spec.price else []
        parts += [f"{a.retries} retries ({clipped(a.trouble, 60)})"] if a.retries else []
        parts += [f"{a.failed} failed"] if a.failed else []
        yield f"{name:<12} {a.note or '  '.join(parts)}"
    if any(teacher.spec.price for teacher in live.teachers.values()):
        most = " of all seeds" if live.budget.shared else f" of at most {money(live.most_usd)}"
        yield f"{'cost':<12} {money(live.budget.spent)}{most}"
    if live.total is not None and rows:
        remaining = max(0, live.total - live.stages[live.last].sources)  # a stage may add rows of its own
        yield f"{duration(remaining * seconds / rows)} left"
    flying = sum(len(teacher.activity.sending) for teacher in live.teachers.values() if teacher.paid)
    if live.stopping and flying:
        yield f"stopping; waiting for {flying} answers that are paid for (Ctrl-C again gives them up)"
    still = time.monotonic() - max(
        [live.started, *(teacher.activity.moved_at for teacher in live.teachers.values())]
    )
    if still >= SILENCE_S and not live.notes:
        waits = [
            _waiting_for(name, teacher) for name, teacher in live.teachers.items() if teacher.activity.sending
        ]
        yield f"nothing has moved for {still:.0f} s; waiting for {'; '.join(waits) or 'a stage to finish'}"


def _waiting_for(name: str, teacher: Teacher) -> str:
    sending = teacher.activity.sending
    oldest = time.monotonic() - min(sending.values())
    where = clipped(teacher.redact(teacher.identity), 60)
    return f"{len(sending)} answers of {name} ({where}), the oldest asked {oldest:.0f} s ago"
