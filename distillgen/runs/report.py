"""What a run did, as one HTML page for people. It reads the run's rows once, memory flat."""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from distillgen.privacy import public
from distillgen.record import META, Record, loads_own
from distillgen.runs.directory import Run, evaluations, furthest, reached, read_lines
from distillgen.state_files import load_state
from distillgen.text import display

SAMPLE = 5_000  # rows from which reasons and scores are told
EXAMPLES, DROPPED_EXAMPLES = (
    12,
    40,
)  # of those that were kept, or that one filter dropped; of all dropped ones
BARS = 32
TONES = 8  # communities of a graph that have a colour of their own
FEW = 10  # a precision over fewer kept labels than this is not drawn

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
        histograms={name: _histogram(scores[name]) for name in sorted(scores)},
        critics=_critics(directory, facts["lock"]),
        evaluations=[{**found, "budgets": _budgets(found)} for found in evaluations(directory)],
        graphs=_graphs(directory),
        costs=_costs(facts["state"], facts["priced"]),
        students=_students(directory),
        loops=_loops(directory, facts["lock"]),
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
        "at": datetime.fromisoformat(state["updated_at"]).strftime("%-d %B %Y, %H:%M UTC"),
    }


def _read(path: Path) -> tuple[list[tuple[Any, Mapping[str, float]]], list[Record], list[Record]]:
    """One pass over the rows: why a fixed sample of them was dropped and how it scored; the first kept and dropped ones."""
    sample: list[tuple[Any, Mapping[str, float]]] = []
    examples = defaultdict[tuple[str, str] | None, list[Record]](list)
    chance = random.Random(0)
    for number, line in enumerate(read_lines(path)):
        place = number if number < SAMPLE else chance.randrange(number + 1)
        if place >= SAMPLE and len(examples[None]) >= EXAMPLES and b'"dropped":{' not in line:
            continue  # one more that was kept
        row = loads_own(line)
        meta = row[META]
        why = meta.get("dropped")
        if place < SAMPLE:
            sample[place : place + 1] = [(why, meta["scores"])]
        alike = examples[(why["stage"], why["filter"]) if why else None]
        if len(alike) < EXAMPLES:
            alike.append(Record.from_row(row))
    kept = examples.pop(None, [])
    turns = zip_longest(*examples.values())
    dropped = [record for turn in turns for record in turn if record]
    return sample, kept, dropped[:DROPPED_EXAMPLES]


def _histogram(found: Sequence[tuple[float, str]]) -> dict[str, Any]:
    """Bars of equal width, by tone: kept (k), lost for this score (l), lost elsewhere (e).

    Where the middle 98 % are close together, what is far outside joins the outermost bars.
    """
    values = sorted(min(max(value, -1e300), 1e300) for value, _ in found)  # so that differences are finite
    least, most = values[0], values[-1]
    low, high = values[len(values) // 100], values[-1 - len(values) // 100]
    if low == high or most - least <= 4 * (high - low):
        low, high = least, most
    width = (high - low) / BARS or 1.0
    if all(value.is_integer() for value in values):
        width = int(width) + 1

    def bar(value: float) -> int:
        return min(int((min(max(value, low), high) - low) / width), BARS - 1)

    bars = [Counter[str]() for _ in range(bar(high) + 1)]
    for value, tone in found:
        bars[bar(value)][tone] += 1
    tones = {tone: [value for value, own in found if own == tone] for tone in "kle"}
    return {
        "total": len(found),
        "tones": tones,
        "bars": bars,
        "tallest": max(bar.total() for bar in bars),
        "least": least,
        "low": low,
        "high": high,
        "most": most,
    }


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


def _critics(directory: Path, lock: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each critic tells of itself, and its curves as SVG paths, 200 wide and 100 high: precision over recall."""
    names = [
        options["name"] for stage in lock["stages"] for kind, options in stage.items() if kind == "critic"
    ]
    critics = []
    for told in (load_state(path) for name in names if (path := directory / f"critic-{name}.json").exists()):
        counts = told["counts"]
        points = {
            part: [p for p in some if p[3] * counts[part]["rows"] >= FEW] or some
            for part, some in told["curves"].items()
        }
        lowest = min(point[2] for some in points.values() for point in some)
        floor = min(int(lowest * 10) / 10, 0.9)

        def spot(recall: float, precision: float, floor: float = floor) -> str:
            return f"{200 * recall:.1f} {100 - 100 * (precision - floor) / (1 - floor):.1f}"

        thinned = {part: [*some[:: len(some) // 200 + 1], some[-1]] for part, some in points.items()}
        curves = {part: "M" + "L".join(spot(*point[1:3]) for point in some) for part, some in thinned.items()}
        spots = {
            part: spot(at["recall"], at["precision"])
            for part in curves
            if (at := told[part])["precision"] is not None
        }
        total = {key: sum(count[key] for count in counts.values()) for key in ("rows", "valid")}
        critics.append({**told, "floor": floor, "paths": curves, "spots": spots, "total": total})
    return critics


def _loops(directory: Path, lock: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Why each loop ended, and its measures over the rounds as SVG paths, 200 wide and 100 high, those that end it first."""
    loops = []
    for options in (
        options for stage in lock["stages"] for kind, options in stage.items() if kind == "rounds"
    ):
        if not (path := directory / options["name"] / "rounds.json").exists():
            continue
        told = load_state(path, "rounds")
        watched = {"kept": None, **options["until"], **options["guard"]}
        lines = {
            name: _line([measured.get(name) for measured in told["rounds"]])
            for name in {**watched, **told["rounds"][-1]}
        }
        loops.append({"name": options["name"], "watched": watched, "lines": lines, **told})
    return loops


def _line(values: Sequence[float | None]) -> dict[str, Any]:
    """A measure over the rounds that have it, with its first and last value."""
    known = [(i, value) for i, value in enumerate(values) if value is not None]
    low, high = (
        min((value for _, value in known), default=0.0),
        max((value for _, value in known), default=0.0),
    )
    right, up = 200 / max(1, len(values) - 1), 100 / (high - low or 1.0)
    spots = [f"{right * i:.1f} {100 - up * (value - low) if high > low else 50:.1f}" for i, value in known]
    return {
        "path": "M" + "L".join(spots) if spots else "",
        "spots": spots,
        "first": known[0][1] if known else 0.0,
        "last": known[-1][1] if known else 0.0,
        "low": low,
        "high": high,
    }


def _students(directory: Path) -> list[dict[str, Any]]:
    """What each student's manifest tells, and its loss over the steps as an SVG path, 200 wide and 100 high."""
    manifests = [
        path for path in sorted(directory.glob("student*/manifest.json")) if path.parent.suffix != ".partial"
    ]
    told: list[dict[str, Any]] = [
        public(load_state(path, "loss_curve", "steps", "data")) for path in manifests
    ]
    for student in told:
        curve = student["loss_curve"]
        losses = [loss for _, loss in curve if math.isfinite(loss)] or [0.0]
        low, high = student["low"], student["high"] = min(losses), max(losses)
        right, up = 200 / max(1, student["steps"] - 1), 100 / (high - low or 1.0)
        spots = [
            f"{right * (step - 1):.1f} {100 - up * (loss - low):.1f}"
            for step, loss in curve
            if math.isfinite(loss)
        ]
        student["path"] = "M" + "L".join(spots)
        student["lost"] = {
            why: count for why, count in student["data"]["rows"].items() if why not in ("train", "held_out")
        }
    return told


def _graphs(directory: Path) -> list[dict[str, Any]]:
    """Each graph of the run: its drawn nodes by name, and each colour with the best connected nodes that have it."""
    graphs = []
    for path in sorted(directory.glob("graph*.json")):
        told = load_state(path, "nodes")
        drawn = {
            node["id"]: {**node, "tone": min(node["community"], TONES)}
            for node in told["nodes"]
            if "x" in node
        }
        parts = defaultdict[int, list[str]](list)
        for node in told["nodes"]:
            parts[min(node["community"], TONES)].append(node["id"])
        legend = [
            ("others" if tone == TONES else ", ".join(some[:3]), tone, len(some))
            for tone, some in sorted(parts.items())
        ]
        graphs.append({**told, "file": path.stem, "drawn": drawn, "legend": legend})
    return graphs


def _budgets(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each metric that was voted on, accuracy over output tokens (of k answers, on a logarithmic scale) as SVG paths."""
    budgets = []
    for metric in found["metrics"]:
        points = {
            name: [
                (int(k) * model["tokens"], share)
                for k, share in model["metrics"][metric]["majority_at_k"].items()
            ]
            for name, model in found["models"].items()
            if model.get("tokens") and model["metrics"].get(metric, {}).get("majority_at_k")
        }
        spent = [tokens for some in points.values() for tokens, _ in some]
        if spent:
            low, high = min(spent), max(spent)
            right = 200 / (math.log(high / low) or 1.0)
            spots = {
                name: [
                    f"{right * math.log(tokens / low):.1f} {100 - 100 * share:.1f}" for tokens, share in some
                ]
                for name, some in points.items()
            }
            paths = {name: "M" + "L".join(some) for name, some in spots.items()}
            budgets.append({"metric": metric, "low": low, "high": high, "points": points, "paths": paths})
    return budgets


class _Compiled(jinja2.FileSystemBytecodeCache):
    def dump_bytecode(self, bucket: jinja2.bccache.Bucket) -> None:
        with suppress(OSError):  # a full disk is no reason to have no report
            super().dump_bytecode(bucket)


def _compiled() -> _Compiled | None:
    """Templates compiled once a machine, in the folder for temporary files, because it takes a tenth of a second; None where it
    cannot be written.
    """
    try:
        return _Compiled()
    except (OSError, RuntimeError):  # RuntimeError: somebody else's folder lies in its place
        return None


@cache
def template(path: Path, escape: Callable[[str], str], *, autoescape: bool) -> jinja2.Template:
    """A template of which every text that it puts out passes through `escape` first."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(path.parent),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: (
            escape(value) if isinstance(value, str) and not isinstance(value, Markup) else value
        ),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        bytecode_cache=_compiled(),
    )
    environment.filters |= {"money": display.money, "duration": display.duration, "number": display.number}
    environment.filters |= {"grouped": "{:,}".format, "share": "{:.1%}".format}
    environment.filters["compact"] = lambda value: json.dumps(value, ensure_ascii=False)
    environment.tests["turns"] = is_turns
    return environment.get_template(path.name)


def is_turns(value: Any) -> bool:
    """Whether a value is chat turns."""
    turns = value if isinstance(value, list) and value else [None]
    return all(isinstance(turn, Mapping) and {"role", "content"} <= set(turn) for turn in turns)
