"""Progress is a frozen value that tells of a running pipeline, and of this session's own figures."""

import asyncio
import dataclasses
import time
from functools import partial

import pytest
from aiohttp import web

import distillgen
from distillgen.cli.show import status as show_status
from distillgen.runs import progress
from distillgen.runs.progress import Meter, follow
from distillgen.runs.run import run_pipeline
from distillgen.runs.state import Options
from distillgen.text.display import name_width
from tests.endpoint import Endpoint

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


def test_what_is_tried_again_is_said(project, monkeypatch):
    monkeypatch.setattr(progress, "SILENCE_S", 0.0)
    waits = []

    async def watch(live):
        while True:
            waits.append(Meter(live).read().waits)
            await asyncio.sleep(0.02)

    def behave(body, times):
        return web.Response(status=503, headers={"Retry-After": "1"}) if times == 1 else None

    with Endpoint(behave, latency_s=0.3) as endpoint:
        path = project.ask_pipeline(endpoint.url, 3)
        run_pipeline(distillgen.load(path), project.path / "r", Options(), watch)
    tries = [text for text in waits if "the next try of 3 requests to teacher (http://127.0.0.1:" in text]
    assert tries and all(text.endswith(("in 0:00", "in 0:01", "in 0:02")) for text in tries)
    assert not any("a stage to finish" in text and "next try" in text for text in waits)
    last = next(text for text in reversed(waits) if "of teacher" in text)
    assert "the oldest asked" in last and "next try" not in last, "all are asked again"


def test_the_oldest_answer_and_the_next_try_are_said(project, monkeypatch):
    monkeypatch.setattr(progress, "SILENCE_S", 0.0)
    waits = []

    async def watch(live):
        activity, now = live.teachers["t"].activity, time.monotonic()
        activity.sending.update(new=now, old=now - 70)
        activity.pausing.update(soon=now + 30.2, late=now + 300)
        waits.append(Meter(live).read().waits)
        activity.pausing.clear()
        activity.sending.clear()

    project.rows("rows.jsonl", [{"q": "word"}])
    run_pipeline(distillgen.load(PIPELINE), project.path / "r", Options(), watch)
    assert "the oldest asked 70 s ago; the next try of 2 requests" in waits[0]
    assert waits[0].endswith("in 0:30")


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


def test_the_names_of_stages_and_models_stand_in_one_column(project, capsys):
    name = "teacher-of-a-long-name"
    generate = {**PIPELINE["stages"][1]["generate"], "model": name}
    stages = [PIPELINE["stages"][0], {"generate": generate}]
    project.rows("rows.jsonl", [{"q": "word"}])
    pipeline = {**PIPELINE, "models": {name: PIPELINE["models"]["t"]}, "stages": stages}
    show_status(distillgen.run(pipeline, out="r"))
    lines = capsys.readouterr().out.splitlines()
    of_stages = [line for line in lines if "kept" in line]
    (of_model,) = (line for line in lines if "request" in line)
    assert of_model.startswith(f"{name} 1 request")
    assert [line[: len(name)].rstrip() for line in of_stages] == ["source", "generate"]
    assert {line.index("kept") for line in of_stages} == {len(f"{name} {'1/1':>13}  ")}
    assert name_width([]) == 12 and name_width(["a" * 40, ""]) == 30
