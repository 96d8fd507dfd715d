"""decontaminate: nothing that is evaluated on is trained on (GPT-3, Brown et al. 2020, appendix C: n-grams of 13 words).

Where a pipeline has an `evaluate` stage, one of these stands before the first stage that trains, or else before it, without
being written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from distillgen.errors import ConfigError
from distillgen.flow.stage import Checking, Chunks, Job, Stage
from distillgen.flow.whole_set import Spool
from distillgen.project import Project
from distillgen.record import SPLIT, Record, text_of
from distillgen.rows.evaluation_sets import grams, items, texts
from distillgen.text.words import words

SHORTEST = 8  # words of a text that is looked for as a whole; shorter ones stand anywhere by chance
COMMON = 0.1  # of all items: what more of them share, such as an instruction, tells none of them


class Decontaminate(Stage):
    """Drop records that repeat a held-out record of this run, or an item of an evaluation set: `n` words in a row of any of
    its texts, whatever their case and punctuation (a text of 8 words or more but fewer than `n`, as a whole), or all the
    `questions` fields of an item. Whole-set: records wait on disk.
    """

    kind = "decontaminate"
    reads = (
        "all texts of a record, the held-out records, the files in `against`, and the fields in `questions`"
    )
    writes = "nothing; drops records"

    against: list[str] = Field(
        [], description="evaluation sets, JSONL or text, besides what the source holds out"
    )
    n: int = Field(13, ge=SHORTEST, description="words in a row that two texts must share")
    questions: list[list[str]] = Field(
        [], description="fields that together are an item's question, in one list for each kind"
    )

    def files(self, project: Project) -> dict[str, Path]:
        """The evaluation sets."""
        return {name: project.file(name) for name in self.against}

    def check(self, given: Checking) -> frozenset[str]:
        """There is something to look for."""
        for file in self.files(given.project).values():
            next(items(file), None)
        if not self.against and SPLIT not in given.fields:
            raise ConfigError(
                "there is nothing to look for: give 'against', a file of evaluation items, or the source held_out"
            )
        return given.fields

    def sets(self, project: Project) -> Seen:
        """The items of the evaluation sets, to which what is held out is still to be added."""
        seen = Seen(self.n, self.questions)
        for name, file in self.files(project).items():
            for line, item in items(file):
                seen.add(f"{name}:{line}", item)
        return seen

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Learn what is held out, then let go what repeats none of it."""
        seen = self.sets(job.project)
        with Spool(job) as spool:
            async for chunk in chunks:
                for record in chunk:
                    if record.held_out and not record.dropped:
                        seen.add(record.source, record.fields)
                spool.add(chunk)
            seen.settle()
            for chunk in spool.chunks():
                yield [
                    record if record.dropped or record.held_out else self._cleared(record, seen)
                    for record in chunk
                ]

    def _cleared(self, record: Record, seen: Seen) -> Record:
        found = seen.find(record.fields)
        return record.drop(self.name, "held_out", found) if found else record


class Seen:
    """The items of evaluation sets: `add` them all, `settle`, then `find` what repeats one."""

    def __init__(self, n: int, questions: Sequence[Sequence[str]]) -> None:
        self._n, self._kinds = n, questions
        self._items: list[tuple[str, list[list[str]]]] = []
        self._of: dict[int, dict[int, str]] = {}
        self._questions: dict[tuple[Any, ...], str] = {}

    def add(self, name: str, item: Mapping[str, Any]) -> None:
        """An item, by its name."""
        for question in self._asked(item):
            self._questions.setdefault(question, name)
        self._items.append((name, [told for text in texts(item) if len(told := words(text)) >= SHORTEST]))

    def settle(self) -> None:
        """Learn the items' n-grams, but for stretches that too many of them have."""
        having = Counter(
            gram for _, own in self._items for gram in {gram for told in own for gram in self._grams(told)}
        )
        most = max(2, COMMON * len(self._items))
        for name, own in self._items:
            for told in own:
                length, common = min(self._n, len(told)), bytearray(len(told))
                for start, gram in enumerate(self._grams(told)):
                    if having[gram] > most:
                        common[start : start + length] = b"x" * length
                for start, gram in enumerate(self._grams(told)):
                    if not any(common[start : start + length]):
                        self._of.setdefault(length, {}).setdefault(gram, name)
        self._items.clear()

    def find(self, fields: Mapping[str, Any]) -> str:
        """Which item a record repeats, and what of it; nothing where none."""
        for question in self._asked(fields):
            if name := self._questions.get(question):
                return f"asks what {name} asks"
        for text in texts(fields):
            told = words(text)
            for length, known in self._of.items():
                for start, gram in enumerate(grams(told, length)):
                    if name := known.get(gram):
                        return f'repeats {length} words of {name}: "{" ".join(told[start : start + length])}"'
        return ""

    def _grams(self, told: Sequence[str]) -> Iterator[int]:
        return grams(told, min(self._n, len(told)))

    def _asked(self, fields: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
        """An item's questions, levelled, those of which it has all the fields."""
        for names in self._kinds:
            if all(name in fields for name in names):
                yield (
                    *names,
                    *(tuple(words(text_of(fields[name]))) or text_of(fields[name]) for name in names),
                )
