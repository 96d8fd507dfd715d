"""Printing records, their prompts and their origin."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillgen.cli.show import as_json, say
from distillgen.errors import ConfigError
from distillgen.inference.ledger import Ledger
from distillgen.inference.places import is_there
from distillgen.record import GATHERED, META, Record
from distillgen.state_files import PARTIAL
from distillgen.text.display import field_lines, number, shortened

if TYPE_CHECKING:
    from distillgen.runs.directory import Run


def records(
    entries: Iterable[Record],
    width: int = 0,
    *,
    full: bool = False,
    most: int = 24,
    prompt: Callable[[Record], Mapping[str, str]] = lambda record: {},
) -> None:
    """Print records with their source, fields, scores and reason, in lines of `width` or of the terminal.

    Of many fields, the first `most` are printed. With `full`, all fields and whole texts are. `prompt`
    gives the texts that were sent for a record, by titles.
    """
    width = width or min(shutil.get_terminal_size((120, 24)).columns, 160)
    entries = list(entries)  # a damaged file is reported before anything is printed
    for record in entries:
        drop = record.dropped
        by = "" if drop and drop.filter == GATHERED else "dropped by "
        reason = f"  {by}{drop.stage}/{drop.filter}: {drop.reason}" if drop else ""
        say(f"{record.id}  {record.source}{reason}", bold=True)
        for title, text in prompt(record).items():
            say(f"  {whole_field(title, text) if full else shortened(f'{title}: {text}', width - 2)}")
        if full:
            for name, value in record.fields.items():
                say(f"  {whole_field(name, value)}")
        else:
            for line in field_lines(record, width, most, "; --full shows them"):
                say(f"  {line}")
        if record.scores:
            say("  scores: " + ", ".join(f"{name} {number(value)}" for name, value in record.scores.items()))
    if not entries:
        say("no records")


def whole_field(name: str, value: Any) -> str:
    """Return a field with its whole text: of several lines, below the name and indented."""
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    lines = text.splitlines() or [""]
    return f"{name}: {text}" if len(lines) == 1 else "\n      ".join([f"{name}:", *lines])


def prompt_of(record: Record, stage: str, ledger: Ledger) -> dict[str, str]:
    """Return the messages of the request that a stage sent for a record, by titles such as `sent, user`."""
    keys = [step["key"] for step in record.made if step["stage"] == stage]
    answer = ledger.requested(bytes.fromhex(keys[-1])) if keys else None
    if answer is None:
        return {}
    request = json.loads(answer[0])
    if "prompt" in request:
        return {"sent": str(request["prompt"])}
    texts: dict[str, str] = {}
    for message in request.get("messages") or ():
        content = message.get("content") or message.get("tool_calls") or ""
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        turns = sum(title.split()[1] == message["role"] for title in texts)
        texts[f"sent, {message['role']}" + (f" {turns + 1}" if turns else "")] = text
    return texts


def lineage(run: Run, beginning: str, json_wanted: bool) -> None:
    """Print the record whose id begins so, its parents, and the requests and answers that made it."""
    from distillgen.runs.directory import read_records

    names = {path.name.removesuffix(PARTIAL) for path in (run.directory / "stages").glob("*.jsonl*")}
    files = [run.directory / "stages" / name for name in sorted(names, reverse=True)]
    record_id = _complete_id(run, files, beginning)
    ids, chain = {record_id}, dict[str, Record]()
    for path in files:
        for record in read_records(path):  # the last stage's file comes first, with the record's final state
            if record.id in ids and record.id not in chain:
                chain[record.id] = record
                ids.update(record.parents)
    if record_id not in chain:
        raise ConfigError(f"a run writes the rows of {run.directory} anew, and '{record_id}' is gone")
    place, answers = run.ledger, {}
    if is_there(place):
        ledger = Ledger(place, read_only=True)
        for step in chain[record_id].made:
            if stored_answer := ledger.requested(bytes.fromhex(step["key"])):
                request, completion = map(json.loads, stored_answer[:2])
                answers[step["key"]] = {"made": step, "request": request, "completion": completion}
        ledger.close_now()
    if json_wanted:
        first, *parents = (record.row() for record in chain.values())
        as_json({"record": first, "parents": parents, "answers": answers})
    else:
        records(chain.values(), width=100_000, most=10_000)
        say(json.dumps(answers, indent=2, ensure_ascii=False))


def _complete_id(run: Run, files: Sequence[Path], beginning: str) -> str:
    """Return the id that begins so; raise ConfigError if none does, or several do."""
    from distillgen.runs.directory import read_rows

    all_ids = (row[META]["id"] for path in files for row in read_rows(path))
    ids = {record_id for record_id in all_ids if record_id.startswith(beginning)}
    if not ids:
        raise ConfigError(f"there is no record '{beginning}' in {run.directory}")
    if len(ids) > 1 and beginning not in ids:
        examples = ", ".join(sorted(ids)[:3])
        raise ConfigError(
            f"'{beginning}' begins the ids of {len(ids):,} records ({examples}, …); give more of it"
        )
    return beginning if beginning in ids else ids.pop()
