"""The commands that train and evaluate a student."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from distillgen.cli import completion, show
from distillgen.cli.arguments import (
    AS_JSON,
    DATA,
    LIMIT,
    REPORT_TO,
    RETRY_FAILED,
    SETS,
    PathName,
    filter_argument,
    in_project,
    model_argument,
    student_entry,
)
from distillgen.cli.carry_out import Printing, carry_out, load_pipeline
from distillgen.errors import ConfigError
from distillgen.state_files import load_state, replace_link

if TYPE_CHECKING:
    from distillgen.runs.directory import Run


@click.command()
@DATA
@click.option("--objective", default="sft", show_default=True, help="The training objective.")
@click.option(
    "--student", required=True, help="The base model: a folder, a .gguf file, owner/name on the Hub, or tiny."
)
@click.option(
    "-o",
    "--out",
    type=PathName(path_type=Path),
    help="The run directory. Default: RUN/training, or runs/DATA-student.",
)
@SETS
@LIMIT
@REPORT_TO
@AS_JSON
def train(
    data: Run | str,
    objective: str,
    student: str,
    out: Path | None,
    sets: Sequence[str],
    limit: int | None,
    report_to: Sequence[str],
    as_json: bool,
) -> None:
    """Train a student on the corpus of RUN or on DATA.

    DATA is a file, a folder of texts or a Hugging Face data set.

    \b
    distillgen train quickstart --student Qwen/Qwen2.5-0.5B-Instruct --set train.lora.r=16
    To continue a training that stopped, give the same command again.
    """
    from distillgen.rows.readers import origin
    from distillgen.runs.report import write_report
    from distillgen.runs.state import Options

    run = None if isinstance(data, str) else data
    corpus = data if isinstance(data, str) else in_project(data.directory / "corpus.jsonl")
    source = {"path": corpus, "lineage": True} if run else origin(corpus)
    stages = [{"source": source}, {"train": {"objective": objective, "student": student}}]
    trusted = frozenset({corpus, student})
    checked_pipeline = load_pipeline({"version": 1, "models": {}, "stages": stages}, sets, trusted=trusted)
    if all(stage.name != "train" for stage in checked_pipeline.stages):
        raise ConfigError("each: the command trains one student; write a pipeline for several")
    directory = (
        run.directory / "training" if run else checked_pipeline.run_directory(f"{_name_of(data)}-student")
    )
    link = run.directory / "student" if run and not out else None
    if link and link.exists() and not link.is_symlink():
        mistake = f"the pipeline of '{_name_of(data)}' trains a student itself, {link}"
        raise ConfigError(f"{mistake}; give another directory with --out")
    directory = out or directory
    carry_out(
        checked_pipeline,
        directory,
        Options(limit=limit, ledger=run.ledger if run else None, report_to=report_to),
        Printing(as_json),
    )
    if link and run:
        replace_link(link, Path(directory.name, "student"))
        write_report(run.directory)
    show.say(f"student {link or directory / 'student'}", error=as_json)


@click.command()
@DATA
@click.option(
    "--model",
    "model_texts",
    multiple=True,
    metavar="NAME=MODEL",
    help="A model to ask: a folder, owner/name on the Hub, or {provider: …}. Repeatable.",
)
@click.option("--template", help="The prompt as a template, such as '{{ question }}'.")
@click.option("--prompt", help="The prompt as a file in prompts/, without its ending.")
@click.option("--gold", help="The field with the right answer.")
@click.option(
    "--with",
    "metrics",
    shell_complete=completion.filters,
    multiple=True,
    metavar="NAME[:OPTION=VALUE,…]",
    help="A metric, which is any filter, and its options. Repeatable.",
)
@click.option(
    "-o", "--out", type=PathName(path_type=Path), help="The run directory. Default: runs/DATA-evaluated."
)
@SETS
@LIMIT
@RETRY_FAILED
@AS_JSON
def evaluate(
    data: Run | str,
    model_texts: Sequence[str],
    metrics: Sequence[str],
    out: Path | None,
    sets: Sequence[str],
    limit: int | None,
    retry_failed: bool,
    as_json: bool,
    **question: str | None,
) -> None:
    """Ask models questions and measure their answers.

    The questions are the rows of DATA, which is a file or a data set, or the rows that RUN holds out. Without
    --model, the student of RUN and its base model are asked.

    \b
    distillgen evaluate runs/mine --template '{{ question }}' --gold answer --with exact --with numeric
    distillgen evaluate test.jsonl --model a=./student --model b='{provider: openai, model: gpt-4.1-mini}' …
    More options of the stage `evaluate` are set by --set: evaluate.n=8, evaluate.vote=number,
    evaluate.options=choices, evaluate.perplexity=true.
    """
    from distillgen.rows.readers import origin
    from distillgen.runs.state import Options

    path = data if isinstance(data, str) else in_project(data.directory / "corpus.jsonl")
    models = dict(map(model_argument, model_texts))
    if not models and not isinstance(data, str):
        models = _student_and_base(data.directory)
    if not models:
        raise ConfigError("give a model to ask: --model NAME=MODEL")
    stage: dict[str, Any] = {"models": list(models), "metrics": [filter_argument(text) for text in metrics]}
    stage |= {name: value for name, value in question.items() if value is not None}
    pipeline = {"version": 1, "models": models, "stages": [{"source": origin(path)}, {"evaluate": stage}]}
    checked_pipeline = load_pipeline(pipeline, sets, trusted=frozenset({path}))
    directory = out or checked_pipeline.run_directory(f"{_name_of(data)}-evaluated")
    options = Options(limit=limit, retry_failed=retry_failed)
    carry_out(checked_pipeline, directory, options, Printing(as_json))


def _student_and_base(run: Path) -> dict[str, Any]:
    """Return entries of a pipeline's models for the student of a run and for its base model; {} without a
    student. The base of a student with classes, scores or a distiller gives something else, and is left out.
    """
    manifest = run / "student" / "manifest.json"
    if not manifest.is_file():
        return {}
    base = load_state(manifest, "base")["base"]
    base = in_project(manifest.parent / "base") if base == "base" else base
    entry = student_entry(manifest.parent)
    other = entry.get("gives") in ("classes", "scores") or entry.get("demonstrations")
    before = {} if other else {"base": {**entry, "model": base}}
    return {"student": entry, **before}


def _name_of(data: Run | str) -> str:
    """Return the name that new runs on `data` begin with."""
    return Path(data).stem if isinstance(data, str) else data.directory.resolve().name
