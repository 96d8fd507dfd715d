"""What a page shows: the rows of a stage by drop, text, field and score, in an order. An address holds it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import urlencode

from distillgen.record import GATHERED
from distillgen.viewer.row_index import RowIndex

PAGE_ROWS = 50
BARS = 32
KEPT, DROPPED, SPLIT = "kept", "dropped", "/"


@dataclass(frozen=True)
class Selection:
    """What a page shows. Every value comes from an address, so a senseless one selects nothing."""

    run: int = 0
    stage: int = -1
    """The place of the stage whose rows are shown, from 0; -1: the last one that a row has left."""
    file: str = ""
    """The name of a `RowFile` whose rows are shown in the place of a stage's."""
    drop: str = ""
    """`kept`, `dropped`, or `STAGE/FILTER`; "": all rows."""
    text: str = ""
    field: str = ""
    score: str = ""
    low: float | None = None
    """The least score, in the range."""
    high: float | None = None
    """The score above the range, not in it."""
    sort: str = ""
    """A score, with a `-` before it for the largest first; "": the order of the source."""
    page: int = 0
    row: str = ""
    """The id of the row that is open."""
    place: int = -1
    """The place of that row on the page."""
    other: str = ""
    """The id of the row that the open one is compared with."""
    plain: int = 0
    """1: texts are shown exactly as they are; 0: as Markdown."""
    view: str = ""
    """`compare`: the two runs side by side; `compare/changed`, and so on, their rows."""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Selection:
        """Return the selection of an address; a value that cannot be read counts as its default."""
        values: dict[str, Any] = {}
        for field in fields(cls):
            text = query.get(field.name, "")
            if not text:
                continue
            if str(field.type) == "str":
                values[field.name] = text[:2000]
                continue
            try:
                number = float(text)
            except ValueError:
                continue
            if math.isfinite(number) and abs(number) < 1e300:
                values[field.name] = number if "float" in str(field.type) else int(max(-1, min(number, 1e12)))
        return cls(**values)

    def address(self, **changes: Any) -> str:
        """Return the address of this selection with some changes; a change of rows goes to the first page."""
        if changes.keys() - {"row", "place", "page", "plain", "other"}:
            changes = {"page": 0, "row": "", "place": -1, "other": "", **changes}
        elif "page" in changes:
            changes = {"row": "", "place": -1, "other": "", **changes}
        elif "row" in changes:
            changes = {"other": "", **changes}
        selection = replace(self, **changes)
        values = {
            field.name: value
            for field in fields(selection)
            if (value := getattr(selection, field.name)) != field.default
        }
        return "?" + urlencode(values)

    @property
    def sorted_by(self) -> str:
        """The score that orders the rows; "" for none."""
        return self.sort.removeprefix("-")

    @property
    def is_all(self) -> bool:
        """Whether all rows are selected."""
        return not (self.drop or self.text or self.score)


def rows_of(index: RowIndex, selection: Selection, *, page: int) -> list[tuple[int, int, int]]:
    """Return position, start and stop of each row on a page, and of one more if there are more."""
    table, conditions, values = _clauses(selection)
    down = " DESC" if selection.sort.startswith("-") else ""
    order = f"value{down}, position{down}" if selection.sort else "position"
    places = f"SELECT {order.replace(' DESC', '')} FROM {table} WHERE {conditions} ORDER BY {order}"
    return index.read(
        f"SELECT position, start, stop FROM ({places} LIMIT ? OFFSET ?) JOIN rows USING (position)"
        f" ORDER BY {order}",
        [*values, PAGE_ROWS + 1, PAGE_ROWS * max(0, page)],
    )


def count_of(index: RowIndex, selection: Selection) -> int:
    """Return the number of rows that are selected. A search for a text reads all of the others."""
    if selection.is_all and not selection.sort:
        return index.count
    table, conditions, values = _clauses(selection)
    return int((index.read(f"SELECT count(*) FROM {table} WHERE {conditions}", values) or [(0,)])[0][0])


def _clauses(selection: Selection) -> tuple[str, str, list[Any]]:
    """Return the tables, the conditions and their values."""
    name_id = "(SELECT name_id FROM names WHERE name = ?)"
    table, conditions, values = "rows", ["1"], list[Any]()
    if selection.sort:
        table = "scores JOIN rows USING (position, drop_id)" if selection.text else "scores"
        conditions.append(f"scores.name_id = {name_id}")
        values.append(selection.sorted_by)
    if selection.drop == KEPT:
        conditions.append("drop_id = 0")
    elif selection.drop == DROPPED:
        conditions.append("drop_id IN (SELECT drop_id FROM drops WHERE filter != ?)")
        values.append(GATHERED)
    elif selection.drop:
        stage, _, name = selection.drop.partition(SPLIT)
        conditions.append(  # an answer may fail several metrics, whose names stand in a list
            "drop_id IN (SELECT drop_id FROM drops"
            " WHERE stage = ? AND (filter = ? OR instr(', ' || filter || ', ', ', ' || ? || ', ')))"
        )
        values += [stage, name, name]
    if selection.score:
        low = -1e308 if selection.low is None else selection.low
        high = math.inf if selection.high is None else selection.high
        conditions.append(
            f"position IN (SELECT position FROM scores WHERE name_id = {name_id}"
            " AND value >= ? AND value < ?)"
        )
        values += [selection.score, low, high]
    if selection.text:
        conditions.append("has_text(start, meta, stop, ?, ?)")
        values += [selection.text, selection.field]
    return table, " AND ".join(conditions), values


def drops_of(index: RowIndex) -> list[tuple[str, str, int]]:
    """Return the stage, the filter and the number of dropped rows of each, the most frequent first."""
    counts = index.read(
        "SELECT stage, filter, count(*) FROM rows JOIN drops USING (drop_id) GROUP BY drop_id ORDER BY 3 DESC"
    )
    return [(stage, name, count) for stage, name, count in counts]


def score_names(index: RowIndex) -> list[str]:
    """Return the names of the scores."""
    return [name for (name,) in index.read("SELECT name FROM names ORDER BY name")]


def histogram(index: RowIndex, name: str) -> dict[str, Any] | None:
    """Return bars of equal width over all scores of a name; None if there are none.

    A bar has the range that selects its rows, whose ends are open in the outermost bars, and its counts by
    tone: k (kept), l (dropped for this score), e (dropped for another reason). Where the middle 98 % lie
    close together, the outermost bars count the outliers.
    """
    where = "FROM scores WHERE name_id = (SELECT name_id FROM names WHERE name = ?)"
    parts = index.read(
        "SELECT drop_id, count(*), min(value), max(value), total(value != cast(value AS integer))"
        f" {where} GROUP BY drop_id",
        [name],
    )
    if not parts:
        return None
    drop_ids, counts, lowest, highest, fractions = zip(*parts, strict=True)
    total, least, most = sum(counts), min(lowest), max(highest)
    ends = [
        index.read(f"SELECT value {where} ORDER BY value {way} LIMIT 1 OFFSET ?", [name, total // 100])[0][0]
        for way in ("ASC", "DESC")
    ]
    low, high = (least, most) if ends[0] == ends[1] or most - least <= 4 * (ends[1] - ends[0]) else ends
    width = (high - low) / BARS or 1.0
    if not any(fractions):
        width = int(width) + 1.0
    count = min(BARS, int((high - low) / width) + 1)
    bar = f"max(0, min({count - 1}, cast((value - ?) / ? AS integer)))"
    tones = {
        drop_id: _tone(name, label) for drop_id, label in index.read("SELECT drop_id, filter FROM drops")
    }
    bars: list[dict[str, Any]] = [
        {
            "low": low + place * width if place else None,
            "high": low + (place + 1) * width if place < count - 1 else None,
            "counts": {"k": 0, "l": 0, "e": 0},
        }
        for place in range(count)
    ]
    for place, drop_id, number in index.read(
        f"SELECT {bar}, drop_id, count(*) {where} GROUP BY 1, 2", [low, width, name]
    ):
        bars[place]["counts"][tones.get(drop_id, "k")] += number
    kept = dict(zip(drop_ids, zip(lowest, highest, strict=True), strict=True)).get(0)
    return {
        "name": name,
        "total": total,
        "bars": bars,
        "tallest": max(sum(entry["counts"].values()) for entry in bars),
        "least": least,
        "low": low,
        "high": high,
        "most": most,
        "width": width,
        "integers": not any(fractions),
        "kept": kept,
    }


def _tone(score: str, label: str) -> str:
    return "l" if f"{score}.".startswith(f"{label}.") else "e"
