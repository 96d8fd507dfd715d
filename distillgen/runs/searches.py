"""The trials of a search in the report: their values, the best so far, and the figure on test records."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distillgen.runs.charts import path, positions
from distillgen.runs.directory import evaluations
from distillgen.state_files import load_state

MOST_TRIALS = 50  # in the table


def searches(directory: Path, lock: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return each search that has ended: its trials, the best first, and its chart."""
    tests = evaluations(directory)
    return [
        _search(directory / options["name"], options, tests)
        for options in (stage["search"] for stage in lock["stages"] if "search" in stage)
        if (directory / options["name"] / "search.json").exists()
    ]


def _search(folder: Path, options: Mapping[str, Any], tests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    state = load_state(folder / "search.json", "by", "best", "lowest")
    trials = [json.loads(line) for line in (folder / "trials.jsonl").read_bytes().splitlines()]
    better = min if state["lowest"] else max
    valued = [trial for trial in trials if trial["value"] is not None]
    ranked = sorted(valued, key=lambda trial: trial["value"], reverse=not state["lowest"])
    others = [trial for trial in trials if trial["value"] is None]
    varied = [name for name, choices in options["space"].items() if len(choices) > 1]
    names = _short(varied)
    test = _on_test(state["by"], folder.name.removeprefix("search"), tests)
    values = [trial["value"] for trial in valued]
    heights = values + ([test["mean"]] if test else [])
    low, high = min(heights), max(heights)
    margin = 0.0 if high > low else 1.0  # a constant runs through the middle

    def places(points: Sequence[tuple[float, float]]) -> list[str]:
        last = max(1.0, len(trials) - 1)
        return positions(points, low=(0.0, low - margin), high=(last, high + margin))

    if test:
        ends = [(place, test["mean"]) for place in (0.0, len(trials) - 1.0)]
        test["path"] = path(places(ends))
    so_far = [(float(t["trial"]), better(values[: i + 1])) for i, t in enumerate(valued)]
    return {
        **state,
        "name": folder.name,
        "names": names,
        "rows": [
            {**trial, "texts": {names[name]: _text(trial["choices"][name]) for name in varied}}
            for trial in [*ranked, *others][:MOST_TRIALS]
        ],
        "all": len(trials),
        "finished": len(valued),
        "usd": sum(trial["usd"] for trial in trials),
        "most_usd": options["within"].get("usd"),
        "spots": places([(float(trial["trial"]), trial["value"]) for trial in valued]),
        "path": path(places(so_far)),
        "test": test
        and {**test, "path": path(places([(0.0, test["mean"]), (len(trials) - 1.0, test["mean"])]))},
        "low": low,
        "high": high,
        "taus": {name: value for name, value in state.items() if name.startswith("tau of ")},
    }


def _on_test(by: str, suffix: str, tests: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the same measure of the best trial's student in the first stage behind that has it."""
    _, _, measure = by.partition(".")
    model, _, metric = measure.partition(".")
    for test in tests:
        figure = test["models"].get(f"{model}{suffix}", {}).get("metrics", {}).get(metric)
        if figure and figure.get("mean") is not None:
            return {"stage": test["name"], "model": f"{model}{suffix}", "metric": metric, **figure}
    return None


def _short(paths: Sequence[str]) -> dict[str, str]:
    """Return the shortest end of each path that no other path has."""
    ends = {}
    for name in paths:
        parts = name.split(".")
        tails = [".".join(parts[-i:]) for i in range(1, len(parts) + 1)]
        ends[name] = next(
            (tail for tail in tails if sum(f".{other}".endswith(f".{tail}") for other in paths) == 1), name
        )
    return ends


def _text(choice: Any) -> str:
    """Return a choice as a pipeline has it, on one line."""
    if isinstance(choice, str):
        return choice
    return re.sub(r'"([A-Za-z][\w./ -]*)"', r"\1", json.dumps(choice, ensure_ascii=False))
