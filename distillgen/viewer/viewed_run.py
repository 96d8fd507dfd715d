"""A run that is looked at: the indexes of its stages, and the history of a row."""

from __future__ import annotations

import difflib
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from distillgen.errors import LedgerError
from distillgen.inference.ledger import read_answers
from distillgen.record import Record, text_of
from distillgen.runs.directory import Run, reached, stage_file
from distillgen.viewer.row_index import RowIndex, folder_for
from distillgen.viewer.selection import histogram, score_names

STEP_S = 0.5  # after which the indexing of a file lets another file have its turn
MOST_RELATIVES = 50
MOST_WORDS = 4_000  # of a text whose words are compared; of a longer one the lines are


class Relative(NamedTuple):
    """A record that has to do with another one, and the place of the stage in whose file it is."""

    record: Record
    stage: int


@dataclass(frozen=True)
class History:
    """How a row came about."""

    answers: Sequence[Mapping[str, Any]]
    """Its answers: `made` as in the record, and `request`, `completion`, counts and status of the ledger."""
    parents: Sequence[Relative]
    siblings: Sequence[Relative]
    """The other rows of its first parent."""
    children: Sequence[Relative]
    problem: str = ""
    """Why its answers cannot be read."""


class ViewedRun:
    """A run with the indexes of its stages. `update` belongs to one thread; the rest may be read by any."""

    def __init__(self, run: Run) -> None:
        self.run, self.name = run, run.directory.resolve().name
        self.problem = ""
        """Why rows cannot be indexed."""
        self.stage_on_page = -1
        self.drawing = True
        """Whether histograms of that stage are on their way."""
        self._folder = folder_for(run.directory)
        self._indexes: dict[Path, RowIndex] = {}
        self._histograms: dict[tuple[Path, str], tuple[int, dict[str, Any] | None]] = {}
        self._lock: tuple[int, dict[str, Any]] = (0, {})

    @property
    def state(self) -> dict[str, Any]:
        """The content of `usage.json` at this moment."""
        return self.run.state

    @property
    def lock(self) -> dict[str, Any]:
        """The content of `pipeline.lock.yaml`, which is read again when it has changed."""
        changed_at = (self.run.directory / "pipeline.lock.yaml").stat().st_mtime_ns
        if self._lock[0] != changed_at:
            self._lock = changed_at, self.run.lock
        return self._lock[1]

    def place(self, stage: int, state: Mapping[str, Any]) -> int:
        """Return the place of a stage that a row has left: `stage`, or the last one."""
        last = len(reached(state["stages"])) - 1
        return stage if 0 <= stage <= last else last

    def index(self, stage: int, state: Mapping[str, Any]) -> RowIndex:
        """Return the index of the rows that left a stage."""
        path = stage_file(self.run.directory, stage, state["stages"][stage]["name"])
        return self._indexes.setdefault(path, RowIndex(path, self._folder))

    def final_index(self) -> RowIndex:
        """Return the index of all rows that have left the last stage so far."""
        state = self.state
        index = self.index(self.place(-1, state), state)
        index.update()
        return index

    def update(self) -> bool:
        """Index new rows for a moment, first of the stage on the page; return whether there are more."""
        state = self.state
        last = self.place(-1, state)
        places = dict.fromkeys([self.place(self.stage_on_page, state), *range(last, -1, -1)])
        try:
            more = any([self.index(stage, state).update(STEP_S) for stage in places])
            self.drawing = self._draw(self.index(next(iter(places)), state))
        except (OSError, sqlite3.Error) as error:
            self.problem = f"the rows cannot be indexed: {error}"
            return False
        self.problem = ""
        return more or self.drawing

    def histograms(self, index: RowIndex) -> list[dict[str, Any]]:
        """Return the histogram of each score that is made so far."""
        charts = [self._histograms.get((index.rows, name)) for name in score_names(index)]
        return [bars for _, bars in filter(None, charts) if bars]

    def _draw(self, index: RowIndex) -> bool:
        """Make one histogram that is missing, or is of a tenth fewer rows; return whether there was one."""
        count = index.count
        for name in score_names(index):
            counted, _ = self._histograms.get((index.rows, name), (-1, None))
            if not counted <= count <= counted * (1.0 if index.whole else 1.1):
                self._histograms[index.rows, name] = count, histogram(index, name)
                return True
        return False

    def find(self, record_id: str, stage: int, state: Mapping[str, Any]) -> Relative | None:
        """Return the record of an id from the rows of a stage, or else of an earlier one."""
        for place in range(stage, -1, -1):
            if records := self._records(place, state, "id = ?", record_id, 1):
                return records[0]
        return None

    def _records(
        self, stage: int, state: Mapping[str, Any], condition: str, value: str, count: int
    ) -> list[Relative]:
        index = self.index(stage, state)
        query = f"SELECT start, stop FROM rows WHERE {condition} ORDER BY position LIMIT {count}"
        places = [(start, stop) for start, stop in index.read(query, [value])]
        return [Relative(record, stage) for record in index.records(places)] if places else []

    def history(self, record: Record, stage: int, state: Mapping[str, Any]) -> History:
        """Return the answers in a record, and its relatives that are in the indexes so far."""
        keys = [bytes.fromhex(str(step["key"])) for step in record.made if step.get("key")]
        ledger = self.run.ledger
        ledger_rows, problem = dict[bytes, dict[str, Any]](), ""
        try:
            ledger_rows = read_answers(ledger, keys) if keys and ledger.exists() else {}
        except LedgerError as error:
            problem = str(error)
        answers = [
            {"made": step, **ledger_rows.get(bytes.fromhex(str(step.get("key") or "")), {})}
            for step in record.made
        ]
        parents = [
            relative
            for parent in record.parents[:MOST_RELATIVES]
            if (relative := self.find(parent, stage, state))
        ]
        siblings, children = list[Relative](), list[Relative]()
        if record.parents:
            siblings = self._records(stage, state, "parent = ?", record.parents[0], MOST_RELATIVES)
        for later in range(self.place(-1, state), stage - 1, -1):
            if children := self._records(later, state, "parent = ?", record.id, MOST_RELATIVES):
                break
        return History(
            answers, parents, [one for one in siblings if one.record.id != record.id], children, problem
        )


def field_changes(
    first: Mapping[str, Any], second: Mapping[str, Any]
) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield each field of two records with the parts of its text: kept, gone or new; none if it is equal."""
    for name in dict.fromkeys([*first, *second]):
        if first.get(name) == second.get(name) and (name in first) == (name in second):
            yield name, []
        else:
            yield name, text_changes(text_of(first.get(name)), text_of(second.get(name)))


@lru_cache(maxsize=256)
def text_changes(first: str, second: str) -> list[tuple[str, str]]:
    """Return the parts of two texts: `kept`, `gone` (only in the first) and `new` (only in the second)."""
    words = r"\w+|\s+|[^\w\s]"
    before, after = list[str](re.findall(words, first)), list[str](re.findall(words, second))
    if max(len(before), len(after)) > MOST_WORDS:
        before, after = first.splitlines(keepends=True), second.splitlines(keepends=True)
    changes = list[tuple[str, str]]()
    for tag, a, b, c, d in difflib.SequenceMatcher(None, before, after, False).get_opcodes():
        if tag == "equal":
            changes.append(("kept", "".join(before[a:b])))
        else:
            changes += [("gone", "".join(before[a:b])), ("new", "".join(after[c:d]))]
    return [(kind, text) for kind, text in changes if text]
