"""The commands that train and evaluate a student."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from distillgen.cli import show
from distillgen.cli.arguments import AS_JSON, DATA, LIMIT, SETS, filter_argument, in_project, model_argument
from distillgen.cli.run import carry_out, load_pipeline
from distillgen.errors import ConfigError
from distillgen.state_files import load_state

if TYPE_CHECKING:
    from distillgen.runs.directory import Run


@click.command()
@DATA
@click.option("--objective", default="sft", show_default=True, help="How the student learns.")
@click.option(
    "--student", required=True, help="A model's folder, a .gguf file, owner/name on the Hub, or tiny."
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="The run directory; default: in RUN, or runs/<data>-student.",
)
@SETS
@LIMIT
@AS_JSON
def train(
    data: Run | str,
    objective: str,
    student: str,
    out: Path | None,
    sets: Sequence[str],
    limit: int | None,
    as_json: bool,
) -> None:
    """Train a student on RUN's corpus, or on DATA (a file, a folder of texts, or a Hugging Face data set).

    \b
    distillgen train quickstart --student Qwen/Qwen2.5-0.5B-Instruct --set train.lora.r=16
    Give the same command again to go on where it stopped.
    """
    from distillgen.rows.readers import origin
    from distillgen.runs.report import write_report
    from distillgen.runs.state import Options

    run = None if isinstance(data, str) else data
    corpus = data if isinstance(data, str) else in_project(data.directory / "corpus.jsonl")
    source = {"path": corpus, "lineage": True} if run else origin(corpus)
    stages = [{"source": source}, {"train": {"objective": objective, "student": student}}]
    trusted = frozenset({corpus, student})
    checked = load_pipeline({"version": 1, "models": {}, "stages": stages}, sets, trusted=trusted)
    directory = out or (
        run.directory / "training" if run else checked.run_directory(f"{_stem(data)}-student")
    )
    link = run.directory / "student" if run and not out else None
    if link and link.exists() and not link.is_symlink():
        raise ConfigError(
            f"the pipeline of '{_stem(data)}' trains a student itself, {link}; give another directory with --out"
        )
    carry_out(checked, directory, Options(limit=limit, ledger=run.ledger if run else None), as_json)
    if link and run:
        link.unlink(missing_ok=True)
        link.symlink_to(Path(directory.name, "student"))
        write_report(run.directory)
    show.say(f"student {link or directory / 'student'}", error=as_json)


@click.command()
@DATA
@click.option(
    "--model",
    "given",
    multiple=True,
    metavar="NAME=MODEL",
    help="Who answers: a folder, a Hub name, {provider: …}.",
)
@click.option("--template", help="The question, such as '{{ question }}'; or --prompt.")
@click.option("--prompt", help="A file in prompts/ with the question, without its ending.")
@click.option("--gold", help="The field with the right answer.")
@click.option(
    "--with",
    "chosen",
    multiple=True,
    metavar="NAME[:OPTION=VALUE,…]",
    help="A metric: any filter; may be repeated",
)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="The run directory; default: runs/<data>-evaluated."
)
@SETS
@LIMIT
@AS_JSON
def evaluate(
    data: Run | str,
    given: Sequence[str],
    chosen: Sequence[str],
    out: Path | None,
    sets: Sequence[str],
    limit: int | None,
    as_json: bool,
    **question: str | None,
) -> None:
    """Ask models about DATA (a run, a file or a data set) and measure their answers; of a run, what it holds out.

    \b
    distillgen evaluate runs/mine --template '{{ question }}' --gold answer --with exact --with numeric
    distillgen evaluate test.jsonl --model a=./student --model b='{provider: openai, model: gpt-4.1-mini}' …
    Without --model: the run's student and the model that it was made from. Further options of the stage:
    --set evaluate.n=8, evaluate.vote=number, evaluate.options=choices, evaluate.perplexity=true.
    """
    from distillgen.rows.readers import origin
    from distillgen.runs.state import Options

    path = data if isinstance(data, str) else in_project(data.directory / "corpus.jsonl")
    models = dict(map(model_argument, given)) or ({} if isinstance(data, str) else _students(data.directory))
    if not models:
        raise ConfigError("say who is to answer: --model NAME=MODEL")
    asked = {name: value for name, value in question.items() if value is not None}
    stage = {"models": list(models), "metrics": [filter_argument(text) for text in chosen], **asked}
    pipeline = {"version": 1, "models": models, "stages": [{"source": origin(path)}, {"evaluate": stage}]}
    checked = load_pipeline(pipeline, sets, trusted=frozenset({path}))
    carry_out(
        checked, out or checked.run_directory(f"{_stem(data)}-evaluated"), Options(limit=limit), as_json
    )


def _students(run: Path) -> dict[str, Any]:
    """The student of a run, and what it was made from."""
    manifest = run / "student" / "manifest.json"
    if not manifest.is_file():
        return {}
    base = load_state(manifest, "base")["base"]
    base = in_project(manifest.parent / "base") if base == "base" else base
    found = {"student": in_project(manifest.parent), "base": base}
    return {name: {"provider": "transformers", "model": model} for name, model in found.items()}


def _stem(data: Run | str) -> str:
    """What a run of something done with `data` is named after."""
    return Path(data).stem if isinstance(data, str) else data.directory.resolve().name
