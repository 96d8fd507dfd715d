"""The scope of stages, and bound stages that are pickled: what a worker on another machine relies on."""

import asyncio
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.flow.stage import Job, RunContext, WorkerServices, stage_class
from distillgen.inference.endpoint import Services
from distillgen.inference.ledger import Ledger
from distillgen.inference.limits import Budget
from distillgen.inference.request import Completion
from distillgen.inference.teacher import Teacher
from distillgen.plugins import names
from distillgen.project import Project
from distillgen.stages.select import Select
from distillgen.teachers.scripted import Scripted

EXAMPLES = Path(__file__).parents[2] / "docs/examples/pipelines"
KINDS = names("stages", Project(Path()))
ROW = [kind for kind in KINDS if stage_class(kind, Project(Path())).scope == "row"]


def load_example(kind):
    models = {"teacher": "t", "local": "l", "embedder": "e"}
    try:
        return distillgen.load(EXAMPLES / f"{kind}.yaml", need_env=False, scripted=models)
    except ConfigError as error:
        if "needs the" not in str(error):
            raise
        pytest.skip(str(error))


def all_stages(stages):
    for bound in stages:
        yield bound
        yield from all_stages(bound.inner())


def bound_of(kind):
    pipeline = load_example(kind)
    return next(bound for bound in all_stages(pipeline.bound_stages) if bound.stage.kind == kind)


def answer(request, sample):
    if request.embed is not None:
        return Completion(text="", embedding=[len(request.embed), 1.0])
    words = (request.target or "a short answer").split()
    return Completion(text=" ".join(words), logprobs=[[word, -len(word) / 10, []] for word in words])


def rows_of(bound, records, directory):
    """The rows that a stage makes of these records, in a run of its own."""

    async def main():
        directory.mkdir()
        ledger = Ledger(directory / "ledger.sqlite3")
        services = Services(ledger, Budget(None), "run", bound.context.project.root)
        teachers = {
            name: Teacher(Scripted(name, bound.context.models[name], services, script=answer))
            for name in bound.models
        }
        context = RunContext(bound.context.project, directory)

        async def chunks():
            yield [*records]

        stream = bound.run(chunks(), Job(context, WorkerServices(teachers, ledger)))
        rows = [record.row() async for chunk in stream for record in chunk]
        for teacher in teachers.values():
            await teacher.close()
        await ledger.close()
        return rows

    return asyncio.run(main())


def is_row_wise(bound, tmp_path):
    """Whether a stage makes the same rows of all records as of their two halves."""
    source, project = bound.context.stages[0].stage, bound.context.project
    rows = [record for record in source.records(project) if not record.dropped]
    records = [replace(record, id=f"{i}-{record.id}", source=f"{i}") for i in range(4) for record in rows]
    half = len(records) // 2
    halves = [
        row
        for name, part in (("first", records[:half]), ("second", records[half:]))
        for row in rows_of(bound, part, tmp_path / name)
    ]
    return halves == rows_of(bound, records, tmp_path / "whole")


@pytest.mark.parametrize("kind", [kind for kind in ROW if kind not in ("source", "filter")])
def test_a_row_wise_stage_makes_the_same_rows_of_parts(kind, tmp_path):
    bound = bound_of(kind)
    assert bound.scope == "row" and len(bound.context.stages) == 1
    assert is_row_wise(bound, tmp_path)


@pytest.mark.parametrize(
    "filters, scope",
    [
        ([{"length": {"field": "question", "at_most": 8}}], "row"),
        ([{"near_duplicate": {"by": ["question"], "threshold": 0.7}}], "set"),
        ([{"majority": {"field": "answer", "by": ["topic"]}}], "group"),
    ],
)
def test_the_scope_of_a_filter_stage_is_that_of_its_filters(filters, scope, tmp_path):
    source = load_example("format").bound_stages[0]
    context = source.context.after(source)
    bound = (
        stage_class("filter", context.project).model_validate({"name": "f", "filters": filters}).bind(context)
    )
    assert bound.scope == scope
    assert scope != "row" or is_row_wise(bound, tmp_path)


def test_a_stage_with_a_wrong_scope_is_noticed(tmp_path, monkeypatch):
    """`select` chooses among all records: as a row-wise stage it would choose in each half."""
    source = load_example("format").bound_stages[0]
    monkeypatch.setattr(Select, "scope", "row")
    bound = Select(name="select", n=2, by="random").bind(source.context.after(source))
    assert bound.scope == "row" and not is_row_wise(bound, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bound_stage_is_pickled_as_its_stage_and_context(kind):
    bound = bound_of(kind)
    again = pickle.loads(pickle.dumps(bound))
    assert type(again) is type(bound) and again is not bound
    assert (again.stage, again.fields, again.models, again.files, again.scope) == (
        bound.stage,
        bound.fields,
        bound.models,
        bound.files,
        bound.scope,
    )
    context = RunContext(bound.context.project, Path("run"), 3, stages=bound.context.stages)
    copy = pickle.loads(pickle.dumps(context))
    assert [stage.fields for stage in copy.stages] == [stage.fields for stage in context.stages]
    assert (copy.project, copy.directory, copy.seed) == (context.project, context.directory, 3)
