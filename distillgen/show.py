"""What the commands print about a run: records, lineage, a summary."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import click

from distillgen.errors import ConfigError, Stopped, did_you_mean
from distillgen.ledger import Ledger
from distillgen.pipeline import Pipeline
from distillgen.progress import clipped, drops, duration, fields_text, money, printable
from distillgen.record import Record
from distillgen.runs import Run, read_records


def say(text: str, *, error: bool = False, bold: bool = False) -> None:
    """Print text of any origin: a terminal shows it and does not obey it."""
    click.secho(printable(text), err=error, bold=bold or None)


def as_json(value: Any) -> None:
    """Print JSON, in ASCII, so that whatever a terminal would obey is escaped."""
    click.echo(json.dumps(value, indent=2).replace("\x7f", "\\u007f"))


def records(found: Iterable[Record], count: int) -> None:
    """A few records: where each came from, why it was dropped, its fields and scores."""
    width = min(shutil.get_terminal_size((120, 24)).columns, 160)
    few = list(islice(found, count))
    for record in few:
        _heading("", record)
        for line in fields_text(record, width):
            say("  " + line)
        _scores(record)
    if not few:
        say("no records")


def _heading(word: str, record: Record) -> None:
    why = record.dropped
    said = f"  dropped by {why.stage}/{why.filter}: {why.reason}" if why else ""
    say(f"{word}{record.id}  {record.source}{said}", bold=True)


def _scores(record: Record) -> None:
    if record.scores:
        say("  scores: " + ", ".join(f"{name} {value:.4g}" for name, value in record.scores.items()))


def lineage(run: Run, wanted: str, machine: bool) -> None:
    """A record, the records that it came from, and each request and answer on the way. Raises ConfigError."""
    files = [*sorted((run.directory / "stages").glob("*.jsonl")), run.directory / "corpus.jsonl", run.directory / "dropped.jsonl"]
    chain: list[Record] = []
    ids = [wanted]
    while ids:  # the file nearest to the end holds the record as it ended
        found = next((r for path in reversed(files) for r in read_records(path) if r.id == ids[0]), None)
        if found is None and not chain:
            raise ConfigError(f"there is no record '{wanted}' in {run.directory}")
        ids = [*ids[1:], *(found.parents if found else ())]
        chain += [found] if found else []
    path, answers = run.directory / "ledger.sqlite3", {}
    if path.exists():
        ledger = Ledger(path, read_only=True)
        for made in chain[0].made:
            if kept := ledger.requested(bytes.fromhex(made["key"])):
                answers[made["key"]] = {"request": json.loads(kept[0]), "completion": json.loads(kept[1])}
        ledger.close_now()
    if machine:
        as_json({"record": chain[0].row(), "parents": [r.row() for r in chain[1:]], "answers": answers})
        return
    for i, record in enumerate(chain):
        _heading("parent " if i else "record ", record)
        for name, value in record.fields.items():
            say(f"  {name}: {value}")
        _scores(record)
    for made in chain[0].made:
        say(f"made by stage {made['stage']}, model {made['model']}, prompt {made['prompt']}, sample {made['sample']}", bold=True)
        if made["draw"]:
            say(f"  drawn: {made['draw']}")
        for part, value in answers.get(made["key"], {}).items():
            say(f"  {part}: " + json.dumps(value, indent=2, ensure_ascii=False).replace("\n", "\n  "))


def status(run: Run) -> None:
    """How far a run is, a line a stage and a model."""
    state = run.state
    hints = dict.fromkeys(("killed", "interrupted", "stopped by budget"), " (run the same command to go on)")
    word = state["state"] + hints.get(state["state"], "")
    say(f"{state['pipeline']}: {word}, {duration(state['seconds'])}, {state['updated_at']}")
    total = f"/{state['source_rows']:,}" if state["source_rows"] is not None else ""
    for s in state["stages"]:
        lost = f"  dropped {drops(s['dropped'])}" if s["dropped"] else ""
        say(f"{s['name']:<12} {str(s['sources']) + total:>13}  kept {s['kept']:,}{lost}")
    for name, m in state["models"].items():
        tokens = m["input_tokens"] + m["output_tokens"]
        say(f"{name:<12} {m['requests']:,} requests, {m['retries']:,} retries, {tokens:,} tokens, {money(m['cost_usd'])}")


def summary(run: Run) -> None:
    """A few kept and dropped records, and the totals."""
    state, totals = run.state, run.state["totals"]
    source = next(iter(read_records(next((run.directory / "stages").glob("01-*.jsonl")))), None)
    given = set(source.fields) if source else set()
    for title, file, count in (("kept", "corpus", state["kept"]), ("dropped", "dropped", sum(state["dropped"].values()))):
        sample = _sample(run.directory / f"{file}.jsonl", 3)
        if sample:
            say(f"\n{title}, {len(sample)} of {count:,}", bold=True)
        for record in sample:
            if record.dropped:
                say(f"  {record.dropped.filter}: {clipped(record.dropped.reason)}")
            made = {name: value for name, value in record.fields.items() if name not in given}
            for line in fields_text(replace(record, fields=made or record.fields), 150):
                say("    " + line)
            say("")
    tokens = totals["input_tokens"] + totals["output_tokens"]
    lost = f", dropped {drops(state['dropped'])}" if state["dropped"] else ""
    say(f"{state['kept']:,} kept{lost}", bold=True)
    cost = f", {money(totals['cost_usd'])}" if totals["cost_usd"] else ""
    say(f"{totals['requests']:,} requests, {tokens:,} tokens{cost}, {duration(state['seconds'])}")
    say(f"corpus  {run.directory / 'corpus.jsonl'}\nreport  {run.directory / 'report.html'}")


def _sample(path: Path, count: int) -> list[Record]:
    """The first records, of the dropped ones one for each filter."""
    first: dict[str, Record] = {}
    for i, record in enumerate(islice(read_records(path), 10_000)):
        first.setdefault(record.dropped.filter if record.dropped else str(i), record)
        if len(first) == count:
            break
    return list(first.values())


def stopped(stop: Stopped, run: Run, pipeline: Pipeline) -> str:
    """What is safe, how to go on, and what is left."""
    state = run.state
    left = "" if state["source_rows"] is None else f", {state['source_rows'] - state['stages'][-1]['sources']:,} source rows left"
    most = sum(e.max_cost_usd or 0.0 for _, e in pipeline.plan())
    cost = f", {money(state['totals']['cost_usd'])} of at most {money(most)} spent" if most else ""
    safe = f"{state['totals']['answers']:,} answers are safe in {run.directory}"
    notes = "".join(f"\n{note}" for note in getattr(stop, "__notes__", ()))
    return f"{stop}: {safe}; run the same command to go on{left}{cost}{notes}"


def chosen(path: Path, by: str | None) -> Callable[[Record], bool]:
    """Whether a record was dropped by the filter `by`; every record where it is None. Raises ConfigError for no such filter."""
    if by is None:
        return lambda record: True
    known = {r.dropped.filter for r in read_records(path) if r.dropped}
    if by not in known:
        raise ConfigError(f"nothing was dropped by '{by}'{did_you_mean(by, known)}")
    return lambda record: record.dropped is not None and record.dropped.filter == by
