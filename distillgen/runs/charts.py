"""The charts of the report: their bars, curves and legends."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distillgen.privacy import public
from distillgen.state_files import load_state

BARS = 32


TONES = 8  # communities of a graph that have a colour of their own


FEW = 10  # a precision over fewer kept labels than this is not drawn


def histogram(found: Sequence[tuple[float, str]]) -> dict[str, Any]:
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


def critics(directory: Path, lock: Mapping[str, Any]) -> list[dict[str, Any]]:
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


def loops(directory: Path, lock: Mapping[str, Any]) -> list[dict[str, Any]]:
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


def students(directory: Path) -> list[dict[str, Any]]:
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


def graphs(directory: Path) -> list[dict[str, Any]]:
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


def budgets(found: Mapping[str, Any]) -> list[dict[str, Any]]:
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
