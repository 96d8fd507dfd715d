"""The comparison of two runs: rows gained, lost and changed, their scores, costs, evaluations and pipelines.

Two rows are a pair if their ids are equal. The id of a generated row depends on its text, so the rows without
an equal are paired by their item, in the order of the files: the second answer to an item with the second.
"""

from __future__ import annotations

import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
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
_PAIRS = """
CREATE TEMP TABLE one AS SELECT position, id, item,
  row_number() OVER (PARTITION BY id ORDER BY position) AS nth FROM first.rows;
CREATE TEMP TABLE two AS SELECT position, id, item,
  row_number() OVER (PARTITION BY id ORDER BY position) AS nth FROM second.rows;
CREATE INDEX two_by_id ON two (id, nth);
CREATE TEMP TABLE by_id AS SELECT one.position AS first, two.position AS second
  FROM one JOIN two USING (id, nth);
CREATE INDEX by_id_first ON by_id (first);
CREATE INDEX by_id_second ON by_id (second);
CREATE TEMP TABLE three AS SELECT position, item,
  row_number() OVER (PARTITION BY item ORDER BY position) AS nth FROM one
  WHERE position NOT IN (SELECT first FROM by_id);
CREATE TEMP TABLE four AS SELECT position, item,
  row_number() OVER (PARTITION BY item ORDER BY position) AS nth FROM two
  WHERE position NOT IN (SELECT second FROM by_id);
CREATE INDEX three_by_item ON three (item, nth);
CREATE INDEX four_by_item ON four (item, nth);
CREATE TABLE pairs (kind, first, second, why);
INSERT INTO pairs (first, second) SELECT first, second FROM by_id
  UNION ALL SELECT three.position, four.position FROM three LEFT JOIN four USING (item, nth)
  UNION ALL SELECT NULL, four.position FROM four LEFT JOIN three USING (item, nth)
    WHERE three.position IS NULL;
UPDATE pairs SET (kind, why) = (
  SELECT CASE
    WHEN a.drop_id = 0 AND b.drop_id = 0 THEN iif(a.content = b.content, 'same', 'changed')
    WHEN a.drop_id = 0 THEN 'lost' WHEN b.drop_id = 0 THEN 'gained' END,
    CASE WHEN a.drop_id = 0 THEN b.drop_id ELSE a.drop_id END
  FROM (SELECT 1) LEFT JOIN first.rows AS a ON a.position = pairs.first
    LEFT JOIN second.rows AS b ON b.position = pairs.second);
CREATE INDEX pairs_by_kind ON pairs (kind, second, first);
"""
_WHY = """
SELECT ifnull(stage || '/' || filter, ''), count(*) FROM pairs LEFT JOIN {other}.drops ON drop_id = why
  WHERE kind = ? GROUP BY 1 ORDER BY 2 DESC
"""
_MEANS = """
SELECT a.mean, b.mean FROM (SELECT item, avg(value) AS mean FROM first.scores JOIN first.rows USING (position)
    WHERE name_id = (SELECT name_id FROM first.names WHERE name = ?1) GROUP BY item) AS a
  JOIN (SELECT item, avg(value) AS mean FROM second.scores JOIN second.rows USING (position)
    WHERE name_id = (SELECT name_id FROM second.names WHERE name = ?1) GROUP BY item) AS b USING (item)
"""


@dataclass(frozen=True)
class Pair:
    """A row in both runs; None where a run does not keep it."""

    first: Record | None
    second: Record | None


class Comparison:
    """Two indexes of whole files of rows, compared once."""

    def __init__(self, first: RowIndex, second: RowIndex) -> None:
        self.indexes = (first, second)
        self._database = sqlite3.connect("", check_same_thread=False)
        self._database.execute("ATTACH ? AS first", (str(first.path),))
        self._database.execute("ATTACH ? AS second", (str(second.path),))
        self._database.executescript(_PAIRS)
        self.counts: dict[str, int] = {kind: 0 for kind in KINDS}
        counts = self._database.execute("SELECT kind, count(*) FROM pairs WHERE kind NOTNULL GROUP BY kind")
        self.counts |= dict(counts)
        self.reasons = {
            kind: self._database.execute(_WHY.format(other=other), (kind,)).fetchall()
            for kind, other in (("gained", "first"), ("lost", "second"))
        }
        """The stage and filter that dropped a gained or lost row in the other run, "" for a row that is not
        there, with the number of rows.
        """
        self.scores = list(self._scores())

    def close(self) -> None:
        """Close the files."""
        self._database.close()

    def pairs(self, kind: str, start: int, count: int) -> list[Pair]:
        """Return so many pairs of a kind from the place `start`."""
        query = (
            "SELECT a.start, a.stop, b.start, b.stop FROM pairs"
            " LEFT JOIN first.rows AS a ON a.position = first"
            " LEFT JOIN second.rows AS b ON b.position = second"
            " WHERE kind = ? ORDER BY ifnull(second, first) LIMIT ? OFFSET ?"
        )
        places = self._database.execute(query, (kind, count, start)).fetchall()
        return [Pair(self._record(0, *place[:2]), self._record(1, *place[2:])) for place in places]

    def _record(self, run: int, start: int | None, stop: int | None) -> Record | None:
        return None if start is None or stop is None else self.indexes[run].records([(start, stop)])[0]

    def _scores(self) -> Iterator[dict[str, Any]]:
        """Yield the difference of each score that both runs have, over the items that both have it for."""
        names = "SELECT name FROM first.names JOIN second.names USING (name) ORDER BY name"
        for (name,) in self._database.execute(names).fetchall():
            means = self._database.execute(_MEANS, (name,)).fetchall()
            if means:
                yield {"score": name, **difference(means)}


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


def figures_of(first: Run, second: Run, comparison: Comparison) -> dict[str, Any]:
    """Return all figures of two runs: `totals` with rows, requests, tokens and money, and the comparisons."""
    states = [run.state for run in (first, second)]
    totals = {
        "kept": [state["kept"] for state in states],
        "dropped": [sum(state["dropped"].values()) for state in states],
    }
    for key in ("requests", "input_tokens", "output_tokens", "cost_usd"):
        totals[key.replace("_t", " t")] = [state["totals"][key] for state in states]
    return {
        "pipeline": pipeline_changes(first.lock, second.lock),
        "totals": list(totals.items()),
        "rows": comparison.counts,
        "reasons": comparison.reasons,
        "scores": comparison.scores,
        "evaluations": compared_evaluations(first, second),
    }
