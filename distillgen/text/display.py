"""Texts, numbers and records for people, on a terminal or a page."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from distillgen.record import Record

# control characters except newline and tab, marks of text direction, lone surrogates, invisible tags
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """Return text with visible signs for the characters that a terminal or browser would obey."""
    return _INVISIBLE.sub(lambda m: chr(0x2400 + ord(m[0])) if m[0] < " " else f"⟨U+{ord(m[0]):04X}⟩", text)


def clipped(value: object, width: int = 160) -> str:
    """Return a value as one visible line of at most `width` characters."""
    line = " ".join(visible(str(value)).split())
    return line if len(line) <= width else line[: width - 1] + "…"


def shortened(text: str, width: int) -> str:
    """Return text as one visible line of at most `width` characters, cut between words where it can be."""
    line = " ".join(visible(text).split())
    if len(line) <= width:
        return line
    cut = line[: max(1, width - 1)]
    words = cut.rpartition(" ")[0] if line[len(cut)] != " " else cut
    return (words if len(words) > width / 2 else cut).rstrip() + "…"


def fitting(items: Sequence[str], width: int) -> str:
    """Return as many items as fit into `width` characters, with commas between, and how many more there are;
    "" if not even the first one fits.
    """
    texts = [" ".join(visible(item).split()) for item in items]
    for count in range(len(texts), 0, -1):
        more = f", {len(texts) - count} more" if count < len(texts) else ""
        line = ", ".join(texts[:count]) + more
        if len(line) <= width:
            return line
    return ""


def field_lines(record: Record, width: int, most: int = 24, rest: str = "") -> list[str]:
    """Return a line for each of the first fields of a record, at most `most`, and one for the `rest`.

    `messages`, which repeats the others, is shown only if it is the only field.
    """
    fields = {
        name: value for name, value in record.fields.items() if name != "messages" or len(record.fields) == 1
    }
    lines = [
        f"{clipped(name, 20)}: {clipped(value, width - len(name) - 4)}" for name, value in fields.items()
    ]
    if len(lines) <= most + 1:
        return lines
    return [*lines[:most], f"… and {len(lines) - most} more fields{rest}"]


def dropped(counts: Mapping[str, int]) -> str:
    """Return `dropped 41 (grounded 29, brevity 12)`, or "" without counts."""
    return f"dropped {sum(counts.values()):,} ({reasons(counts)})" if counts else ""


def gathered(stages: Iterable[Mapping[str, Any]]) -> int:
    """Return how many records were gathered into others. The stages are as in `usage.json`."""
    return sum(stage.get("gathered", 0) for stage in stages)


def reasons(counts: Mapping[str, int]) -> str:
    """Return `grounded 29, brevity 12`, the most frequent first."""
    return ", ".join(f"{name} {count:,}" for name, count in Counter(counts).most_common())


def counted(count: int, noun: str) -> str:
    """Return `1 answer` or `1,200 answers`."""
    plural = noun if count == 1 else f"{noun[:-1]}ies" if noun.endswith("ry") else f"{noun}s"
    return f"{count:,} {plural}"


def money(usd: float) -> str:
    """Return US dollars; amounts under a cent have two significant digits."""
    if 0 < usd < 0.0001:
        return "under $0.0001"
    return f"${usd:.2g}" if 0 < usd < 0.01 else f"${usd:,.2f}"


def duration(seconds: float) -> str:
    """Return `1:02:03` or `0:16`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def number(value: float) -> str:
    """Return a measurement with three significant digits."""
    return f"{value:,.0f}" if 100 <= abs(value) < 1e12 else f"{value:.3g}"


def name_width(names: Iterable[str]) -> int:
    """Return the width of a column of names: that of the longest, from 12 to 30."""
    return min(max([12, *map(len, names)]), 30)


def stage_line(stage: Mapping[str, Any], total: int | None, wide: int = 12) -> str:
    """Return the line of a stage: progress, records kept and dropped, measurements. `stage` is as in
    `usage.json`, and its name takes `wide` columns.
    """
    done = f"{stage['sources']:,}" + (f"/{total:,}" if total is not None else "")
    parts = f"gathered {count:,}" if (count := gathered([stage])) else ""
    notes = ", ".join(
        filter(
            None,
            (parts, dropped(stage["dropped"]), *(f"{k} {number(v)}" for k, v in stage["measured"].items())),
        )
    )
    return f"{stage['name']:<{wide}} {done:>13}  kept {stage['kept']:<6,}  {notes}".rstrip()
