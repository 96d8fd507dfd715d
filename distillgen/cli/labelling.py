"""label: a person says which records are valid, in the terminal or on a page of this machine; a critic learns
from it.
"""

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
LONGEST = 20_000  # characters of a field that are shown


def sample(run: Run, count: int, *, fields: Sequence[str], seed: int) -> list[Record]:
    """Records of what left the run's last stage, kept and dropped by each filter in proportion, in random
    order.

    The same seed gives the same order, and fewer are always the first of more. Records without one of
    `fields` are left out.
    """
    records = read_records(furthest(run.directory, run.state["stages"]))
    totals, known = Counter[tuple[str, str] | None](), set[str]()
    chosen = defaultdict[tuple[str, str] | None, list[tuple[int, int, Record]]](list)
    for number, record in enumerate(records):
        known.update(record.fields)
        if all(name in record.fields for name in fields):
            why = (record.dropped.stage, record.dropped.filter) if record.dropped else None
            totals[why] += 1
            entry = (-int(digest([seed, record.id], 15), 16), number, record)
            if len(chosen[why]) < count:
                heapq.heappush(chosen[why], entry)
            else:  # the heap holds those that come first in random order, the last of them on top
                heapq.heappushpop(chosen[why], entry)
    if not chosen:
        missing = next((name for name in fields if name not in known), "")
        what = f" with the field '{missing}'{did_you_mean(missing, known)}" if missing else ""
        raise ConfigError(f"there is no record to label in {run.directory}{what}")
    ordered = [
        (
            (rank + 0.5) / totals[why],
            number,
            record,
        )  # how far into its own kind: those of every kind are spread evenly
        for why, some in chosen.items()
        for rank, (_, number, record) in enumerate(sorted(some, reverse=True))
    ]
    return list({record.id: record for *_, record in sorted(ordered)}.values())[:count]


@dataclass
class Labelling:
    """Where a person is in a list of records, and what was said of them, also in earlier sessions."""

    records: Sequence[Record]
    path: Path
    label: str = "label"
    graded: bool = False
    fields: Sequence[str] = ()
    said: dict[str, float | None] = field(default_factory=dict)
    at: int = 0

    def __post_init__(self) -> None:
        """Read what is in the file. Raises ConfigError where it is not a file of such labels, or the records
        have one already.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for line, row in read_rows(self.path) if self.path.exists() else ():
            if isinstance(row, str) or self.label not in row:
                message = (
                    row
                    if isinstance(row, str)
                    else f"the row has no '{self.label}'; give another --label or --out"
                )
                raise ConfigError(message, path=self.path, line=line)
            value, meta = row[self.label], row.get(META)
            if value is not None and value not in [value for value, _ in self.choices.values()]:
                kind = "grades from 1 to 5" if self.graded else "labels of 1 and 0"
                message = f"the label {str(value)[:40]!r} is none of the {kind}; give another --out, or --graded as before"
                raise ConfigError(message, path=self.path, line=line)
            if isinstance(meta, dict) and "id" in meta:
                self.said[str(meta["id"])] = value
        if taken := next((record for record in self.records if self.label in record.fields), None):
            raise ConfigError(
                f"the records have a field '{self.label}' ({taken.source}); name the labels' own with --label"
            )
        self.on(0)

    @property
    def choices(self) -> Mapping[str, tuple[int, str]]:
        """The label and what it means, by key."""
        return GRADES if self.graded else VALID

    @property
    def keys(self) -> dict[str, str]:
        """What each key does."""
        return {
            **{key: meaning for key, (_, meaning) in self.choices.items()},
            SKIP: "skip",
            BACK: "back",
            QUIT: "quit",
        }

    @property
    def current(self) -> Record | None:
        """The record that is asked about; None where all are done."""
        return self.records[self.at] if self.at < len(self.records) else None

    def press(self, key: str) -> bool:
        """Do what a key says; whether it was one that has a meaning. What is said is on the disk when this
        returns.
        """
        record = self.current
        if key == BACK:
            self.at = max(0, self.at - 1)
        elif key in (*self.choices, SKIP) and record:
            value = self.choices[key][0] if key in self.choices else None
            with self.path.open("a+b") as stream:
                stream.seek(max(0, stream.seek(0, os.SEEK_END) - 1))
                broken = stream.read(1) not in (
                    b"",
                    b"\n",
                )  # a file that was written by hand may end within its last line
                stream.write(
                    b"\n" * broken + dumps({**record.row(), self.label: value}, sort_keys=False) + b"\n"
                )
                stream.flush()
                os.fsync(stream.fileno())
            self.said[record.id] = value
            self.on(self.at + 1)
        return key in self.keys

    def on(self, start: int) -> None:
        """Go to the first record from `start` that nothing was said of, or else to the first of all."""
        order = [*range(start, len(self.records)), *range(start)]
        self.at = next((i for i in order if self.records[i].id not in self.said), len(self.records))

    def shown(self) -> list[tuple[str, str]]:
        """The current record's fields as text; not whether it was kept, nor its scores, which would sway a
        judgement.
        """
        assert self.current
        names = self.fields or [name for name in self.current.fields if name != "messages"] or ["messages"]
        texts = {name: self.current.fields[name] for name in names}
        texts = {
            name: value if isinstance(value, str) else dumps(value).decode() for name, value in texts.items()
        }
        longer = {
            name: f"\n… and {len(text) - LONGEST:,} more characters"
            for name, text in texts.items()
            if len(text) > LONGEST
        }
        return [(name, text[:LONGEST] + longer.get(name, "")) for name, text in texts.items()]

    def before(self) -> str:
        """What was said of the current record, if anything was."""
        if not self.current or self.current.id not in self.said:
            return ""
        value = self.said[self.current.id]
        return next((meaning for own, meaning in self.choices.values() if own == value), "skipped")

    def progress(self) -> str:
        """`12 of 200: 9 valid, 2 not valid, 1 skipped`."""
        said = Counter(self.said.get(record.id, -1) for record in self.records if record.id in self.said)
        counted = [
            f"{said[value]} {meaning}"
            for value, meaning in [*self.choices.values(), (None, "skipped")]
            if said[value]
        ]
        return f"{said.total()} of {len(self.records)}" + (f": {', '.join(counted)}" if counted else "")


def label_in_terminal(labelling: Labelling) -> None:
    """One record at a time, a key each."""
    while labelling.current:
        width = min(shutil.get_terminal_size().columns, 100)
        click.clear()
        say(labelling.progress())
        for name, text in labelling.shown():
            say(f"\n{display.clipped(name, width)}", bold=True)
            for line in display.visible(text).split("\n"):
                say(
                    "\n".join(textwrap.wrap(line, width - 2, initial_indent="  ", subsequent_indent="  "))
                    or ""
                )
        if before := labelling.before():
            say(f"\nyou said: {before}")
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
