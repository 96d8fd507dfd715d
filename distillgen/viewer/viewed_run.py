"""A run that is looked at: the indexes of its stages, and the history of a row."""

from __future__ import annotations

import difflib
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from distillgen.errors import LedgerError
from distillgen.inference.ledger import read_answers
from distillgen.inference.places import is_there
from distillgen.record import Record, text_of
from distillgen.runs.directory import Run, reached, stage_file
from distillgen.state_files import Damaged
from distillgen.viewer.row_files import RowFile, row_files
from distillgen.viewer.row_index import RowIndex, folder_for
from distillgen.viewer.selection import histogram, score_names

FEW_ROWS = 20_000  # whose histograms need no waiting
STEP_S = 0.5  # after which the indexing of a file lets another file have its turn
MOST_RELATIVES = 50
MOST_WORDS = 4_000  # of a text whose words are compared; of a longer one the lines are


class Attempt(NamedTuple):
    """A record of a round that is about the same item, and the file of the round."""

    record: Record
    file: RowFile


@dataclass(frozen=True)
class History:
    """How a row came about."""

    answers: Sequence[Mapping[str, Any]]
    """Its answers: `made` as in the record, and `request`, `completion`, counts and status of the ledger."""
    parents: Sequence[Record]
    siblings: Sequence[Record]
    """The other rows of its first parent."""
    children: Sequence[Record]
    attempts: Sequence[Attempt]
    """Records of the rounds about the same item."""
    problem: str = ""
    """Why its answers cannot be read."""


class ViewedRun:
    """A run with the indexes of its stages. `update` belongs to one thread; the rest may be read by any."""

    def __init__(self, run: Run) -> None:
        self.run, self.name = run, run.directory.resolve().name
        self.problem = ""
        """Why rows cannot be indexed."""
        self.on_page: RowIndex | None = None
        """The index whose rows a page shows."""
        self.drawing = True
        """Whether its histograms are on their way."""
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

    def files(self) -> list[RowFile]:
        """Return the files of rows besides those of the stages."""
        return list(row_files(self.run.directory))

    def index_of(self, file: RowFile) -> RowIndex:
        """Return the index of a file of rows."""
        index = self._indexes.setdefault(
            file.path, RowIndex(file.path, self._folder, file.name.replace("/", "."))
        )
        index.as_row = file.row  # an evaluation may have been made anew
        return index

    def index_for(self, name: str, stage: int, state: Mapping[str, Any]) -> RowIndex:
        """Return the index of the file of this name, or else of the rows that left a stage."""
        file = next((file for file in self.files() if file.name == name), None) if name else None
        return self.index_of(file) if file else self.index(self.place(stage, state), state)

    def final_index(self) -> RowIndex:
        """Return the index of all rows that have left the last stage so far."""
        state = self.state
        index = self.index(self.place(-1, state), state)
        index.update()
        return index

    def update(self) -> bool:
        """Index new rows for a moment, first of the file on the page; return whether there are more."""
        state = self.state
        stages = [self.index(stage, state) for stage in range(self.place(-1, state), -1, -1)]
        first = self.on_page or stages[0]
        indexes = dict.fromkeys([first, *stages, *map(self.index_of, self.files())])
        more, problem = False, ""
        for index in indexes:
            try:
                more |= index.update(STEP_S)
                if index is first:
                    self.drawing = self._draw(index)
            except (OSError, sqlite3.Error, Damaged) as error:
                problem = problem or f"the rows cannot be indexed: {error}"
        self.problem = problem
        return more or self.drawing

    def histograms(self, index: RowIndex) -> list[dict[str, Any]]:
        """Return the histogram of each score that is made so far; all of a file with few rows."""
        while index.whole and index.count <= FEW_ROWS and self._draw(index):
            pass
        charts = [self._histograms.get((index.rows, name)) for name in score_names(index)]
        return [bars for _, bars in filter(None, charts) if bars]

    def is_drawn(self, index: RowIndex) -> bool:
        """Return whether each score has a histogram."""
        return all((index.rows, name) in self._histograms for name in score_names(index))

    def _draw(self, index: RowIndex) -> bool:
        """Make one histogram that is missing, or is of a tenth fewer rows; return whether there was one."""
        count = index.count
        for name in score_names(index):
            counted, _ = self._histograms.get((index.rows, name), (-1, None))
            if not counted <= count <= counted * (1.0 if index.whole else 1.1):
                self._histograms[index.rows, name] = count, histogram(index, name)
                return True
        return False

    def find(self, record_id: str, indexes: Iterable[RowIndex]) -> Record | None:
        """Return the record of an id from the first index that has it."""
        return next((record for index in indexes for record in _records(index, "id = ?", record_id, 1)), None)

    def history(self, record: Record, indexes: Sequence[RowIndex], later: Sequence[RowIndex]) -> History:
        """Return the answers in a record, and its relatives that are in the indexes so far: parents in one of
        `indexes`, siblings in the first of them, children in the first of `later` that has some.
        """
        answers, problem = self._answers(record)
        parents = [
            parent
            for parent_id in record.parents[:MOST_RELATIVES]
            if (parent := self.find(parent_id, indexes))
        ]
        siblings = _records(indexes[0], "parent = ?", record.parents[0]) if record.parents else []
        children = next(
            (records for index in later if (records := _records(index, "parent = ?", record.id))),
            list[Record](),
        )
        others = [one for one in siblings if one.id != record.id]
        return History(answers, parents, others, children, self._attempts(record), problem)

    def _answers(self, record: Record) -> tuple[list[Mapping[str, Any]], str]:
        """Return the answers in a record as the ledger holds them, and why it cannot be read, or ""."""
        keys = [bytes.fromhex(str(step["key"])) for step in record.made if step.get("key")]
        ledger = self.run.ledger
        ledger_rows, problem = dict[bytes, dict[str, Any]](), ""
        try:
            ledger_rows = read_answers(ledger, keys) if keys and is_there(ledger) else {}
        except LedgerError as error:
            problem = str(error)
        return [
            {"made": step, **ledger_rows.get(bytes.fromhex(str(step.get("key") or "")), {})}
            for step in record.made
        ], problem

    def _attempts(self, record: Record) -> list[Attempt]:
        """Return the records of the rounds about the item of a record."""
        return [
            Attempt(one, file)
            for file in self.files()
            if file.evaluation is None
            for one in _records(self.index_of(file), "item = ?", record.item or record.source)
            if one.id != record.id
        ][:MOST_RELATIVES]


def _records(index: RowIndex, condition: str, value: str, count: int = MOST_RELATIVES) -> list[Record]:
    """Return so many records of an index that fulfil a condition."""
    query = f"SELECT start, stop FROM rows WHERE {condition} ORDER BY position LIMIT {count}"
    places = [(start, stop) for start, stop in index.read(query, [value])]
    return index.records(places) if places else []


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
