"""Printing the plan of a pipeline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from distillgen.cli.show import broken, columns, say
from distillgen.text.display import duration, money, shortened

COUNTS = ("rows", "requests", "input_tokens", "output_tokens")


def plan(
    stages: Sequence[Mapping[str, Any]],
    titles: Sequence[str],
    totals: Mapping[str, Any],
    likely: Mapping[str, Any],
) -> None:
    """Print the most that each stage asks, what is likely, and how much is done already."""
    rows = [("at most", *(name.replace("_", " ") for name in COUNTS), "cost")]
    bounds = [*stages, {"rows": stages[-1]["rows"], **totals}]
    rows += [_cells(title, row) for title, row in zip((*titles, "total"), bounds, strict=True)]
    if likely["requests"] is not None and totals["requests"] != 0:
        rows.append(_cells("likely", {"rows": None, **likely, "max_cost_usd": likely["cost_usd"]}, ""))
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    wide[0] = min(wide[0], max(12, columns() - sum(n + 2 for n in wide[1:])))
    for title, *cells in ((shortened(title, wide[0]), *cells) for title, *cells in rows):
        line = f"{title:<{wide[0]}}" + "".join(
            f"  {cell:>{n}}" for cell, n in zip(cells, wide[1:], strict=True)
        )
        say(line.rstrip(), bold=title in ("at most", "likely"))
    if (likely["seconds"] or 0) >= 1:
        say(f"about {duration(likely['seconds'])} at the pace of the answers so far")
    if parts := [f"{row['stage']} {math.floor(100 * row['done'])} %" for row in stages if row["done"]]:
        say(broken(f"done or in the ledger, and subtracted: {', '.join(parts)}"))
    for row in (row for row in stages if row["met"] is not None and row["requests"]):
        share = f"its condition held for {row['met']:.0%} of the records so far"
        requests = f"{row['met'] * row['requests']:,.0f} requests"
        say(broken(f"{row['stage']}: {share}, which would make {requests}"))
    for row in (row for row in stages if row["spared"]):
        exceed = f"at least {row['spared']:,} records get no request: they exceed its budget"
        say(broken(f"{row['stage']}: {exceed}"))
    say("input tokens are estimated from the first 200 rows;")
    say("the cost takes the longest of them for every row")
    if totals["output_tokens"] is None:
        say(broken("no bound: set max_tokens in the prompt's sampling, the model or the stage"))


def _cells(title: str, row: Mapping[str, Any], unknown: str = "no bound") -> tuple[str, ...]:
    counts = [unknown if row[name] is None else f"{row[name]:,}" for name in COUNTS]
    cost = row["max_cost_usd"]
    return title, *counts, unknown if cost is None else money(cost)
