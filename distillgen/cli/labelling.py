"""Labelling: a person says which records are valid, and a critic learns from the labels."""

from __future__ import annotations

import heapq
import os
import shutil
import textwrap
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from distillgen.cli.show import say
from distillgen.errors import ConfigError, did_you_mean
from distillgen.record import META, Record, digest, dumps
from distillgen.rows.jsonl import read_rows
from distillgen.runs.directory import Run, furthest, read_records
from distillgen.text import display

VALID = {"y": (1, "valid"), "n": (0, "not valid")}
GRADES = {"1": (1, "wrong"), "2": (2, "poor"), "3": (3, "fair"), "4": (4, "good"), "5": (5, "very good")}
SKIP, BACK, QUIT = "s", "b", "q"
MOST_CHARACTERS = 20_000  # shown of a field


def sample(run: Run, count: int, *, fields: Sequence[str], seed: int) -> list[Record]:
    """Return records that left the run's last stage, in random order; raise ConfigError if there are none.

    The share of kept records, and of those that each filter dropped, is that of the run. The same seed gives
    the same order, and a smaller sample is the beginning of a larger one. Records without one of `fields` are
    left out.
    """
    records = read_records(furthest(run.directory, run.state["stages"]))
    totals, names = Counter[tuple[str, str] | None](), set[str]()
    chosen = defaultdict[tuple[str, str] | None, list[tuple[int, int, Record]]](list)
    for position, record in enumerate(records):
        names.update(record.fields)
        if all(name in record.fields for name in fields):
            kind = (record.dropped.stage, record.dropped.filter) if record.dropped else None
            totals[kind] += 1
            entry = (-int(digest([seed, record.id], 15), 16), position, record)
            if len(chosen[kind]) < count:
                heapq.heappush(chosen[kind], entry)
            else:  # the heap keeps the first `count` records of the random order
                heapq.heappushpop(chosen[kind], entry)
    if not chosen:
        missing = next((name for name in fields if name not in names), "")
        field_text = f" with the field '{missing}'{did_you_mean(missing, names)}" if missing else ""
        raise ConfigError(f"there is no record to label in {run.directory}{field_text}")
    ordered = []
    for kind, entries in chosen.items():
        for rank, (_, position, record) in enumerate(sorted(entries, reverse=True)):
            ordered.append(((rank + 0.5) / totals[kind], position, record))  # spreads every kind evenly
    return list({record.id: record for *_, record in sorted(ordered)}.values())[:count]


@dataclass
class Labelling:
    """A session of labelling, with the labels of earlier sessions."""

    records: Sequence[Record]
    path: Path
    label: str = "label"
    graded: bool = False
    fields: Sequence[str] = ()
    labels: dict[str, float | None] = field(default_factory=dict)
    """The label of each record, by its id; None for a skipped one."""
    position: int = 0

    def __post_init__(self) -> None:
        """Read earlier labels; raise ConfigError for a file that cannot be written, for another file, or if
        records have the label's field.
        """
        _try_to_write(self.path)
        for line, row in read_rows(self.path) if self.path.exists() else ():
            if isinstance(row, str):
                raise ConfigError(row, path=self.path, line=line)
            if self.label not in row:
                message = f"the row has no '{self.label}'; give another --label or --out"
                raise ConfigError(message, path=self.path, line=line)
            value, meta = row[self.label], row.get(META)
            if value is not None and value not in [value for value, _ in self.choices.values()]:
                values = "grades from 1 to 5" if self.graded else "labels 1 and 0"
                message = f"the label {str(value)[:40]!r} is not one of the {values}"
                remedy = "give another --out, or --graded as before"
                raise ConfigError(f"{message}; {remedy}", path=self.path, line=line)
            if isinstance(meta, dict) and "id" in meta:
                self.labels[str(meta["id"])] = value
        if labelled := next((record for record in self.records if self.label in record.fields), None):
            problem = f"the records have a field '{self.label}' already ({labelled.source})"
            raise ConfigError(f"{problem}; give the labels another name with --label")
        self.go_on(0)

    @property
    def choices(self) -> Mapping[str, tuple[int, str]]:
        """The label and its meaning, by key."""
        return GRADES if self.graded else VALID

    @property
    def keys(self) -> dict[str, str]:
        """The meaning of each key."""
        meanings = {key: meaning for key, (_, meaning) in self.choices.items()}
        return {**meanings, SKIP: "skip", BACK: "back", QUIT: "quit"}

    @property
    def current(self) -> Record | None:
        """The record to label; None when all are labelled."""
        return self.records[self.position] if self.position < len(self.records) else None

    def press(self, key: str) -> bool:
        """Do what a key means; return False for a key without a meaning. A label is on the disk on return."""
        record = self.current
        if key == BACK:
            self.position = max(0, self.position - 1)
        elif key in (*self.choices, SKIP) and record:
            value = self.choices[key][0] if key in self.choices else None
            line = dumps({**record.row(), self.label: value}, sort_keys=False) + b"\n"
            with self.path.open("a+b") as stream:
                stream.seek(max(0, stream.seek(0, os.SEEK_END) - 1))
                unfinished = stream.read(1) not in (b"", b"\n")  # as in a file that was written by hand
                stream.write(b"\n" * unfinished + line)
                stream.flush()
                os.fsync(stream.fileno())
            self.labels[record.id] = value
            self.go_on(self.position + 1)
        return key in self.keys

    def go_on(self, start: int) -> None:
        """Go to the next record without a label, from `start` on and then from the beginning."""
        order = [*range(start, len(self.records)), *range(start)]
        unlabelled = (i for i in order if self.records[i].id not in self.labels)
        self.position = next(unlabelled, len(self.records))

    def texts(self) -> list[tuple[str, str]]:
        """Return the current record's fields as texts.

        Its scores, and whether it was kept, are left out: they would influence the person.
        """
        assert self.current
        fields = self.current.fields
        texts = []
        for name in self.fields or [name for name in fields if name != "messages"] or ["messages"]:
            value = fields[name]
            text = value if isinstance(value, str) else dumps(value).decode()
            if len(text) > MOST_CHARACTERS:
                rest = len(text) - MOST_CHARACTERS
                text = f"{text[:MOST_CHARACTERS]}\n… and {rest:,} more characters"
            texts.append((name, text))
        return texts

    def earlier_label(self) -> str:
        """Return the meaning of the current record's label; "" if it has none."""
        if not self.current or self.current.id not in self.labels:
            return ""
        value = self.labels[self.current.id]
        return next((meaning for label, meaning in self.choices.values() if label == value), "skipped")

    def progress(self) -> str:
        """Return `12 of 200: 9 valid, 2 not valid, 1 skipped`."""
        counts = Counter(self.labels[record.id] for record in self.records if record.id in self.labels)
        meanings = [*self.choices.values(), (None, "skipped")]
        parts = [f"{counts[value]} {meaning}" for value, meaning in meanings if counts[value]]
        return f"{counts.total()} of {len(self.records)}" + (f": {', '.join(parts)}" if parts else "")


def _try_to_write(path: Path) -> None:
    """Raise ConfigError if labels cannot be appended to a file, before a person has given one."""
    is_new = not path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
        if is_new:
            path.unlink()
    except OSError as error:
        raise ConfigError(f"cannot write to '{path}': {error.strerror}; give another --out") from error


def label_in_terminal(labelling: Labelling) -> None:
    """Show one record at a time, and read one key for each."""
    while labelling.current:
        width = min(shutil.get_terminal_size().columns, 100)
        click.clear()
        say(labelling.progress())
        for name, text in labelling.texts():
            say(f"\n{display.clipped(name, width)}", bold=True)
            for line in display.visible(text).split("\n"):
                say("\n".join(textwrap.wrap(line, width - 2, initial_indent="  ", subsequent_indent="  ")))
        if label := labelling.earlier_label():
            say(f"\nyour label: {label}")
        say("\n" + "   ".join(f"{key} {meaning}" for key, meaning in labelling.keys.items()))
        key = ""
        while not labelling.press(key):
            try:
                key = click.getchar().lower()
            except EOFError:
                key = QUIT
        if key == QUIT:
            break
    click.clear()
