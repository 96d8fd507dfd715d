"""Printing the comparison of two runs."""

from __future__ import annotations

import json
import os
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distillgen.cli.show import say
from distillgen.record import text_of
from distillgen.text.display import clipped, money, number

if TYPE_CHECKING:
    from distillgen.viewer.comparison import Comparison, Pair

WIDTHS = (10, 10, 11, 19, 7)  # of the columns of figures


def diff(names: Sequence[str], figures: Mapping[str, Any], comparison: Comparison, count: int) -> None:
    """Print the figures of two runs, and so many rows of each kind of change."""
    width = min(shutil.get_terminal_size((80, 24)).columns, 120)
    short = [clipped(name, WIDTHS[0] - 1) for name in names]
    for name, first, second in figures["pipeline"]:
        say(f"{name}: {_value(first)} → {_value(second)}")
    say(f"\n{'':<20}" + "".join(f"{name:>16}" for name in short), bold=True)
    for title, values in figures["totals"]:
        cells = [money(value) if title == "cost_usd" else f"{value:,}" for value in values]
        say(f"{title.replace('cost_usd', 'cost'):<20}" + "".join(f"{cell:>16}" for cell in cells))
    say("\n" + textwrap.fill(_changes(figures), width), bold=True)
    for title, key, entries in (
        ("score, by item", "score", figures["scores"]),
        ("metric, by item", "metric", figures["evaluations"]),
    ):
        if entries:
            heads = (*short, "difference", "95 % interval", "p")
            rest = width - sum(WIDTHS)
            say(f"\n{clipped(title, rest):<{rest}}" + _cells(heads), bold=True)
        for entry in entries:
            label = f"{entry['model']} {entry['metric']}" if key == "metric" else entry[key]
            ends = "" if entry["low"] is None else f"{entry['low']:+.3g} to {entry['high']:+.3g}"
            cells = [number(entry["first"]), number(entry["second"]), f"{entry['difference']:+.3g}", ends]
            say(f"{clipped(label, rest):<{rest}}" + _cells((*cells, f"{entry['p']:.3f}")))
    for kind in ("changed", "gained", "lost"):
        pairs = comparison.pairs(kind, 0, count)
        if pairs:
            say(f"\n{kind}, {len(pairs)} of {comparison.counts[kind]:,}", bold=True)
        for pair in pairs:
            _pair(pair, width)


def _changes(figures: Mapping[str, Any]) -> str:
    """Return `160 rows are the same, 12 changed, 31 gained (dropped before by filter/word_count: 31)`."""
    rows, parts = figures["rows"], []
    for kind in ("changed", "gained", "lost"):
        reasons = [f"{why or 'not there'} {count:,}" for why, count in figures["reasons"].get(kind, ())]
        place = {"gained": "in the first run", "lost": "in the second run"}.get(kind)
        parts.append(f"{rows[kind]:,} {kind}" + (f" ({place}: {', '.join(reasons)})" if reasons else ""))
    return f"{rows['same']:,} rows the same, {', '.join(parts)}"


def _pair(pair: Pair, width: int) -> None:
    """Print the fields of a pair that differ, or those of the row that only one run has."""
    first, second = (
        record.fields if record and not record.dropped else {} for record in (pair.first, pair.second)
    )
    record = pair.second if second else pair.first
    assert record
    say(f"{record.id}  {clipped(record.source, width - 24)}")
    for name in dict.fromkeys([*first, *second]):
        if first.get(name) == second.get(name) or name == "messages" and len({*first, *second}) > 1:
            continue
        texts = [text_of(fields[name]) if name in fields else None for fields in (first, second)]
        equal = 0 if None in texts else max(0, len(os.path.commonprefix([*filter(None, texts)])) - 20)
        for sign, text in zip("-+", texts, strict=True):
            if text is not None:
                label = f"  {sign} {clipped(name, 20)}: " + "…" * (equal > 0)
                say(label + clipped(text[equal:], width - len(label)))


def _cells(texts: Sequence[str]) -> str:
    return "".join(f"{text:>{width}}" for text, width in zip(texts, WIDTHS, strict=True))


def _value(value: Any) -> str:
    if value is None:
        return "none"
    return clipped(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), 60)
