"""The report of a run: an HTML page for people. It reads the rows once, with a fixed amount of memory."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from distillgen.algorithms.reservoir import Reservoir
from distillgen.record import GATHERED, META, Record, loads_own
from distillgen.runs import charts
from distillgen.runs.directory import Run, evaluations, furthest, project_root, reached, read_lines
from distillgen.runs.prompt_texts import prompt_texts
from distillgen.runs.searches import searches
from distillgen.runs.templates import template
from distillgen.runs.thumbnails import MOST_SHOWN, are_files, shown_files
from distillgen.state_files import replace_text
from distillgen.text import display

SAMPLE = 5_000  # rows from which reasons and scores are shown
EXAMPLES = 12  # of the kept records, and of the records that one filter dropped
DROPPED_EXAMPLES = 40  # of all filters together

_VARYING = re.compile(r"""'[^']*'|"[^"]*"|\w*\d[\w.,]*|(?<=: ).+""", re.DOTALL)
"""The parts of a reason that differ from record to record."""


def write_report(directory: Path) -> None:
    """Write `report.html`, a page without scripts and network that escapes every text of models and users."""
    facts = facts_of(directory)
    sample, kept, dropped = _read(furthest(directory, facts["state"]["stages"]))
    reasons = defaultdict[tuple[str, str], defaultdict[str, list[str]]](lambda: defaultdict(list))
    scores = defaultdict[str, list[tuple[float, str]]](list)
    for drop, record_scores in sample:
        if drop:
            kind = _VARYING.sub("…", drop["reason"][:300])
            reasons[drop["stage"], drop["filter"]][kind].append(drop["reason"])
        for name, value in record_scores.items():
            if value is not None:  # a log-probability of -inf, which JSON cannot write
                is_reason = drop and f"{name}.".startswith(f"{drop['filter']}.")
                scores[name].append((float(value), "l" if is_reason else "e" if drop else "k"))
    page = template(Path(__file__).with_name("report.html.jinja"), display.visible, autoescape=True).render(
        **facts,
        sampled=len(sample),
        reasons={drop: sorted(kinds.values(), key=len, reverse=True) for drop, kinds in reasons.items()},
        histograms={name: _histogram(name, scores[name], facts["lock"]) for name in sorted(scores)},
        prompts=_prompts(directory, facts["lock"]),
        critics=charts.critics(directory, facts["lock"]),
        evaluations=[{**state, "budgets": charts.budgets(state)} for state in evaluations(directory)],
        graphs=charts.graphs(directory),
        costs=_costs(facts["state"], facts["priced"]),
        students=charts.students(directory),
        loops=charts.loops(directory, facts["lock"]),
        searches=searches(directory, facts["lock"]),
        kept_examples=kept,
        dropped_examples=dropped,
        are_files=are_files,
        shown_files=partial(shown_files, root=project_root(directory)),
        most_shown=MOST_SHOWN,
    )
    replace_text(directory / "report.html", page)


def facts_of(directory: Path) -> dict[str, Any]:
    """Return the facts that the report and the card both show, from `usage.json` and the lock file."""
    run = Run(directory)
    state, lock = run.state, run.lock
    stages = state["stages"]
    reached_stages = reached(stages)
    partial = state["state"]
    if partial == "finished":  # also with --until
        partial = (
            "" if reached_stages == stages else f"carried out up to the stage {reached_stages[-1]['name']}"
        )
    at = datetime.fromisoformat(state["updated_at"])
    about = lock["about"].strip()
    commands = lock.get("commands") or [f"distillgen run {lock['pipeline']}"]
    drops = [(stage["name"], name, count) for stage in stages for name, count in stage["dropped"].items()]
    return {
        "state": state,
        "lock": lock,
        "reached": reached_stages,
        "partial": partial,
        "gathered": display.gathered(stages),
        "drops": sorted(drops, key=lambda drop: -drop[2]),
        "priced": {name for name, model in lock["models"].items() if model.get("price")},
        "about": about and about[0].upper() + about[1:] + "." * (about[-1] not in ".!?…"),
        "command": "\n".join(commands),
        "withheld": "…" in " ".join(commands),
        "at": f"{at.day} {at:%B %Y, %H:%M} UTC",
    }


def _histogram(name: str, scores: Sequence[tuple[float, str]], lock: Mapping[str, Any]) -> dict[str, Any]:
    """Return the histogram of a score with the thresholds of its filter."""
    histogram = charts.histogram(scores)
    kept = histogram["tones"]["k"]
    bounds = charts.thresholds(lock, name, (min(kept), max(kept)) if kept else None)
    return {**histogram, "lines": charts.threshold_lines(histogram, bounds)}


def _prompts(directory: Path, lock: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the text of each prompt by its name, and of each template that a stage has in its place; None
    for a file that has changed since the run.
    """
    texts = prompt_texts(directory, lock)
    for stage in lock["stages"]:
        options = next(iter(stage.values()))
        if options.get("template"):
            texts[f"{options['name']} (template)"] = str(options["template"])
    return texts


def _read(path: Path) -> tuple[list[tuple[Any, Mapping[str, float]]], list[Record], list[Record]]:
    """Return drops and scores of a sample of rows, and a sample of kept records and of those that each filter
    dropped, in one pass.

    The samples are the same for the same rows, and in their order.
    """
    sample = Reservoir[tuple[Any, Mapping[str, float]]](SAMPLE, random.Random(0))
    examples = defaultdict[tuple[str, str] | None, Reservoir[tuple[int, bytes]]](
        lambda: Reservoir(EXAMPLES, random.Random(0))
    )
    for number, line in enumerate(read_lines(path)):
        place = sample.place()
        if b'"dropped":{' not in line:  # a kept record, which most often is in no sample
            examples[None].add((number, line))
            if place is None:
                continue
        meta = loads_own(line)[META]
        drop = meta.get("dropped")
        part = drop is not None and drop["filter"] == GATHERED
        if place is not None:
            sample.put(place, (None if part else drop, meta["scores"]))
        if part or b'"dropped":{' not in line:
            continue
        kind = (drop["stage"], drop["filter"]) if drop else None
        examples[kind].add((number, line))
    records = {
        kind: [Record.from_row(loads_own(line)) for _, line in sorted(similar.items)]
        for kind, similar in examples.items()
    }
    kept = records.pop(None, [])
    rounds = zip_longest(*records.values())  # one of each filter in turn
    dropped = [record for records in rounds for record in records if record]
    return sample.items, kept, dropped[:DROPPED_EXAMPLES]


def _costs(state: Mapping[str, Any], priced: Container[str]) -> list[dict[str, Any]]:
    """Return the cost of each filter, and how many records a filter that asks models was asked about in vain.

    These are the records that a later filter dropped without asking a model.
    """
    rows = []
    for stage in state["stages"]:
        usage = {
            label: [use for use in state["usage"] if use["stage"] == f"{stage['name']}/{label}"]
            for label in stage["costs"]
        }
        labels = list(usage)
        for position, (label, cost) in enumerate(stage["costs"].items()):
            later = labels[position + 1 :] if usage[label] else []
            row = {"stage": stage["name"], "filter": label, **cost}
            row |= {key: sum(use[key] for use in usage[label]) for key in ("requests", "cost_usd")}
            row["priced"] = all(use["model"] in priced for use in usage[label])
            row["spared"] = sum(stage["dropped"].get(other, 0) for other in later if not usage[other])
            rows.append(row)
    return rows
