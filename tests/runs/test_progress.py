"""Progress is a frozen value that tells of a running pipeline, and of this session's own figures."""

import dataclasses
from functools import partial

import pytest

import distillgen
from distillgen.runs.progress import Meter, follow
from distillgen.runs.run import run_pipeline
from distillgen.runs.state import Options

PIPELINE = {
    "version": 1,
    "models": {
        "t": {"provider": "scripted", "model": "echo", "price": {"input": 1e6, "output": 0}, "max_tokens": 9}
    },
    "stages": [
        {"source": {"path": "rows.jsonl"}},
        {"generate": {"model": "t", "template": "{{ q }}", "output": "a"}},
        {"filter": [{"word_count": {"field": "a", "min_words": 2}}]},
    ],
}


@pytest.fixture
def last(project):
    """Runs the pipeline on so many rows, and returns its last progress."""
    project.rows("rows.jsonl", [{"q": f"word {i}" if i % 2 else f"alone{i}"} for i in range(6)])

    def run(limit):
        readings = []
        options, watch = Options(limit=limit), partial(follow, show=readings.append)
        run_pipeline(distillgen.load(PIPELINE), project.path / "r", options, watch)
        return readings[-1]

    return run


def test_rows_in_and_out(last):
    progress = last(6)
    source, generate, chosen = progress.stages
    assert (source.rows_in, source.rows_out, generate.rows_in, generate.rows_out) == (6, 6, 6, 6)
    assert (chosen.rows_in, chosen.rows_out, chosen.dropped) == (6, 3, {"word_count": 3})
    assert [stage.share for stage in progress.stages] == [1, 1, 1] and progress.total_rows == 6
    assert progress.first_kept.fields["a"] == "word 1" and progress.elapsed_s > 0 and not progress.waits
    assert progress.left_s in (None, 0) and progress.share == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        progress.left_s = 1


def test_a_model_has_the_figures_of_this_session_and_the_run_those_of_all(last):
    (first,) = last(2).models
    assert (first.answered, first.from_ledger, first.input_tokens, first.cost_usd) == (2, 0, 3, 3)
    progress = last(6)
    (model,) = progress.models
    assert (model.answered, model.from_ledger, model.input_tokens, model.cost_usd) == (4, 2, 6, 6)
    assert progress.cost_usd == 9 <= progress.most_usd


def test_the_work_of_a_stage_is_that_of_this_session(last, project):
    works = []

    def run(limit):
        async def watch(live):
            try:
                import asyncio

                await asyncio.Event().wait()
            finally:
                works.append(Meter(live).stage_work()[1])

        run_pipeline(distillgen.load(PIPELINE), project.path / "r", Options(limit=limit), watch)
        return works[-1].requests["t"].requests

    assert [run(2), run(6)] == [2, 4]
