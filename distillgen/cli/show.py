"""What the commands print. Imported by every command, so that nothing heavy is imported here."""

from __future__ import annotations

import json
import math
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from distillgen.errors import ConfigError
from distillgen.inference.ledger import LOST, UNUSABLE, Ledger
from distillgen.record import IDENTICAL, META, Record
from distillgen.text.display import (
    clipped,
    dropped,
    duration,
    field_lines,
    money,
    number,
    stage_line,
    visible,
)

if TYPE_CHECKING:
    from distillgen.flow.stage import BoundStage
    from distillgen.runs.directory import Run


def say(text: str, *, error: bool = False, bold: bool = False) -> None:
    """Print text of any origin: a terminal shows it and does not obey it."""
    click.secho(visible(text), err=error, bold=bold or None)


def as_json(value: Any) -> None:
    """Print JSON, in ASCII, so that whatever a terminal would obey is escaped."""
    click.echo(json.dumps(value, indent=2).replace("\x7f", "\\u007f"))


def manual(entry: Mapping[str, Any]) -> None:
    """What an entry of the catalog does, and its options, wrapped to the terminal."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 100)
    say(f"{entry['kind']} {entry['name']}", bold=True)
    for paragraph in (entry.get("text") or entry["about"]).split("\n\n"):
        say(
            textwrap.fill(" ".join(paragraph.split()), width, initial_indent="  ", subsequent_indent="  ")
            + "\n"
        )
    _options(entry.get("options", {}), width)
    for part in ("reads", "writes"):
        if entry.get(part):
            say(
                textwrap.fill(
                    f"{part}: {entry[part]}", width, initial_indent="  ", subsequent_indent="      "
                )
            )
    if entry["kind"] == "prompt" and "inputs" in entry:
        say(f"  reads: {', '.join(entry['inputs']) or 'no field'}\n  gives: {entry['output']}")
    say("")


def _options(options: Mapping[str, Any], width: int, margin: str = "  ") -> None:
    """Say each option's type, default and description, and the same of the keys of a mapping."""
    for name, option in options.items():
        line = f"{name}: {option['type']}"
        if option["required"]:
            line += "; required"
        elif option["default"] not in (None, "", [], {}):
            line += f"; default: {json.dumps(option['default'], ensure_ascii=False)}"
        indent = margin + "    "
        say(textwrap.fill(line, width, initial_indent=margin, subsequent_indent=indent))
        if option["description"]:
            say(textwrap.fill(option["description"], width, initial_indent=indent, subsequent_indent=indent))
        _options(option.get("options", {}), width, indent)


def stage_name(bound: BoundStage) -> str:
    """Return the name of a stage, with a mark if distillgen added the stage to the pipeline."""
    return f"{bound.name} (added)" if bound.added else bound.name


def plan(
    stages: Sequence[Mapping[str, Any]], titles: Sequence[str], totals: Mapping[str, Any], run: Path
) -> None:
    """Print a table of what each stage asks at most, and what the run in the directory `run` has done already."""
    names = ("rows", "requests", "input_tokens", "output_tokens")
    say(f"{'at most':<14}" + "".join(f"{name.replace('_', ' '):>15}" for name in (*names, "cost")))
    total = {"rows": stages[-1]["rows"], **totals}
    for title, row in zip((*titles, "total"), (*stages, total), strict=True):
        cells = ["no bound" if row[name] is None else f"{row[name]:,}" for name in names]
        cells.append("no bound" if row["max_cost_usd"] is None else money(row["max_cost_usd"]))
        say(f"{title:<14}" + "".join(f"{cell:>15}" for cell in cells))
    if ready := [f"{row['stage']} {math.floor(100 * row['done'])} %" for row in stages if row["done"]]:
        say(f"already done, and taken off: {', '.join(ready)} (in {run})")
    for row in (row for row in stages if row["spared"]):
        say(
            f"{row['stage']}: at least {row['spared']:,} records of the pool are not asked about, by what it allocates"
        )
    say(
        "input tokens are estimated from the first 200 rows; the cost takes the longest of them for every row"
    )
    if totals["output_tokens"] is None:
        say("no bound: set max_tokens in the prompt's sampling, the model or the stage")


def records(found: Iterable[Record], width: int = 0) -> None:
    """Where each record came from, why it was dropped, its fields and scores, in lines as wide as `width` or
    the terminal.
    """
    width = width or min(shutil.get_terminal_size((120, 24)).columns, 160)
    few = list(found)
    for record in few:
        why = record.dropped
        say(
            f"{record.id}  {record.source}"
            + (f"  dropped by {why.stage}/{why.filter}: {why.reason}" if why else ""),
            bold=True,
        )
        for line in field_lines(record, width):
            say(f"  {line}")
        if record.scores:
            say("  scores: " + ", ".join(f"{name} {number(value)}" for name, value in record.scores.items()))
    if not few:
        say("no records")


def lineage(run: Run, beginning: str, machine: bool) -> None:
    """The record whose id begins so, those that it came from, and each request and answer on the way. Raises
    ConfigError.
    """
    from distillgen.runs.directory import read_records

    files = sorted((run.directory / "stages").glob("*.jsonl*"), reverse=True)
    wanted = _whole_id(run, files, beginning)
    sought, chain = {wanted}, dict[str, Record]()
    for path in files:
        for record in read_records(path):  # the file nearest to the end holds a record as it ended
            if record.id in sought and record.id not in chain:
                chain[record.id] = record
                sought.update(record.parents)
    path, answers = run.ledger, {}
    if path.exists():
        ledger = Ledger(path, read_only=True)
        for made in chain[wanted].made:
            if kept := ledger.requested(bytes.fromhex(made["key"])):
                answers[made["key"]] = {
                    "made": made,
                    "request": json.loads(kept[0]),
                    "completion": json.loads(kept[1]),
                }
        ledger.close_now()
    if machine:
        first, *parents = (record.row() for record in chain.values())
        as_json({"record": first, "parents": parents, "answers": answers})
    else:
        records(chain.values(), width=100_000)
        say(json.dumps(answers, indent=2, ensure_ascii=False))


def _whole_id(run: Run, files: Sequence[Path], beginning: str) -> str:
    """The one id that begins so."""
    from distillgen.runs.directory import read_rows

    found = {
        own for path in files for row in read_rows(path) if (own := row[META]["id"]).startswith(beginning)
    }
    if not found:
        raise ConfigError(f"there is no record '{beginning}' in {run.directory}")
    if len(found) > 1 and beginning not in found:
        some = ", ".join(sorted(found)[:3])
        raise ConfigError(
            f"'{beginning}' begins the ids of {len(found):,} records ({some}, …); give more of it"
        )
    return beginning if beginning in found else found.pop()


def status(run: Run, *, error: bool = False) -> None:
    """How far a run is, a line a stage and a model, and how to go on."""
    state = run.state
    safe = (
        f"\n{state['totals']['answers']:,} answers are safe in {run.directory}; run the same command to go on"
    )
    lines = [f"{state['pipeline']}: {state['state']}, {duration(state['seconds'])}, {state['updated_at']}"]
    lines += [stage_line(stage, state["source_rows"]) for stage in state["stages"]]
    lines += [f"{name:<12} {_used(used)}" for name, used in state["models"].items()]
    unanswered = {
        UNUSABLE: "was billed for answers that cannot be used",
        LOST: "may be billed for requests without an answer",
    }
    for status, what in unanswered.items():
        if spent := sum(use["cost_usd"] for use in state["usage"] if use["status"] == status):
            lines.append(f"of that {money(spent)} {what}")
    say("\n".join(lines) + ("" if state["state"] in ("finished", "running") else safe), error=error)


def _used(counts: Mapping[str, float]) -> str:
    """`36 requests, 2 retries, 17,357 tokens, $0.41`, without what there was none of."""
    said = f"{counts['requests']:,} requests, {counts['retries']:,} retries".removesuffix(", 0 retries")
    said += f", {counts['input_tokens'] + counts['output_tokens']:,} tokens"
    if written := counts.get("cache_write_tokens"):
        said += f" ({written:,} of them written to a cache)"
    return said + (f", {money(counts['cost_usd'])}" if counts["cost_usd"] else "")


def evaluation(run: Run) -> None:
    """What each model reached by each metric, and how models differ."""
    from distillgen.runs.directory import evaluations

    for found in evaluations(run.directory):
        say(f"\n{found['name']}, {found['items']:,} items of {found['of']}", bold=True)
        for metric in found["metrics"]:
            for name, model in found["models"].items():
                if (m := model["metrics"].get(metric, {"n": 0}))["n"]:
                    say(f"  {metric:<16} {name:<14} {m['mean']:6.1%}  ({m['low']:.1%} to {m['high']:.1%})")
        for name, model in found["models"].items():
            further = {k: model[k] for k in ("perplexity", "ece", "failed", "cut_off") if model.get(k)}
            if further:
                say(
                    f"  {name}: "
                    + ", ".join(f"{k.replace('_', ' ')} {number(v)}" for k, v in further.items())
                )
            for figure, value in model.get("judges", {}).items():
                say(f"  {name}: {figure} {number(value)}")
        for c in found["comparisons"]:
            interval = f"{100 * c['low']:+.1f} to {100 * c['high']:+.1f}, p {c['p']:.3f}"
            say(
                f"  {c['first']} against {c['second']}, {c['metric']}: {100 * c['difference']:+.1f} points ({interval})"
            )
        if found["methods"]:
            say(f"  95 % intervals: {', '.join(found['methods'])}")


def summary(run: Run) -> None:
    """A few kept and dropped records, of these one a filter, with what was made and not given; and the
    totals.
    """
    from distillgen.runs.directory import read_records

    state, (source, *_) = run.state, sorted((run.directory / "stages").iterdir())
    if not state["stages"][-1]["complete"]:
        say(f"the stages that were carried out are in {source.parent}")
        return
    given = {name for record in islice(read_records(source), 1) for name in record.fields}
    for title, file, count in (
        ("kept", "corpus", state["kept"]),
        ("dropped", "dropped", sum(state["dropped"].values())),
    ):
        first: dict[str, Record] = {}
        for record in islice(read_records(run.directory / f"{file}.jsonl"), 1_000):
            first.setdefault(record.dropped.filter if record.dropped else record.id, record)
        sample = list(first.values())[:3]
        if sample:
            say(f"\n{title}, {len(sample)} of {count:,}", bold=True)
        for record in sample:
            if record.dropped:
                say(f"  {record.dropped.filter}: {clipped(record.dropped.reason)}")
            made = {name: value for name, value in record.fields.items() if name not in given}
            say(
                "".join(
                    f"    {line}\n"
                    for line in field_lines(replace(record, fields=made or record.fields), 150)
                )
            )
    say(", ".join(filter(None, (f"{state['kept']:,} kept", dropped(state["dropped"])))), bold=True)
    for stage in state["stages"]:
        if same := stage["measured"].get(IDENTICAL):
            remedy = "for draws of their own give the stage n, or vary its prompt; temperature: 0 says that one is meant"
            say(
                f"{stage['name']}: {same:,.0f} requests were identical to earlier ones and got their answers; {remedy}"
            )
    now, total, replayed = state["asked_now"], state["totals"], state["from_ledger"]
    took = (f", {replayed:,} answers from the ledger" if replayed else "") + f", {duration(state['seconds'])}"
    if now == total:
        say(_used(total) + took)
    else:
        asked = _used(now) if now["requests"] else "nothing"
        say(f"asked now: {asked}{took}; in all: {_used(total)}")
    evaluation(run)
    say(f"corpus  {run.directory / 'corpus.jsonl'}\nreport  {run.directory / 'report.html'}")
