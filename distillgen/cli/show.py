"""Printing the results of commands. Every command imports this module, so it imports nothing heavy."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Container, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from distillgen.inference.ledger import LOST, UNUSABLE
from distillgen.record import GATHERED, IDENTICAL, MET, PASSED_BY, Record
from distillgen.text.display import (
    clipped,
    counted,
    dropped,
    duration,
    field_lines,
    gathered,
    money,
    name_width,
    number,
    stage_line,
    visible,
)

if TYPE_CHECKING:
    from distillgen.flow.stage import BoundStage
    from distillgen.runs.directory import Run


def say(text: str, *, error: bool = False, bold: bool = False) -> None:
    """Print text of any origin; escape characters that would control the terminal."""
    stream = sys.stderr if error else sys.stdout  # without a stream, click would write UTF-8 to one of ASCII
    click.secho(visible(text), file=stream, bold=bold or None)


def broken(line: str, indent: int = 4) -> str:
    """Return a line broken between words, to the width of the terminal; for a pipe, unbroken."""
    return textwrap.fill(
        line, columns(), subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )


def columns() -> int:
    """Return the width of the terminal; for a pipe, one that breaks no line."""
    return shutil.get_terminal_size((10_000, 24)).columns


def as_json(value: Any) -> None:
    """Print JSON in ASCII, which escapes characters that would control the terminal."""
    click.echo(json.dumps(value, indent=2).replace("\x7f", "\\u007f"))


def open_page(path: Path) -> None:
    """Open a page in a browser, if there is one; otherwise print where it is."""
    import webbrowser

    if not (path.exists() and webbrowser.open(path.resolve().as_uri())):
        missing = "there is no browser to open it in" if path.exists() else "this run has not written it"
        say(f"{path}: {missing}", error=True)


def manual(entry: Mapping[str, Any]) -> None:
    """Print the description and the options of an entry of the catalog, wrapped to the terminal."""
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


def status(run: Run, *, error: bool = False) -> None:
    """Print the progress of a run, a line per stage and model, and how to continue it."""
    state = run.state
    lines = [f"{state['pipeline']}: {state['state']}, {duration(state['seconds'])}, {state['updated_at']}"]
    stages = state["stages"]
    if work := state.get("workers"):
        lines.append(f"{work['workers']} workers: {work['finished']} of {work['shards']} shards")
        stages = work["stages"]
    wide = name_width([*(stage["name"] for stage in stages), *state["models"]])
    lines += [stage_line(stage, state["source_rows"], wide) for stage in stages]
    lines += [f"{name:<{wide}} {usage(counts)}" for name, counts in state["models"].items()]
    for status, consequence in (
        (UNUSABLE, "was billed for answers that cannot be used"),
        (LOST, "may be billed for requests without an answer"),
    ):
        if cost_usd := sum(use["cost_usd"] for use in state["usage"] if use["status"] == status):
            lines.append(f"of that {money(cost_usd)} {consequence}")
    if state["state"] not in ("finished", "running"):
        count = state["totals"]["answers"]
        work = "1 answer is" if count == 1 else f"{count:,} answers are" if count else "finished stages are"
        lines.append(f"{work} safe in {run.directory}; run the same command to go on")
    say("\n".join(broken(line) for line in lines), error=error)


def usage(counts: Mapping[str, float]) -> str:
    """Return `36 requests, 2 retries, 17,357 tokens, $0.41`, without counts of zero."""
    parts = [counted(int(counts["requests"]), "request")]
    if counts["retries"]:
        parts.append(counted(int(counts["retries"]), "retry"))
    tokens = f"{counts['input_tokens'] + counts['output_tokens']:,} tokens"
    if cached := counts.get("cache_write_tokens"):
        tokens += f" ({cached:,} of them written to a cache)"
    parts.append(tokens)
    if counts["cost_usd"]:
        parts.append(money(counts["cost_usd"]))
    return ", ".join(parts)


def evaluation(run: Run) -> None:
    """Print the result of each model by each metric, and the differences between models."""
    from distillgen.runs.directory import evaluations

    for result in evaluations(run.directory):
        say(f"\n{result['name']}, {result['items']:,} items of {result['of']}", bold=True)
        for metric in result["metrics"]:
            for name, model in result["models"].items():
                if (m := model["metrics"].get(metric, {"n": 0}))["n"]:
                    say(f"  {metric:<16} {name:<14} {m['mean']:6.1%}  ({m['low']:.1%} to {m['high']:.1%})")
        for name, model in result["models"].items():
            figures = {
                key: model[key] for key in ("perplexity", "ece", "failed", "cut_off") if model.get(key)
            }
            if figures:
                texts = (f"{key.replace('_', ' ')} {number(value)}" for key, value in figures.items())
                say(f"  {name}: {', '.join(texts)}")
            for figure, value in model.get("judges", {}).items():
                say(f"  {name}: {figure} {number(value)}")
        for c in result["comparisons"]:
            interval = f"{100 * c['low']:+.1f} to {100 * c['high']:+.1f}, p {c['p']:.3f}"
            pair = f"{c['first']} against {c['second']}, {c['metric']}"
            say(f"  {pair}: {100 * c['difference']:+.1f} points ({interval})")
        if result["methods"]:
            say(f"  95 % intervals: {', '.join(result['methods'])}")


def summary(run: Run) -> None:
    """Print examples of kept and dropped records, the totals, and where the corpus and the report are.

    An example shows the fields that the source did not have.
    """
    from distillgen.runs.directory import read_records

    state, (source, *_) = run.state, sorted((run.directory / "stages").iterdir())
    if not state["stages"][-1]["complete"]:
        say(f"the records of the stages that were run are in {source.parent}")
        return
    source_fields = {name for record in islice(read_records(source), 1) for name in record.fields}
    _examples("kept", run.directory / "corpus.jsonl", state["kept"], source_fields)
    _examples("dropped", run.directory / "dropped.jsonl", sum(state["dropped"].values()), source_fields)
    parts = gathered(state["stages"])
    counts = [f"{state['kept']:,} kept", f"{parts:,} gathered into others" if parts else ""]
    say(", ".join(filter(None, (*counts, dropped(state["dropped"])))), bold=True)
    for stage in state["stages"]:
        if passed_by := stage["measured"].get(PASSED_BY):
            met = stage["measured"][MET]
            say(f"{stage['name']}: its condition held for {met:,.0f} records, and {passed_by:,.0f} passed by")
        if identical := stage["measured"].get(IDENTICAL):
            identical_requests = (
                f"{identical:,.0f} requests were identical to earlier ones and got their answers"
            )
            remedy = "give the stage n, or vary its prompt, for draws of their own; else set temperature: 0"
            say(f"{stage['name']}: {identical_requests}; {remedy}")
    for title, text in _origins(state):
        say(f"{title:<16} {text}")
    evaluation(run)
    say(f"{'corpus':<16} {run.directory / 'corpus.jsonl'}\n{'report':<16} {run.directory / 'report.html'}")


def _origins(state: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Give what was asked now, what came from the ledger, and what the run has asked in all."""
    now, total = state["asked_now"], state["totals"]
    yield "asked now", f"{usage(now) if now['requests'] else 'nothing'}, {duration(state['seconds'])}"
    if replayed := state["from_ledger"]:
        yield "from the ledger", f"{counted(replayed, 'answer')}, paid for before"
    if now != total:
        yield "in all", usage(total)


def _examples(title: str, path: Path, count: int, source_fields: Container[str]) -> None:
    """Print up to three records of a file; of dropped ones, each by another filter."""
    from distillgen.runs.directory import read_records

    first: dict[str, Record] = {}
    for record in islice(read_records(path), 1_000):
        if record.dropped and record.dropped.filter == GATHERED:
            continue
        first.setdefault(record.dropped.filter if record.dropped else record.id, record)
    sample = list(first.values())[:3]
    if sample:
        say(f"\n{title}, {len(sample)} of {count:,}", bold=True)
    for record in sample:
        if record.dropped:
            say(f"  {record.dropped.filter}: {clipped(record.dropped.reason)}")
        new_fields = {name: value for name, value in record.fields.items() if name not in source_fields}
        lines = field_lines(replace(record, fields=new_fields or record.fields), 150, most=12)
        say("".join(f"    {line}\n" for line in lines))
