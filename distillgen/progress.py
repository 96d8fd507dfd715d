"""What a person sees while a run goes on: a line a stage, and never a silent wait."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live as Display
from rich.text import Text

from distillgen.record import Record

if TYPE_CHECKING:
    from distillgen.execution import Live, StageCount

SILENCE_S = 30.0
PLAIN_EVERY_S = 10.0

# C0 but newline and tab, DEL, C1, and the marks that turn the direction of text: a terminal would obey them
_OBEYED = {i: f"\\x{i:02x}" for i in (*range(9), *range(11, 32), *range(127, 160))} | {
    i: f"\\u{i:04x}" for i in (0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A), 0xFEFF)
}


def printable(text: object) -> str:
    """Text that a terminal shows and does not obey."""
    return str(text).translate(_OBEYED)


def clipped(value: object, width: int = 160) -> str:
    """One printable line of at most `width` characters."""
    line = " ".join(printable(value).split())
    return line if len(line) <= width else line[: width - 1] + "…"


def drops(counts: Counter[str] | dict[str, int]) -> str:
    """`41 (grounded 29, brevity 12)`."""
    named = ", ".join(f"{name} {n:,}" for name, n in sorted(counts.items(), key=lambda kv: (-kv[1], kv[0])))
    return f"{sum(counts.values()):,}" + (f" ({named})" if named else "")


def money(usd: float) -> str:
    """US dollars; amounts under a cent keep two digits that count."""
    return f"${usd:,.2f}" if usd >= 0.01 or usd == 0 else f"${usd:.2g}"


def duration(seconds: float) -> str:
    """`1:02:03` or `0:16`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Rates:
    """Speeds over the last half minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, int]] = deque()

    def note(self, answered: int, rows: int) -> None:
        """Remember where things stand now."""
        now = time.monotonic()
        if answered and self._seen and not self._seen[-1][1]:
            self._seen.clear()  # what was replayed before the first answer tells nothing about the speed of asking
        self._seen.append((now, answered, rows))
        while self._seen[0][0] < now - 30 and len(self._seen) > 2:
            self._seen.popleft()

    def per_s(self) -> tuple[float, float]:
        """Answers and source rows a second."""
        (t0, a0, r0), (t1, a1, r1) = self._seen[0], self._seen[-1]
        return ((a1 - a0) / (t1 - t0), (r1 - r0) / (t1 - t0)) if t1 > t0 else (0.0, 0.0)


def stage_line(live: Live, count: StageCount) -> str:
    """One stage: how far, kept, dropped."""
    total = f"/{live.total:,}" if live.total is not None else ""
    line = f"{count.name:<12} {f'{count.sources:,}{total}':>13}  kept {count.kept:<6,}"
    return line + (f" dropped {drops(count.dropped)}" if count.dropped else "")


def teacher_lines(live: Live, per_s: float) -> Iterable[str]:
    """One line a model: in flight, speed, tokens, money, trouble."""
    most = live.most_usd
    for name, teacher in live.teachers.items():
        a = teacher.activity
        if not a.answered and not a.sending and not a.note and not a.retries:
            continue
        parts = [f"{len(a.sending)} in flight", f"{a.answered:,} answered", f"{per_s:.{1 if per_s < 10 else 0}f}/s"]
        parts.append(f"{a.input_tokens + a.output_tokens:,} tokens")
        if teacher.spec.price:
            parts.append(f"{money(live.budget.spent)}{f' of at most {money(most)}' if most else ''}")
        parts += [f"{a.retries} retries ({clipped(a.trouble, 60)})"] if a.retries else []
        parts += [f"{a.failed} failed"] if a.failed else []
        yield f"{name:<12} {a.note or '  '.join(parts)}"


def remaining(live: Live, rows_per_s: float) -> str:
    """The time that is left at the present speed."""
    done = live.stages[live.last].sources
    if live.total is None or not rows_per_s or not done:
        return ""
    return f"{duration((live.total - done) / rows_per_s)} left"


def waiting(live: Live) -> str:
    """What is being waited for, when nothing has moved for a while."""
    now = time.monotonic()
    moved = max([live.started, *(t.activity.moved_at for t in live.teachers.values())])
    if now - moved < SILENCE_S:
        return ""
    parts = []
    for name, teacher in live.teachers.items():
        a = teacher.activity
        if a.note:
            parts.append(f"{name}: {a.note}")
        elif a.sending:
            oldest = now - min(a.sending.values())
            where = clipped(teacher.redact(teacher.identity), 60)
            parts.append(f"{len(a.sending)} answers of {name} ({where}), the oldest asked {oldest:.0f} s ago")
        elif a.trouble:
            parts.append(f"{name}, which could not answer: {clipped(a.trouble, 80)}")
    return f"nothing has moved for {now - moved:.0f} s; waiting for {'; '.join(parts) or 'a stage to finish'}"


def fields_text(record: Record, width: int) -> list[str]:
    """A record's own fields, a line each; a field that repeats others inside messages is left out."""
    shown = {k: v for k, v in record.fields.items() if k != "messages" or len(record.fields) == 1}
    return [f"{clipped(name, 20)}: {clipped(value, width - len(name) - 4)}" for name, value in shown.items()]


async def watch(live: Live, console: Console) -> None:
    """Draw until cancelled: live lines on a terminal, plain ones elsewhere."""
    rates = Rates()
    if console.is_terminal:
        with Display(console=console, refresh_per_second=4, transient=False) as display:
            try:
                while True:
                    display.update(_frame(live, rates, display))
                    await asyncio.sleep(0.25)
            finally:
                display.update(_frame(live, rates, display))
    printed = warned = 0.0
    try:
        while True:
            _first(live, console.print)
            rates.note(*_standing(live))
            now = time.monotonic()
            if now - printed >= PLAIN_EVERY_S:
                printed = now
                console.print(Text(_plain(live, *rates.per_s())), soft_wrap=True)
            if (message := waiting(live)) and now - warned >= SILENCE_S:
                warned = now
                console.print(Text(message), soft_wrap=True)
            await asyncio.sleep(0.5)
    finally:
        _first(live, console.print)


def _plain(live: Live, per_s: float, rows_per_s: float) -> str:
    """All stages in one line, for logs."""
    active = [c for c in live.stages if c.sources and c.kind != "source"]
    line = "  |  ".join(" ".join(stage_line(live, c).split()) for c in active) or "starting"
    doing = [t.activity.note or f"{len(t.activity.sending)} in flight" for t in live.teachers.values()]
    speed = [f"{per_s:.1f}/s", remaining(live, rows_per_s)] if active else []
    return "  ".join(part for part in [line, *doing, *speed] if part)


def _standing(live: Live) -> tuple[int, int]:
    return sum(t.activity.answered for t in live.teachers.values()), live.stages[live.last].sources


def _first(live: Live, write: Any) -> None:
    """Show the first kept row once, as soon as it is there."""
    if live.first_kept and not live.first_shown:
        live.first_shown = True
        write(Text(f"first kept row, after {duration(time.monotonic() - live.started)}:"))
        for line in fields_text(live.first_kept, 150):
            write(Text("  " + line), soft_wrap=True)


def _frame(live: Live, rates: Rates, display: Display) -> Text:
    _first(live, display.console.print)
    rates.note(*_standing(live))
    per_s, rows_per_s = rates.per_s()
    lines = [stage_line(live, count) for count in live.stages]
    lines += [*teacher_lines(live, per_s), remaining(live, rows_per_s), waiting(live)]
    if live.stopping:
        flying = sum(len(t.activity.sending) for t in live.teachers.values() if t.paid)
        lines.append(f"stopping; {flying} answers that are paid for are on their way (Ctrl-C again gives them up)" * bool(flying))
    return Text("\n".join(line for line in lines if line))
