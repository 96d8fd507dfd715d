"""The comparison of two runs: rows gained, lost and changed, their scores, costs, evaluations and pipelines.

Two rows are a pair if their ids are equal. The id of a generated row depends on its text, so the rows without
an equal are paired by their item, in the order of the files: the second answer to an item with the second.
"""

from __future__ import annotations

import math
import sqlite3
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import Any

from distillgen.algorithms.intervals import paired
from distillgen.algorithms.sign_flips import sign_flip_p
from distillgen.record import Record
from distillgen.runs.directory import Run, evaluations, read_rows
from distillgen.viewer.row_index import RowIndex

KINDS = ("changed", "gained", "lost", "same")
MOST_FLIPPED = 2_000  # differences whose signs are flipped at random; of more, the normal approximation


@dataclass(frozen=True)
class Pair:
    """A row in both runs; None where a run does not keep it."""

    first: Record | None
    second: Record | None


class Comparison:
    """Two indexes of whole files of rows, compared once. A million rows of each take 800 MB meanwhile."""

    def __init__(self, first: RowIndex, second: RowIndex) -> None:
        self.indexes = (first, second)
        self._pairs = {kind: (array("q"), array("q")) for kind in KINDS}
        """By kind the positions of the rows in the first and in the second run; -1 for none."""
        with closing(first.snapshot()) as one, closing(second.snapshot()) as other:
            sides = [side.execute(_ROWS).fetchall() for side in (one, other)]
            reasons = {kind: Counter[int]() for kind in KINDS}
            for pair in sorted(_paired(*sides), key=lambda pair: pair[0] if pair[1] < 0 else pair[1]):
                kind, why = _kind(
                    *[side[place] if place >= 0 else None for side, place in zip(sides, pair, strict=True)]
                )
                if kind:
                    reasons[kind][why] += 1
                    for places, place in zip(self._pairs[kind], pair, strict=True):
                        places.append(place)
            self.counts = {kind: len(places) for kind, (places, _) in self._pairs.items()}
            self.reasons = {
                kind: _drop_counts(database, reasons[kind])
                for kind, database in (("gained", one), ("lost", other))
            }
            """The stage and filter that dropped a gained or lost row in the other run, "" for a row that is
            not there, with the number of rows.
            """
            self.scores = list(_scores((one, other), [[row[1] for row in side] for side in sides]))

    def pairs(self, kind: str, start: int, count: int) -> list[Pair]:
        """Return so many pairs of a kind from the place `start`."""
        first, second = (places[start : start + count] for places in self._pairs[kind])
        return [
            Pair(self._record(0, one), self._record(1, other))
            for one, other in zip(first, second, strict=True)
        ]

    def _record(self, run: int, position: int) -> Record | None:
        places = self.indexes[run].read("SELECT start, stop FROM rows WHERE position = ?", [position])
        return self.indexes[run].records([(start, stop) for start, stop in places])[0] if places else None


_ROWS = "SELECT id, item, drop_id, content FROM rows ORDER BY position"
_Row = tuple[str, str, int, int]


def _paired(first: Sequence[_Row], second: Sequence[_Row]) -> Iterator[tuple[int, int]]:
    """Yield the positions of the two rows of each pair; -1 where a run has none."""
    alone: tuple[Sequence[int], Sequence[int]] = range(len(first)), range(len(second))
    for column in (0, 1):  # by id, and the rest by item
        rest = {key: place for place, key in _keys(second, alone[1], column)}
        without = []
        for place, key in _keys(first, alone[0], column):
            if (other := rest.pop(key, None)) is None:
                without.append(place)
            else:
                yield place, other
        alone = (without, list(rest.values()))
    yield from ((place, -1) for place in alone[0])
    yield from ((-1, place) for place in alone[1])


def _keys(rows: Sequence[_Row], places: Iterable[int], column: int) -> Iterator[tuple[int, Any]]:
    """Yield each place with the value of its row; from its second occurrence on, with its number, too."""
    occurrences = dict[Any, int]()
    for place in places:
        value = rows[place][column]
        count = occurrences[value] = occurrences.get(value, 0) + 1
        yield place, value if count == 1 else (value, count)


def _kind(first: _Row | None, second: _Row | None) -> tuple[str, int]:
    """Return the kind of a pair, "" if no run keeps it; with the drop in the run that does not, 0 if the row
    is not there.
    """
    if first and second and not first[2] and not second[2]:
        return "same" if first[3] == second[3] else "changed", 0
    if first and not first[2]:
        return "lost", second[2] if second else 0
    if second and not second[2]:
        return "gained", first[2] if first else 0
    return "", 0


def _drop_counts(database: sqlite3.Connection, drops: Counter[int]) -> list[tuple[str, int]]:
    """Return the stage and the filter of drops with their numbers, the most frequent first."""
    names = {drop_id: f"{stage}/{name}" for drop_id, stage, name in database.execute("SELECT * FROM drops")}
    return [(names.get(drop_id, ""), count) for drop_id, count in drops.most_common()]


def _scores(
    databases: Sequence[sqlite3.Connection], items: Sequence[Sequence[str]]
) -> Iterator[dict[str, Any]]:
    """Yield the difference of each score that both runs have, over the items that both have it for."""
    names = [
        dict(side.execute("SELECT name, name_id FROM names ORDER BY name").fetchall()) for side in databases
    ]
    for name in (name for name in names[0] if name in names[1]):
        means = []
        for database, of_rows, ids in zip(databases, items, names, strict=True):
            totals, counts = defaultdict[str, float](float), defaultdict[str, int](int)
            query = "SELECT position, value FROM scores WHERE name_id = ?"
            for position, value in database.execute(query, [ids[name]]):
                item = of_rows[position]
                totals[item] += value
                counts[item] += 1
            means.append({item: total / counts[item] for item, total in totals.items()})
        if both := [(mean, means[1][item]) for item, mean in means[0].items() if item in means[1]]:
            yield {"score": name, **difference(both)}


def difference(means: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Return the means over items of two runs, and the paired difference of the second from the first.

    p is that of the permutation test by which `evaluate` compares two models: the signs of the differences
    are flipped. The 95 % interval is that of `evaluate` for values between 0 and 1, or else the normal one.
    """
    first, second = [list(values) for values in zip(*means, strict=True)]
    result: dict[str, Any] = {"first": fmean(first), "second": fmean(second), "items": len(means)}
    differences = [b - a for a, b in means]
    if len(means) <= MOST_FLIPPED:
        result |= paired(second, first)
    else:
        result |= {"difference": fmean(differences), "p": sign_flip_p(differences)}
    if len(means) > MOST_FLIPPED or not all(0 <= value <= 1 for value in (*first, *second)):
        spread = stdev(differences) / math.sqrt(len(means)) if len(means) > 1 else math.nan
        around = NormalDist().inv_cdf(0.975) * spread
        low, high = result["difference"] - around, result["difference"] + around
        result |= {"low": low, "high": high, "method": "normal"}
    return {key: None if value != value else value for key, value in result.items()}


def compared_evaluations(first: Run, second: Run) -> list[dict[str, Any]]:
    """Return the paired difference of each metric of each model, over the items that both runs asked about.

    A value is the share of an item's answers that pass the metric.
    """
    results = []
    files = [{entry["file"]: entry for entry in evaluations(run.directory)} for run in (first, second)]
    for file in (file for file in files[0] if file in files[1]):
        passed = [_passed(run, file, files[0][file]["metrics"]) for run in (first, second)]
        for key in (key for key in passed[0] if key in passed[1]):
            items = [item for item in passed[0][key] if item in passed[1][key]]
            means = [(fmean(passed[0][key][item]), fmean(passed[1][key][item])) for item in items]
            if means:
                model, metric = key
                results.append(
                    {"stage": files[0][file]["name"], "model": model, "metric": metric, **difference(means)}
                )
    return results


def _passed(run: Run, file: str, metrics: Sequence[str]) -> dict[tuple[str, str], dict[str, list[float]]]:
    """Return, by model and metric, whether each answer to each item passes."""
    passed: defaultdict[tuple[str, str], dict[str, list[float]]] = defaultdict(dict)
    for row in read_rows(run.directory / f"{file}.jsonl"):
        for metric in metrics:
            came = row["status"] in ("ok", "length")
            passed[row["model"], metric].setdefault(row["item"], []).append(
                float(came and metric not in row["reasons"])
            )
    return dict(passed)


def pipeline_changes(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return each option of the lock files that differs, with its two values; None where it is missing."""
    return list(_changes("", _options(first), _options(second)))


def _changes(name: str, first: Any, second: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the values that differ, each with its dotted name."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for key in dict.fromkeys([*first, *second]):
            yield from _changes(f"{name}.{key}" if name else str(key), first.get(key), second.get(key))
    elif first != second:
        yield name, first, second


def _options(lock: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a lock file says about how rows are made: models, stages by name, and files."""
    stages = {}
    for stage in lock["stages"]:
        ((kind, options),) = stage.items()
        filters = {
            entry["label"]: {"filter": entry["filter"], **entry["options"]}
            for entry in options.get("filters") or ()
        }
        stages[options["name"]] = {"kind": kind, **options, **({"filters": filters} if filters else {})}
    files = {name: sha[:12] for name, sha in lock["files"].items()}
    return {"seed": lock["seed"], "models": lock["models"], "stages": stages, "files": files}


def totals_of(first: Run, second: Run) -> dict[str, Any]:
    """Return what two runs differ in without their rows: `pipeline`, and `totals` with rows, requests, tokens
    and money.
    """
    states = [run.state for run in (first, second)]
    totals = {
        "kept": [state["kept"] for state in states],
        "dropped": [sum(state["dropped"].values()) for state in states],
    }
    for key in ("requests", "input_tokens", "output_tokens", "cost_usd"):
        totals[key.replace("_t", " t")] = [state["totals"][key] for state in states]
    return {"pipeline": pipeline_changes(first.lock, second.lock), "totals": list(totals.items())}


def figures_of(first: Run, second: Run, comparison: Comparison) -> dict[str, Any]:
    """Return all figures of two runs: those of `totals_of`, and the comparisons."""
    return {
        **totals_of(first, second),
        "rows": comparison.counts,
        "reasons": comparison.reasons,
        "scores": comparison.scores,
        "evaluations": compared_evaluations(first, second),
    }
