"""The commands that filter, label, export and publish rows, and write a report."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from distillgen.cli import completion, show
from distillgen.cli.arguments import (
    AS_JSON,
    DATA,
    LIMIT,
    OPEN,
    RETRY_FAILED,
    RUN,
    SETS,
    Number,
    PathName,
    WholeNumber,
    filter_argument,
    find_data,
    names_in,
    shape_argument,
    split_argument,
)
from distillgen.cli.carry_out import FailedRows, Printing, carry_out, load_pipeline
from distillgen.errors import ConfigError

if TYPE_CHECKING:
    from distillgen.runs.directory import Run


@click.command("filter")
@click.argument("data")
@click.option(
    "--with",
    "filters",
    shell_complete=completion.filters,
    multiple=True,
    required=True,
    metavar="NAME[:OPTION=VALUE,…]",
    help="A filter and its options. Repeatable; filters apply in this order.",
)
@click.option(
    "-o", "--out", type=PathName(path_type=Path), help="The run directory. Default: runs/DATA-filtered."
)
@SETS
@LIMIT
@RETRY_FAILED
@AS_JSON
def filter_(
    data: str,
    filters: Sequence[str],
    out: Path | None,
    sets: Sequence[str],
    limit: int | None,
    retry_failed: bool,
    as_json: bool,
) -> None:
    """Filter DATA without a pipeline.

    DATA is a file, a folder of texts or a Hugging Face data set.

    \b
    distillgen filter answers.jsonl --with word_count:field=answer,min_words=3 --with unique:by=[answer]
    To give a filter the model that it asks: --set 'models.judge={provider: openai, model: gpt-4.1-mini}'
    """
    from distillgen.rows.readers import origin
    from distillgen.runs.state import Options

    stages = [{"source": origin(data)}, {"filter": [filter_argument(text) for text in filters]}]
    checked_pipeline = load_pipeline(
        {"version": 1, "models": {}, "stages": stages}, sets, trusted=frozenset({data})
    )
    directory = out or checked_pipeline.run_directory(f"{Path(data).stem}-filtered")
    options = Options(limit=limit, retry_failed=retry_failed)
    carry_out(checked_pipeline, directory, options, Printing(as_json))


@click.command()
@DATA
@click.option(
    "-o",
    "--out",
    type=PathName(path_type=Path),
    help="A new folder, or a file with the ending of a format. Default: RUN/export.",
)
@click.option(
    "--format",
    "format_",
    metavar="NAME",
    help="Write jsonl, parquet, arrow, csv, ntriples, turtle or graphml. Default: by the ending of --out, "
    "or jsonl.",
)
@click.option(
    "--shape",
    metavar="NAME[:PART=FIELD,…]",
    help="Give rows the shape messages, tools, prompt_completion, alpaca, sharegpt, dpo, preference, kto, "
    "unpaired_preference, labelled or triples; a part is made from a field or a template. Default: the "
    "fields.",
)
@click.option(
    "--keep",
    metavar="FIELD,…",
    default="",
    help="Fields to keep besides those of the shape. Default: none with a shape, all without.",
)
@click.option(
    "--split",
    "splits",
    metavar="NAME=SHARE,…",
    default="",
    help="Shares of the splits, such as train=0.9,test=0.1. Rows of one source item stay together.",
)
@click.option("--by", metavar="FIELD", help="With --split, keep rows with the same value of FIELD together.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the splits.")
@click.option(
    "--shard-rows", type=WholeNumber(min=1), help="Write at most N rows to a file. Default: no limit."
)
@click.option("--dropped", is_flag=True, help="Export the dropped records, with the reasons.")
@click.option("--no-id", is_flag=True, help="Leave out the record ids, by which `show --id` finds a record.")
@click.option(
    "--for",
    "trainers",
    metavar="NAME,…",
    default="",
    help="Also write the files by which trainers read the rows: llamafactory, axolotl, swift, unsloth.",
)
@click.option("--signals", is_flag=True, help="Export log-probabilities and embeddings, as Parquet.")
@AS_JSON
def export(
    data: Run | str,
    out: Path | None,
    format_: str | None,
    shape: str | None,
    keep: str,
    splits: str,
    no_id: bool,
    trainers: str,
    signals: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write the corpus of RUN, or any data set, in a format and shape for trainers and tools.

    \b
    distillgen export quickstart --shape alpaca -o alpaca.jsonl
    distillgen export quickstart --format parquet --shape messages --split train=0.9,test=0.1 -o data/qa
    distillgen export quickstart --shape messages --for llamafactory,axolotl -o data/qa
    distillgen export answers.csv --shape messages:user=question,assistant='{{ answer }} {{ unit }}' -o out
    """
    from distillgen.rows.formats import FORMATS
    from distillgen.runs.export import export
    from distillgen.runs.export_rows import ExportOptions
    from distillgen.runs.export_signals import export_signals

    if out is None and isinstance(data, str):
        raise ConfigError("give --out: a new folder, or a file with the ending of a format")
    if signals:
        if isinstance(data, str):
            raise ConfigError(f"--signals needs a run, whose ledger holds them; '{data}' is not a run")
        path = out or data.directory / "signals.parquet"
        click.echo(f"{export_signals(data, path):,} rows in {path}")
        return
    path = out or data.directory / "export"  # type: ignore[union-attr]
    endings = {writer.suffix: name for name, writer in FORMATS.items()}
    shape_name, parts = (None, {}) if shape is None else shape_argument(shape)
    export_options = ExportOptions(
        endings.get(path.suffix, "jsonl") if format_ is None else format_,
        shape_name,
        parts,
        names_in(keep),
        split_argument(splits),
        identify=not no_id,
        trainers=names_in(trainers),
        **options,
    )
    exported = export(data, path, export_options)
    if as_json:
        show.as_json({"out": str(path), **vars(exported)})
    else:
        sources = "".join(f"; {part} from {source}" for part, source in exported.taken.items())
        rows = ", ".join(f"{split} {count:,}" for split, count in exported.rows.items())
        show.say(f"{path}: {rows} rows ({export_options.format}{sources})")
    for kind, count in exported.private.items():
        show.say(f"note: {count:,} rows contain {kind}, which push refuses to publish", error=True)
    if exported.left_out:
        reasons = "; ".join(f"{count:,}: {why}" for why, count in Counter(exported.left_out).most_common(5))
        count = sum(exported.left_out.values())
        raise FailedRows(f"{count:,} rows do not fit the shape and were left out ({reasons})")


@click.command()
@click.argument("data", metavar="RUN|FOLDER", callback=find_data, shell_complete=completion.runs)
@click.argument("repository", metavar="REPO")
@click.option("--student", is_flag=True, help="Upload the student of RUN, an adapter or a whole model.")
@click.option("--public", is_flag=True, help="Make the repository public. Default: private.")
@click.option("--dry-run", is_flag=True, help="Show the files and their sizes; upload nothing.")
@click.option(
    "--as-it-is", is_flag=True, help="Upload in spite of paths, addresses or the name of this machine in it."
)
@click.option(
    "--while-running",
    is_flag=True,
    help="Upload the rows of RUN in shards while it goes on, and end with it. Rows go up once.",
)
@click.option(
    "--every",
    "every_minutes",
    metavar="MINUTES",
    type=Number(min=0, min_open=True),
    default=10.0,
    show_default=True,
    help="With --while-running, the time between two uploads.",
)
@AS_JSON
def push(
    data: Run | str,
    repository: str,
    student: bool,
    public: bool,
    dry_run: bool,
    as_it_is: bool,
    while_running: bool,
    every_minutes: float,
    as_json: bool,
) -> None:
    """Upload a data set or a student to REPO (owner/name) on the Hugging Face Hub.

    Uploads the data set of RUN, a FOLDER that export wrote, or with --student the student of RUN. The token
    comes from HF_TOKEN or from `hf auth login`. To continue an interrupted upload or to update a repository,
    give the same command again: files that the repository has already are not uploaded again.
    """
    from distillgen.runs import hub

    if while_running:
        if isinstance(data, str) or student or dry_run:
            raise ConfigError("--while-running needs a run, and goes with neither --student nor --dry-run")
        _push_shards(data, repository, every_minutes * 60, public, as_it_is, as_json)
        return
    if student and isinstance(data, str):
        raise ConfigError(f"--student needs a run; '{data}' is not a run")
    files = hub.data_files(data) if not student or isinstance(data, str) else hub.student_files(data)
    hub.check(files, Path(data) if isinstance(data, str) else data.directory, as_it_is=as_it_is)
    kind = "model" if student else "dataset"
    listing = hub.listing(files, repository, kind, public)
    if not dry_run:
        pushed = hub.push(files, repository, kind, public=public)
        listing |= {"address": pushed.address, "private": pushed.private, "others": list(pushed.others)}
    if as_json:
        show.as_json(listing)
        return
    for file in files if dry_run else ():
        show.say(f"{file.size:>15,}  {file.name}")
    place = f"the {'private' if listing['private'] else 'public'} {kind} repository {repository}"
    show.say(f"{listing['bytes']:,} bytes in {len(files)} files {'for' if dry_run else 'are in'} {place}")
    if listing.get("others"):
        show.say(f"note: it also holds {', '.join(listing['others'])}, which this push did not touch")
    if public and listing["private"]:
        show.say("note: the repository was private before and still is; its settings on the Hub change that")
    if not dry_run:
        show.say(listing["address"])


def _push_shards(
    run: Run, repository: str, every_s: float, public: bool, as_it_is: bool, as_json: bool
) -> None:
    """Push the rows of a run until it ends, and print where they are."""
    from distillgen.runs.hub_shards import push_while_running

    place, rows = push_while_running(
        run,
        repository,
        every_s=every_s,
        public=public,
        as_it_is=as_it_is,
        say=lambda text: show.say(text, error=True),
    )
    if as_json:
        show.as_json(
            {"repository": place.name, "private": place.private, "rows": rows, "address": place.address}
        )
    else:
        show.say(f"the run is finished; all its {rows:,} rows are in {place.name}")
        show.say(place.address)


@click.command()
@RUN
@click.option(
    "-n",
    "count",
    metavar="N",
    type=WholeNumber(min=1),
    default=200,
    show_default=True,
    help="Number of records.",
)
@click.option("--fields", metavar="NAME,…", default="", help="Fields to show. Default: all.")
@click.option(
    "-o",
    "--out",
    type=PathName(path_type=Path),
    default=Path("data/labels.jsonl"),
    show_default=True,
    help="The file that labels are appended to.",
)
@click.option("--label", default="label", show_default=True, help="The name of the label's field.")
@click.option("--graded", is_flag=True, help="Give grades from 1 to 5. Default: valid or not valid.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the choice of records.")
@click.option("--web", is_flag=True, help="Label on a web page, for this machine only.")
@click.option("--port", type=WholeNumber(0, 65535), default=0, help="The page's port. Default: any free one.")
def label(
    run: Run, count: int, fields: str, out: Path, label: str, graded: bool, seed: int, web: bool, port: int
) -> None:
    """Label a sample of RUN's records, kept and dropped, for a critic to learn from.

    To continue, give the same command again.
    """
    from distillgen.cli.labelling import Labelling, label_in_terminal, sample
    from distillgen.cli.labelling_page import label_on_page

    field_names = names_in(fields)
    if not web and not sys.stdin.isatty():
        raise ConfigError("stdin is not a terminal; use --web to label on a page")
    labelling = Labelling(sample(run, count, fields=field_names, seed=seed), out, label, graded, field_names)

    def announce(address: str) -> None:
        show.say(f"open {address}\nthe page ends with the last record; Ctrl-C ends it sooner")

    try:
        label_on_page(labelling, port, announce) if web else label_in_terminal(labelling)
    finally:
        critic = f"- critic: {{labels: {out}, fields: [{', '.join(field_names) or '…'}], target_recall: 0.8}}"
        show.say(f"{labelling.progress()}; in {out}\na critic that learns from it: {critic}")


@click.command()
@RUN
@OPEN
def report(run: Run, open_page: bool) -> None:
    """Write RUN's report.html again, and print its path."""
    from distillgen.runs.report import write_report

    write_report(run.directory)
    click.echo(run.directory / "report.html")
    if open_page:
        show.open_page(run.directory / "report.html")
