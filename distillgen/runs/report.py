"""What a run did, as one HTML page for people. It reads the run's rows once, memory flat."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Container, Mapping
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

from distillgen.algorithms.reservoir import Reservoir
from distillgen.record import META, Record, loads_own
from distillgen.runs import charts
from distillgen.runs.directory import Run, evaluations, furthest, reached, read_lines
from distillgen.runs.templates import template
from distillgen.text import display

SAMPLE = 5_000  # rows from which reasons and scores are told
EXAMPLES, DROPPED_EXAMPLES = (
    12,
    40,
)  # of those that were kept, or that one filter dropped; of all dropped ones

_VARIES = re.compile(r"""'[^']*'|"[^"]*"|\w*\d[\w.,]*|(?<=: ).+""", re.DOTALL)


def write_report(directory: Path) -> None:
    """Write `report.html`: one page without scripts or network, on which what others wrote is only ever text."""
    facts = facts_of(directory)
    sample, kept, dropped = _read(furthest(directory, facts["state"]["stages"]))
    reasons = defaultdict[tuple[str, str], defaultdict[str, list[str]]](lambda: defaultdict(list))
    scores = defaultdict[str, list[tuple[float, str]]](list)
    for why, measured in sample:
        if why:
            alike = _VARIES.sub("…", why["reason"][:300])
            reasons[why["stage"], why["filter"]][alike].append(why["reason"])
        for name, value in measured.items():
            if value is not None:  # JSON's word for a log-probability of -inf
                own = why and f"{name}.".startswith(f"{why['filter']}.")
                scores[name].append((float(value), "l" if own else "e" if why else "k"))
    page = template(Path(__file__).with_name("report.html.jinja"), display.visible, autoescape=True).render(
        **facts,
        sampled=len(sample),
        reasons={drop: sorted(kinds.values(), key=len, reverse=True) for drop, kinds in reasons.items()},
        histograms={name: charts.histogram(scores[name]) for name in sorted(scores)},
        critics=charts.critics(directory, facts["lock"]),
        evaluations=[{**found, "budgets": charts.budgets(found)} for found in evaluations(directory)],
        graphs=charts.graphs(directory),
        costs=_costs(facts["state"], facts["priced"]),
        students=charts.students(directory),
        loops=charts.loops(directory, facts["lock"]),
        kept_examples=kept,
        dropped_examples=dropped,
    )
    (directory / "report.html").write_text(page, encoding="utf-8")


def facts_of(directory: Path) -> dict[str, Any]:
    """What page and card both tell, from `usage.json` and the lock."""
    state, lock = Run(directory).state, Run(directory).lock
    stages = state["stages"]
    came = reached(stages)
    partial = state["state"]
    if partial == "finished":  # perhaps --until
        partial = "" if came == stages else f"carried out up to the stage {came[-1]['name']}"
    at = datetime.fromisoformat(state["updated_at"])
    about = lock["about"].strip()
    commands = lock.get("commands") or [f"distillgen run {lock['pipeline']}"]
    drops = [(stage["name"], name, count) for stage in stages for name, count in stage["dropped"].items()]
    return {
        "state": state,
        "lock": lock,
        "reached": came,
        "partial": partial,
        "drops": sorted(drops, key=lambda drop: -drop[2]),
        "priced": {name for name, model in lock["models"].items() if model.get("price")},
        "about": about and about[0].upper() + about[1:] + "." * (about[-1] not in ".!?…"),
        "command": "\n".join(commands),
        "withheld": "…" in " ".join(commands),
        "at": f"{at.day} {at:%B %Y, %H:%M} UTC",
    }


def _read(path: Path) -> tuple[list[tuple[Any, Mapping[str, float]]], list[Record], list[Record]]:
    """One pass over the rows: why a fixed sample of them was dropped and how it scored; the first kept and dropped ones."""
    sample = Reservoir[tuple[Any, Mapping[str, float]]](SAMPLE, random.Random(0))
    examples = defaultdict[tuple[str, str] | None, list[Record]](list)
    for line in read_lines(path):
        place = sample.place()
        if place is None and len(examples[None]) >= EXAMPLES and b'"dropped":{' not in line:
            continue  # one more that was kept
        row = loads_own(line)
        meta = row[META]
        why = meta.get("dropped")
        if place is not None:
            sample.put(place, (why, meta["scores"]))
        alike = examples[(why["stage"], why["filter"]) if why else None]
        if len(alike) < EXAMPLES:
            alike.append(Record.from_row(row))
    kept = examples.pop(None, [])
    turns = zip_longest(*examples.values())
    dropped = [record for turn in turns for record in turn if record]
    return sample.items, kept, dropped[:DROPPED_EXAMPLES]


def _costs(state: Mapping[str, Any], priced: Container[str]) -> list[dict[str, Any]]:
    """What each filter cost, and how many records another order of the list would have spared one that asks models."""
    rows = []
    for stage in state["stages"]:
        asked = {
            label: [use for use in state["usage"] if use["stage"] == f"{stage['name']}/{label}"]
            for label in stage["costs"]
        }
        for label, cost in stage["costs"].items():
            behind = list(asked)[list(asked).index(label) + 1 :]
            spared = (
                sum(stage["dropped"].get(other, 0) for other in behind if not asked[other])
                if asked[label]
                else 0
            )
            total = {key: sum(use[key] for use in asked[label]) for key in ("requests", "cost_usd")}
            known = all(use["model"] in priced for use in asked[label])
            rows.append(
                {"stage": stage["name"], "filter": label, **cost, **total, "priced": known, "spared": spared}
            )
    return rows
