"""The commands that filter, label, export and publish rows, and those on reports and ledgers."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import distillgen
from distillgen.cli import show
from distillgen.cli.arguments import (
    AS_JSON,
    DATA,
    LIMIT,
    RUN,
    SETS,
    assignments,
    filter_argument,
    find_data,
    names_of,
    shares,
)
from distillgen.cli.run import Unusable, carry_out, load_pipeline
from distillgen.errors import ConfigError

if TYPE_CHECKING:
    from distillgen.runs.directory import Run


@click.command("filter")
@click.argument("data")
@click.option(
    "--with",
    "chosen",
    multiple=True,
    required=True,
    metavar="NAME[:OPTION=VALUE,…]",
    help="A filter, or more",
)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="The run directory; default: runs/<data>-filtered."
)
@SETS
@LIMIT
@AS_JSON
def filter_(
    data: str, chosen: Sequence[str], out: Path | None, sets: Sequence[str], limit: int | None, as_json: bool
) -> None:
    """Filter DATA (a file, a folder of texts, or a Hugging Face data set) without a pipeline.

    \b
    distillgen filter answers.jsonl --with word_count:field=answer,min_words=3 --with unique:by=[answer]
    A filter that asks a model finds it by --set 'models.judge={provider: openai, model: gpt-4.1-mini}'.
    """
    from distillgen.rows.readers import origin
    from distillgen.runs.state import Options

    stages = [{"source": origin(data)}, {"filter": [filter_argument(text) for text in chosen]}]
    checked = load_pipeline({"version": 1, "models": {}, "stages": stages}, sets, trusted=frozenset({data}))
    carry_out(
        checked, out or checked.run_directory(f"{Path(data).stem}-filtered"), Options(limit=limit), as_json
    )


@click.command()
@DATA
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="A new folder, or a file by its ending; default: RUN/export.",
)
@click.option(
    "--format",
    "format_",
    metavar="NAME",
    help="jsonl (default), parquet, arrow, csv, ntriples, turtle, graphml.",
)
@click.option(
    "--shape",
    metavar="NAME[:PART=FIELD,…]",
    help="messages, prompt_completion, alpaca, sharegpt, preference, labelled or triples; a part is a field, or a template.",
)
@click.option(
    "--keep",
    metavar="FIELD,…",
    default="",
    help="Fields to keep, besides the shape's; default without a shape: all.",
)
@click.option(
    "--split", "splits", metavar="NAME=SHARE,…", default="", help="train=0.9,test=0.1, by source item."
)
@click.option("--by", metavar="FIELD", help="With --split: rows with the same value here stay together.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the splits.")
@click.option("--shard-rows", type=click.IntRange(min=1), help="Most rows in one file.")
@click.option("--dropped", is_flag=True, help="What did not survive, with the reasons, instead of what did.")
@click.option(
    "--no-id", is_flag=True, help="Without the column by which `show --id` finds where a row came from."
)
@click.option("--signals", is_flag=True, help="Log-probabilities and embeddings instead, as Parquet.")
@AS_JSON
def export(
    data: Run | str,
    out: Path | None,
    format_: str | None,
    shape: str | None,
    keep: str,
    splits: str,
    no_id: bool,
    signals: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Write what RUN made, or any data set, in the format and shape that a trainer or tool reads.

    \b
    distillgen export quickstart --shape alpaca -o alpaca.jsonl
    distillgen export quickstart --format parquet --shape messages --split train=0.9,test=0.1 -o data/qa
    distillgen export answers.csv --shape messages:user=question,assistant='{{ answer }} ({{ unit }})' -o answers
    """
    from distillgen.rows.formats import FORMATS
    from distillgen.runs.export import export
    from distillgen.runs.export_rows import Wanted
    from distillgen.runs.export_signals import export_signals

    if out is None and isinstance(data, str):
        raise ConfigError("give --out: a folder, or a file by its ending, to export to")
    if signals:
        if isinstance(data, str):
            raise ConfigError("--signals are in a run's ledger; give a run")
        path = out or data.directory / "signals.parquet"
        click.echo(f"{export_signals(data, path):,} rows in {path}")
        return
    path = out or data.directory / "export"  # type: ignore[union-attr]
    endings = {writer.suffix: name for name, writer in FORMATS.items()}
    name, parts = assignments(shape, "--shape") if shape else (None, {})
    wanted = Wanted(
        format_ or endings.get(path.suffix, "jsonl"),
        name,
        parts,
        names_of(keep),
        shares(splits),
        identify=not no_id,
        **given,
    )
    exported = export(data, path, wanted)
    if as_json:
        show.as_json({"out": str(path), **vars(exported)})
    else:
        made = "".join(f"; {part} from {source}" for part, source in exported.taken.items())
        rows = ", ".join(f"{split} {count:,}" for split, count in exported.rows.items())
        show.say(f"{path}: {rows} rows ({wanted.format}{made})")
    for what, count in exported.private.items():
        show.say(f"note: in {count:,} rows stands {what}, which push refuses to publish", error=True)
    if exported.left_out:
        reasons = "; ".join(f"{count:,}: {why}" for why, count in Counter(exported.left_out).most_common(5))
        raise Unusable(
            f"{sum(exported.left_out.values()):,} rows have no place in the shape and were left out ({reasons})"
        )


@click.command()
@click.argument("data", metavar="RUN|FOLDER", callback=find_data)
@click.argument("repository", metavar="REPO")
@click.option(
    "--student", is_flag=True, help="RUN's student, an adapter or a whole model, instead of its data set."
)
@click.option("--public", is_flag=True, help="For everybody to see; default: private.")
@click.option(
    "--dry-run", is_flag=True, help="Only show the files, their sizes and the repository; no network."
)
@click.option(
    "--as-it-is", is_flag=True, help="Also where a path, an address or the name of this machine stands in it."
)
@AS_JSON
def push(
    data: Run | str,
    repository: str,
    student: bool,
    public: bool,
    dry_run: bool,
    as_it_is: bool,
    as_json: bool,
) -> None:
    """Upload the data set of RUN, a FOLDER that export wrote, or RUN's student to REPO (owner/name) on the Hugging Face Hub.

    The token comes from HF_TOKEN or from `hf auth login`. Give the same command again after a kill or to bring a repository up
    to date: what is there already is not uploaded again.
    """
    from distillgen.runs import hub as hub

    if student and isinstance(data, str):
        raise ConfigError(f"--student is of a run, and '{data}' is none")
    files = hub.data_files(data) if not student or isinstance(data, str) else hub.student_files(data)
    hub.check(files, Path(data) if isinstance(data, str) else data.directory, as_it_is=as_it_is)
    kind = "model" if student else "dataset"
    told = hub.listing(files, repository, kind, public)
    if not dry_run:
        pushed = hub.push(files, repository, kind, public=public)
        told |= {"address": pushed.address, "private": pushed.private, "others": list(pushed.others)}
    if as_json:
        show.as_json(told)
        return
    for file in files if dry_run else ():
        show.say(f"{file.size:>15,}  {file.name}")
    where = f"the {'private' if told['private'] else 'public'} {kind} repository {repository}"
    show.say(f"{told['bytes']:,} bytes in {len(files)} files {'for' if dry_run else 'are in'} {where}")
    if told.get("others"):
        show.say(f"note: it also holds {', '.join(told['others'])}, which this push did not touch")
    if public and told["private"]:
        show.say("note: the repository was private before and still is; its settings on the Hub change that")
    if not dry_run:
        show.say(told["address"])


@click.command()
@RUN
@click.option(
    "-n", "count", type=click.IntRange(min=1), default=200, show_default=True, help="How many records."
)
@click.option("--fields", metavar="NAME,NAME", default="", help="The fields to show; default: all.")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("data/labels.jsonl"),
    show_default=True,
    help="The file that labels are appended to.",
)
@click.option("--label", default="label", show_default=True, help="What the label's field is called.")
@click.option("--graded", is_flag=True, help="Grades from 1 to 5, instead of valid or not.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choice of records.")
@click.option("--web", is_flag=True, help="On a web page, for this machine only.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="Of the web page; default: any that is free."
)
def label(
    run: Run, count: int, fields: str, out: Path, label: str, graded: bool, seed: int, web: bool, port: int
) -> None:
    """Label records of RUN, kept and dropped, for a critic to learn from. Give the same command again to go on."""
    from distillgen.cli.labelling import Labelling, in_terminal, sample
    from distillgen.cli.labelling_page import on_page

    shown = [name.strip() for name in fields.split(",") if name.strip()]
    if not web and not sys.stdin.isatty():
        raise ConfigError("labelling asks on a terminal, and this is none; give --web for a page")
    labelling = Labelling(sample(run, count, fields=shown, seed=seed), out, label, graded, shown)
    try:
        if web:
            on_page(
                labelling,
                port,
                lambda address: show.say(f"open {address}\nit ends by itself; Ctrl-C ends it sooner"),
            )
        else:
            in_terminal(labelling)
    finally:
        show.say(f"{labelling.progress()}; in {out}")
        reads = ", ".join(shown) or "…"
        show.say(
            f"for a critic to learn from: - critic: {{labels: {out}, fields: [{reads}], target_recall: 0.8}}"
        )


@click.command()
@RUN
def report(run: Run) -> None:
    """Write RUN's report.html anew, and say where it is."""
    from distillgen.runs.report import write_report

    write_report(run.directory)
    click.echo(run.directory / "report.html")


@click.group()
def ledger() -> None:
    """The answers that were paid for, as they are kept."""


@ledger.command()
@click.argument("into", metavar="INTO")
@click.argument("others", metavar="OTHER…", nargs=-1, required=True)
@AS_JSON
def merge(into: str, others: Sequence[str], as_json: bool) -> None:
    """Bring the answers of OTHER ledgers, and what filters measured, to the ledger INTO, which is made where there is none.

    Each is a ledger's file, or a run, whose ledger is meant. What INTO has is not taken twice.

    \b
    distillgen ledger merge runs/ledger.sqlite3 from-another-machine/ledger.sqlite3
    """
    from distillgen.inference.ledger import merge

    path = _ledger_file(into)
    count = merge(path, [_ledger_file(other) for other in others])
    show.as_json({"ledger": str(path), "answers": count}) if as_json else show.say(
        f"{count:,} answers came to {path}"
    )


def _ledger_file(name: str) -> Path:
    """A ledger by its file, or by a run that uses it."""
    from distillgen.project import project_around

    runs = project_around(Path.cwd()) / "runs"
    ran = [run for run in (Path(name), runs / name) if (run / "usage.json").exists()]
    if not ran and Path(name).is_dir():
        raise ConfigError(f"'{name}' is no ledger: it is a folder that holds no run; name the ledger's file")
    return distillgen.Run(ran[0]).ledger if ran else Path(name)
