"""The charts of the report: histograms, curves, and graphs of nodes.

Curves are SVG paths in a chart 200 wide and 100 high.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distillgen.privacy import public
from distillgen.state_files import load_state
from distillgen.training.rows import PARTS

BARS = 32  # most bars of a histogram
COLOURED_COMMUNITIES = 8  # the further communities of a graph share one colour
FEWEST_LABELS = 10  # a precision over fewer kept labels is not drawn
MOST_POINTS = 200  # of a curve

Point = tuple[float, float]


def positions(points: Iterable[Point], low: Point, high: Point) -> list[str]:
    """Return the place of each point, as `x y`, in a chart that shows the values from `low` to `high`."""
    (left, bottom), (right, top) = low, high
    width, height = right - left or 1.0, top - bottom or 1.0
    return [f"{200 * (x - left) / width:.1f} {100 * (bottom + height - y) / height:.1f}" for x, y in points]


def path(places: Sequence[str]) -> str:
    """Return an SVG path that joins places."""
    return "M" + "L".join(places) if places else ""


def histogram(scores: Sequence[tuple[float, str]]) -> dict[str, Any]:
    """Return bars of equal width that count scores by tone.

    The tones are k (kept), l (dropped for this score) and e (dropped for another reason). Outliers are
    counted in the outermost bars when the middle 98 % of the scores lie close together.
    """
    values = sorted(min(max(value, -1e300), 1e300) for value, _ in scores)  # so that differences are finite
    least, most = values[0], values[-1]
    low, high = values[len(values) // 100], values[-1 - len(values) // 100]
    if low == high or most - least <= 4 * (high - low):
        low, high = least, most
    width = (high - low) / BARS or 1.0
    if integers := all(value.is_integer() for value in values):
        width = int(width) + 1

    def bar(value: float) -> int:
        return min(int((min(max(value, low), high) - low) / width), BARS - 1)

    bars = [Counter[str]() for _ in range(bar(high) + 1)]
    for value, tone in scores:
        bars[bar(value)][tone] += 1
    return {
        "total": len(scores),
        "tones": {tone: [value for value, score_tone in scores if score_tone == tone] for tone in "kle"},
        "bars": bars,
        "tallest": max(bar.total() for bar in bars),
        "least": least,
        "low": low,
        "high": high,
        "most": most,
        "width": width,
        "integers": integers,
    }


def threshold_lines(
    histogram: Mapping[str, Any], bounds: Iterable[tuple[str, float]]
) -> list[dict[str, Any]]:
    """Return the options that `thresholds` gives, each with its place `x` in a chart whose bars are 10 wide;
    x is None for a bound outside the chart.

    Of integers, the bar of the largest kept number lies before the line.
    """
    wide = 10 * len(histogram["bars"])
    lines = []
    for option, value in bounds:
        above = histogram["integers"] and option.startswith(("max", "at_most"))
        x = 10 * (value + above - histogram["low"]) / histogram["width"]
        lines.append({"option": option, "value": value, "x": round(x, 2) if 0 <= x <= wide else None})
    return lines


def thresholds(
    lock: Mapping[str, Any], name: str, kept: tuple[float, float] | None
) -> list[tuple[str, float]]:
    """Return the options of a score's filter that bound the score, with their values.

    They are `threshold` and those that begin with `min`, `max`, `at_least` or `at_most`. Of a filter with
    several scores, those that end as the score's name does. `kept` are the least and the largest score of
    kept records: an option that they exceed bounds something else.
    """
    bounds = []
    for stage in lock["stages"]:
        for entry in next(iter(stage.values())).get("filters") or ():
            label, options = entry["label"], entry["options"]
            if not f"{name}.".startswith(f"{label}."):
                continue
            part = name.removeprefix(label).strip(".")
            for option, value in options.items():
                match = _BOUND.fullmatch(option)
                if not match or not isinstance(value, float | int) or isinstance(value, bool):
                    continue
                if part and match[2] and not part.endswith(match[2]):
                    continue
                least, most = kept or (value, value)
                fits = {"min": value <= least, "max": value >= most}
                fits["threshold"] = any(fits.values())
                if fits[_SIDES.get(match[1], match[1])]:
                    bounds.append((option, float(value)))
    return bounds


_BOUND = re.compile(r"(min|max|threshold|at_least|at_most)_?(\w*)")
_SIDES = {"at_least": "min", "at_most": "max"}


def critics(directory: Path, lock: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the state of each critic, with its curves of precision over recall."""
    files = [
        directory / f"critic-{options['name']}.json"
        for stage in lock["stages"]
        for kind, options in stage.items()
        if kind == "critic"
    ]
    return [_critic(load_state(file)) for file in files if file.exists()]


def _critic(state: Mapping[str, Any]) -> dict[str, Any]:
    counts = state["counts"]
    curves = {}
    for part, points in state["curves"].items():
        curves[part] = [p for p in points if p[3] * counts[part]["rows"] >= FEWEST_LABELS] or points
    lowest = min(precision for points in curves.values() for _, _, precision, _ in points)
    floor = min(int(lowest * 10) / 10, 0.9)

    def place(points: Iterable[Point]) -> list[str]:
        return positions(points, low=(0.0, floor), high=(1.0, 1.0))

    paths = {}
    for part, points in curves.items():
        thinned = [*points[:: len(points) // MOST_POINTS + 1], points[-1]]
        paths[part] = path(place((recall, precision) for _, recall, precision, _ in thinned))
    chosen = {part: (state[part]["recall"], state[part]["precision"]) for part in curves}
    spots = {part: place([point])[0] for part, point in chosen.items() if point[1] is not None}
    total = {key: sum(count[key] for count in counts.values()) for key in ("rows", "valid")}
    return {**state, "floor": floor, "paths": paths, "spots": spots, "total": total}


def loops(directory: Path, lock: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return why each loop ended, and a curve of each measure, first of those that can end the loop."""
    loops = []
    for stage in lock["stages"]:
        if "rounds" not in stage:
            continue
        options = stage["rounds"]
        file = directory / options["name"] / "rounds.json"
        if file.exists():
            state = load_state(file, "rounds")
            rounds = state["rounds"]
            watched = {"kept": None, **options["until"], **options["guard"]}
            lines = {
                name: _line([measures.get(name) for measures in rounds]) for name in {**watched, **rounds[-1]}
            }
            loops.append({"name": options["name"], "watched": watched, "lines": lines, **state})
    return loops


def _line(values: Sequence[float | None]) -> dict[str, Any]:
    """Return the curve of a measure over the rounds, with its first, last, lowest and highest value."""
    points = [(float(i), value) for i, value in enumerate(values) if value is not None]
    measures = [value for _, value in points] or [0.0]
    low, high = min(measures), max(measures)
    margin = 0.0 if high > low else 1.0  # a constant runs through the middle
    places = positions(points, low=(0.0, low - margin), high=(max(1.0, len(values) - 1), high + margin))
    return {
        "path": path(places),
        "spots": places,
        "first": measures[0],
        "last": measures[-1],
        "low": low,
        "high": high,
    }


def students(directory: Path) -> list[dict[str, Any]]:
    """Return the manifest of each student, with the curve of its loss over the steps."""
    students: list[dict[str, Any]] = []
    for file in sorted(directory.glob("student*/manifest.json")):
        if file.parent.suffix == ".partial":
            continue
        manifest = public(load_state(file, "loss_curve", "steps", "data"))
        points = [(step, loss) for step, loss in manifest["loss_curve"] if math.isfinite(loss)]
        losses = [loss for _, loss in points] or [0.0]
        low, high = min(losses), max(losses)
        places = positions(points, low=(1.0, low), high=(max(2.0, manifest["steps"]), high))
        rows = manifest["data"]["rows"]
        lost = {reason: count for reason, count in rows.items() if reason not in PARTS.values()}
        students.append({**manifest, "low": low, "high": high, "path": path(places), "lost": lost})
    return students


def graphs(directory: Path) -> list[dict[str, Any]]:
    """Return each graph with its drawn nodes by name, and a legend of its communities."""
    graphs = []
    for file in sorted(directory.glob("graph*.json")):
        state = load_state(file, "nodes")
        drawn = {}
        communities = defaultdict[int, list[str]](list)
        for node in state["nodes"]:
            tone = min(node["community"], COLOURED_COMMUNITIES)
            communities[tone].append(node["id"])
            if "x" in node:
                drawn[node["id"]] = {**node, "tone": tone}
        legend = [
            ("others" if tone == COLOURED_COMMUNITIES else ", ".join(names[:3]), tone, len(names))
            for tone, names in sorted(communities.items())
        ]
        graphs.append({**state, "file": file.stem, "drawn": drawn, "legend": legend})
    return graphs


def budgets(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return curves of a majority vote's accuracy over output tokens, whose scale is logarithmic."""
    budgets = []
    for metric in evaluation["metrics"]:
        points = {
            name: [(int(k) * model["tokens"], share) for k, share in majority_at_k.items()]
            for name, model in evaluation["models"].items()
            if model.get("tokens")
            and (majority_at_k := model["metrics"].get(metric, {}).get("majority_at_k"))
        }
        tokens = [count for model_points in points.values() for count, _ in model_points]
        if not tokens:
            continue
        low, high = min(tokens), max(tokens)
        paths = {}
        for name, model_points in points.items():
            logarithms = [(math.log(count), share) for count, share in model_points]
            paths[name] = path(positions(logarithms, low=(math.log(low), 0.0), high=(math.log(high), 1.0)))
        budgets.append({"metric": metric, "low": low, "high": high, "points": points, "paths": paths})
    return budgets
