"""The commands that look at a pipeline before it runs: check, plan and preview."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import click

from distillgen.cli import show, show_plan, show_records
from distillgen.cli.arguments import AS_JSON, COUNT, EXECUTOR, FULL, LEDGER, LIMIT, OUT, PIPELINE, SETS
from distillgen.cli.carry_out import load_pipeline
from distillgen.errors import place_of
from distillgen.inference.places import Place
from distillgen.text import display


@click.command()
@PIPELINE
@SETS
@EXECUTOR
@AS_JSON
def check(pipeline: str, sets: Sequence[str], executor: str | None, as_json: bool) -> None:
    """Check every name, option, field, prompt and file of PIPELINE. No model is asked.

    Prints the fields that a record has after each stage, and the most that a run can cost if a model has a
    price.
    """
    checked_pipeline = load_pipeline(pipeline, sets, need_env=False)
    if executor:
        from distillgen.runs.ray_executor import check_ray

        check_ray(checked_pipeline)
    priced = any(spec.price for spec in checked_pipeline.models.values())
    cost = _total([bound.max_cost_usd for _, bound in checked_pipeline.plan()]) if priced else 0.0
    if as_json:
        stages = [
            {"name": bound.name, "kind": bound.stage.kind, "fields": sorted(bound.fields)}
            for bound in checked_pipeline.bound_stages
        ]
        show.as_json(
            {
                "pipeline": checked_pipeline.name,
                "ok": True,
                "stages": stages,
                "missing_env": list(checked_pipeline.missing_env),
                "max_cost_usd": cost,
            }
        )
        return
    names = {show.stage_name(bound): bound for bound in checked_pipeline.bound_stages}
    width = max(12, *map(len, names))
    for name, bound in names.items():
        show.say(show.broken(f"{name:<{width}} {', '.join(sorted(bound.fields))}", width + 1))
    for variable in checked_pipeline.missing_env:
        show.say(f"note: the environment variable {variable} is not set; a run needs it")
    if priced:
        show.say("cost: no bound" if cost is None else f"cost: at most {display.money(cost)}")
    show.say(f"{place_of(checked_pipeline.path)}: ok")


@click.command()
@PIPELINE
@OUT
@SETS
@LIMIT
@LEDGER
@AS_JSON
def plan(
    pipeline: str,
    out: Path | None,
    sets: Sequence[str],
    limit: int | None,
    ledger: Place | None,
    as_json: bool,
) -> None:
    """Estimate the requests, the tokens, the cost and the time of each stage of PIPELINE. No model is asked.

    What is finished in the same directory is subtracted, and what the ledger answers. The likely figures are
    those of the answers so far, of a run or of `distillgen preview`.
    """
    from dataclasses import asdict

    from distillgen.runs.foresight import foresee

    checked_pipeline = load_pipeline(pipeline, sets, need_env=False)
    directory = out or checked_pipeline.run_directory()
    foresight = foresee(checked_pipeline, directory, limit, ledger)
    stages = [
        {"stage": stage.name, "kind": stage.kind, **asdict(part)}
        for stage, part in zip(checked_pipeline.stages, foresight.stages, strict=True)
    ]
    titles = [show.stage_name(bound) for bound in checked_pipeline.bound_stages]
    stages = [{**stage, **stage.pop("bound")} for stage in stages]
    totals = {
        name: _total([stage[name] for stage in stages])
        for name in ("requests", "input_tokens", "output_tokens", "max_cost_usd")
    }
    likely = {
        name: _total([stage["likely"] and stage["likely"][name] for stage in stages])
        for name in ("requests", "input_tokens", "output_tokens", "cost_usd")
    }
    likely["seconds"] = foresight.seconds
    if as_json:
        show.as_json({"stages": stages, "totals": totals, "likely": likely})
    else:
        show_plan.plan(stages, titles, totals, likely)
        if likely["requests"] is None:
            show.say(f"no likely figure yet: distillgen preview {pipeline} asks about a few rows")


def _total(values: Sequence[Any]) -> Any:
    """Return the sum, None if a value is None."""
    return None if None in values else sum(values)


@click.command()
@PIPELINE
@SETS
@OUT
@COUNT
@LEDGER
@FULL
def preview(
    pipeline: str, sets: Sequence[str], out: Path | None, count: int, ledger: Place | None, full: bool
) -> None:
    """Run the first rows of PIPELINE and show the records that leave each stage, with the prompts sent.

    The answers are kept: a run does not ask for them again. The stage `train` and later stages are not run.
    """
    from distillgen.inference.ledger import Ledger
    from distillgen.runs.directory import read_records, stage_file
    from distillgen.runs.interpreter import interpreter_tuned
    from distillgen.runs.progress_lines import watch
    from distillgen.runs.resume import made_place
    from distillgen.runs.run import run_pipeline
    from distillgen.runs.state import Options

    checked_pipeline = load_pipeline(pipeline, sets)
    directory = (out or checked_pipeline.run_directory()) / "preview"
    before_training = list(takewhile(lambda stage: stage.kind != "train", checked_pipeline.stages))
    ledger = made_place(checked_pipeline, directory.parent, Options(ledger=ledger))
    options = Options(limit=count, ledger=ledger, until=before_training[-1].name)
    with interpreter_tuned():
        run_pipeline(checked_pipeline, directory, options, watch)
    answers = Ledger(ledger, read_only=True)
    for i, stage in enumerate(before_training):
        show.say(f"\n{stage.name}", bold=True)
        records = read_records(stage_file(directory, i, stage.name))
        arrived = (r for r in records if not r.dropped or r.dropped.stage == stage.name)
        prompt = partial(show_records.prompt_of, stage=stage.name, ledger=answers)
        show_records.records(islice(arrived, count), full=full, prompt=prompt)
    answers.close_now()
