"""Loops that grow: what a round made and kept joins what later rounds are offered."""

import json
import random
import shutil
import sys
from pathlib import Path

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.runs.directory import read_records
from tests.conftest import ProjectFolder
from tests.endpoint import Endpoint

MODELS = {"t": {"provider": "scripted", "model": "echo", "max_tokens": 8}}
LONGER = {"generate": {"model": "t", "template": "{{ q }}", "output": "q"}}
TWO = {"generate": {**LONGER["generate"], "n": 2}}
SHORT = {"filter": [{"schema": {"field": "q", "pattern": ".{1,4}"}}]}
GUARD = {"kept": 0.9}


def doubles(request, sample):
    """Add a letter, another one for each sample."""
    return request.messages[-1]["content"] + "xyz"[sample]


@pytest.fixture
def grow(project):
    """Run a loop that is offered what it kept; gives the run, and the texts offered in each round."""

    def grow(stages, questions, script=doubles, *, out="out", before=(), **rounds):
        project.rows("rows.jsonl", [{"q": q} for q in questions])
        asked = []

        def counted(request, sample):
            asked.append(request)
            return script(request, sample)

        loop = {"rounds": {"stages": stages, "offer": "kept", "guard": GUARD, **rounds}}
        pipeline = {
            "version": 1,
            "models": MODELS,
            "stages": [{"source": {"path": "rows.jsonl"}}, *before, loop],
        }
        run = distillgen.run(pipeline, out=out, teachers={"t": counted})
        return run, len(asked)

    return grow


def texts(run):
    return [(r.fields["round"], r.fields["q"]) for r in read_records(run.directory / "corpus.jsonl")]


def every(run):
    return [*read_records(run.directory / "corpus.jsonl"), *read_records(run.directory / "dropped.jsonl")]


def test_a_kept_record_takes_the_place_of_the_one_it_was_made_from(grow):
    run, asked = grow([LONGER], ["a", "b"], n=3)
    assert texts(run) == [(0, "ax"), (0, "bx"), (1, "axx"), (1, "bxx"), (2, "axxx"), (2, "bxxx")]
    assert asked == 6


def test_with_repeat_the_pool_grows(grow):
    run, asked = grow([LONGER], ["a"], n=3, repeat=True)
    assert texts(run) == [(0, "ax"), (1, "ax"), (1, "axx"), (2, "ax"), (2, "axx"), (2, "axx"), (2, "axxx")]
    assert len({r.id for r in every(run)}) == len(every(run)) == 7


def test_offered_the_pool_alone_nothing_grows(grow):
    run, _ = grow([LONGER], ["a"], n=3, repeat=True, offer="pool")
    assert texts(run) == [(0, "ax"), (1, "ax"), (2, "ax")]


def test_what_fails_keeps_its_text_and_is_offered_again(grow):
    """The round drops texts of more than 4 letters; only rows of the source leave with the reason."""
    run, _ = grow([LONGER, SHORT], ["aa", "bbbb"], n=4)
    assert texts(run) == [(0, "aax"), (1, "aaxx")]
    assert [(r.fields["q"], r.fields["round"]) for r in run.dropped] == [("bbbbx", 2)]
    rounds = json.loads((run.directory / "rounds/rounds.json").read_text())
    assert [measured["kept"] for measured in rounds["rounds"]] == [1, 1, 0]
    assert rounds["ended"] == "kept fell to 0, more than 90% below 1"


def test_lineage_goes_on_and_ids_are_unambiguous(grow):
    run, _ = grow([TWO], ["a"], n=3)
    rows = every(run)
    ids = {r.id for r in rows}
    assert len(ids) == len(rows) == 2 + 4 + 8
    items = {r.id: r.fields["item"] for r in rows}
    for row in rows:
        assert len(row.made) == row.fields["round"] + 1
        assert row.source == rows[0].source and row.item == rows[0].item
        assert row.fields["round"] == 0 or items[row.id] in ids, "an item is the record that was offered"


def test_a_record_that_only_passed_does_not_join_again(grow):
    run, asked = grow([{"filter": [{"schema": {"field": "q", "pattern": ".{1,4}"}}]}], ["a", "bbbbb"], n=3)
    assert texts(run) == [(0, "a")] and asked == 0 and len(every(run)) == 2


def test_no_more_join_than_max_records(grow, project):
    run, asked = grow([TWO], ["a", "b"], n=3, repeat=True, max_records=4)
    assert asked == (2 + 2) * 2, "the rows, and the two that joined"
    assert texts(run)[:4] == [(0, "ax"), (0, "ay"), (0, "bx"), (0, "by")]
    assert {q for number, q in texts(run) if number == 2} == {
        text + letter for text in ("a", "b", "ax", "ay") for letter in "xy"
    }
    before = (project.path / "out/rounds/00/round.json").stat().st_mtime_ns
    more, further = grow([TWO], ["a", "b"], n=3, repeat=True, max_records=6)
    assert (project.path / "out/rounds/00/round.json").stat().st_mtime_ns == before
    fresh, _ = grow([TWO], ["a", "b"], n=3, repeat=True, max_records=6, out="fresh")
    assert texts(more) == texts(fresh) and further == 2 * 2, "two more joined"


def test_a_changed_filter_asks_only_what_it_lets_in(grow):
    grow([LONGER, SHORT], ["aa", "b"], n=4)
    wider = {"filter": [{"schema": {"field": "q", "pattern": ".{1,5}"}}]}
    run, asked = grow([LONGER, wider], ["aa", "b"], n=4)
    whole, all_asked = grow([LONGER, wider], ["aa", "b"], n=4, out="whole")
    assert [r.row() for r in every(run)] == [r.row() for r in every(whole)]
    assert asked < all_asked
    again, asked = grow([LONGER, wider], ["aa", "b"], n=4)
    assert asked == 0 and texts(again) == texts(run)


def test_a_loop_in_a_loop_grows_and_gives_back_the_outer_rounds(grow):
    inner = {"rounds": {"name": "inner", "n": 2, "stages": [LONGER], "offer": "kept", "guard": GUARD}}
    run, _ = grow([inner], ["a"], n=2)
    assert texts(run) == [(0, "ax"), (0, "axx"), (1, "axx"), (1, "axxx"), (1, "axxx"), (1, "axxxx")]
    rows = every(run)
    assert len({r.id for r in rows}) == len(rows)
    offered = {r.fields["item"] for r in rows if r.fields["round"] == 1}
    assert offered == {r.id for r in rows if r.fields["round"] == 0}


def test_held_out_records_never_join(project):
    project.rows("rows.jsonl", [{"q": f"q{i}"} for i in range(12)])
    loop = {"rounds": {"n": 2, "offer": "kept", "guard": GUARD, "stages": [LONGER]}}
    pipeline = {
        "version": 1,
        "models": MODELS,
        "stages": [{"source": {"path": "rows.jsonl", "held_out": 0.5}}, loop],
    }
    run = distillgen.run(pipeline, out="out", teachers={"t": doubles})
    sizes = {(r.held_out, len(r.made)) for r in every(run)}
    assert sizes == {(True, 1), (False, 1), (False, 2)}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"guard": {}}, "'offer: kept' needs a 'guard', such as guard: {kept: 0.9}"),
        ({"offer": "pool", "max_records": 9}, "'max_records' has no use without 'offer: kept'"),
        ({"n": 40, "repeat": True}, "the plan has no bound for the number of records; give the number"),
        ({"n": 40, "repeat": True, "max_records": 100}, None),
        ({"n": 40}, None),
    ],
)
def test_a_loop_without_a_bound_is_refused(project, options, message):
    project.rows("rows.jsonl", [{"q": "a"}])
    loop = {"rounds": {"n": 2, "offer": "kept", "guard": GUARD, "stages": [LONGER], **options}}
    pipeline = {"version": 1, "models": MODELS, "stages": [{"source": {"path": "rows.jsonl"}}, loop]}
    if message is None:
        assert distillgen.load(pipeline).plan()[-1][1].rows is not None
        return
    with pytest.raises(ConfigError, match=message):
        distillgen.load(pipeline)


@pytest.mark.parametrize("stages", [[LONGER], [TWO], [TWO, SHORT], [LONGER, TWO]])
@pytest.mark.parametrize(
    "options", [{}, {"repeat": True}, {"max_records": 5}, {"max_records": 5, "repeat": True}]
)
def test_a_plan_bounds_what_a_growing_loop_asks(grow, project, stages, options):
    stages = [
        {kind: {**value, "name": f"s{i}"} if kind == "generate" else value for kind, value in stage.items()}
        for i, stage in enumerate(stages)
    ]
    run, asked = grow(stages, ["a", "bb", "ccc"], n=3, **options)
    priced = {"t": {**MODELS["t"], "price": {"input": 1.0, "output": 1.0}}}
    loop = {"rounds": {"stages": stages, "offer": "kept", "guard": GUARD, "n": 3, **options}}
    pipeline = {"version": 1, "models": priced, "stages": [{"source": {"path": "rows.jsonl"}}, loop]}
    (_, estimate) = distillgen.load(pipeline).plan()[-1]
    samples = 1 if stages[0]["generate"].get("n", 1) == 1 and len(stages) == 1 else 2
    assert estimate.rows >= len(every(run)) and estimate.requests * samples >= asked
    tokens = sum(len(r.fields["q"].encode()) + 16 for r in every(run))  # of the prompts, and more
    assert estimate.max_cost_usd * 1e6 >= tokens


def test_killed_anywhere_a_growing_loop_ends_as_if_it_had_not_been(project: ProjectFolder):
    with Endpoint(latency_s=0.02) as endpoint:
        project.rows("rows.jsonl", [{"q": f"{i}"} for i in range(60)])
        project.write(
            "pipelines/loop.yaml",
            f"""# loop.yaml: three rounds that grow
version: 1
models: {{t: {{provider: openai, model: m, base_url: "{endpoint.url}", max_concurrency: 10}}}}
stages:
  - source: {{path: rows.jsonl}}
  - rounds:
      n: 3
      repeat: true
      offer: kept
      guard: {{kept: 0.9}}
      stages:
        - generate: {{model: t, template: "{{{{ q }}}} in {{{{ round }}}}", output: q}}
""",
        )
        project.cli("run", "loop", "--out", "whole")
        whole = len(endpoint.bodies)
        command = [sys.executable, "-m", "distillgen", "run", "loop", "--out", "killed"]
        command += ["--ledger", "killed.sqlite3"]
        project.kill_at((20, 100, 200, 350), command, "killed.sqlite3")
        project.cli("run", "loop", "--out", "killed", "--ledger", "killed.sqlite3")
        for name in ("corpus.jsonl", "dropped.jsonl"):
            assert Path("killed", name).read_bytes() == Path("whole", name).read_bytes()
        assert whole == 60 + 120 + 240
        assert len(endpoint.bodies) - 2 * whole <= 4 * 10, "more was asked again than was in flight"


@pytest.mark.parametrize("number", range(20))
def test_random_growing_loops_lose_nothing_and_name_nothing_twice(project, number):
    """Random loops, also in loops: each row has a kept successor or leaves with a reason, under one id."""
    chance = random.Random(number)

    def step(i):
        ask = {"generate": {**LONGER["generate"], "name": f"ask{i}", "n": chance.choice([1, 1, 2])}}
        fits = {"schema": {"name": f"fits{i}", "field": "q", "pattern": ".{1,4}"}}
        short = {"filter": {"name": f"short{i}", "filters": [fits]}}
        return chance.choice([[ask], [ask, short], [short, ask]])

    def loop(name, stages):
        options = {"repeat": chance.random() < 0.5, "offer": chance.choice(["kept", "kept", "pool"])}
        if options["offer"] == "kept":
            options |= {"guard": {"kept": 0.99}} | ({"max_records": 6} if chance.random() < 0.5 else {})
        return {"rounds": {"name": name, "n": chance.randint(1, 3), "stages": stages, **options}}

    stages = step(0)
    if chance.random() < 0.4:
        stages = [*stages, loop("inner", step(1))]
    outer = loop("outer", stages)
    rows = [{"q": "a" * chance.randint(1, 6) + str(i)} for i in range(chance.randint(1, 4))]
    project.rows("rows.jsonl", rows)
    pipeline = {"version": 1, "models": MODELS, "stages": [{"source": {"path": "rows.jsonl"}}, outer]}
    asked = []

    def counted(request, sample):
        asked.append(request)
        return doubles(request, sample)

    plan = distillgen.load(pipeline).plan()[-1][1]
    run = distillgen.run(pipeline, out="out", teachers={"t": counted})
    records, first = every(run), len(asked)
    assert len({r.id for r in records}) == len(records) <= plan.rows
    assert {r.source for r in records} == {f"rows.jsonl:{i + 1}" for i in range(len(rows))}
    assert len({request.json for request in asked}) <= plan.requests
    kept = {r.id for r in records if not r.dropped}
    for record in records:
        if record.fields["round"] and not outer["rounds"]["repeat"] and outer["rounds"]["offer"] == "pool":
            assert record.fields["item"] not in kept
    lines = [(run.directory / name).read_bytes() for name in ("corpus.jsonl", "dropped.jsonl")]
    shutil.rmtree(run.directory / "outer")
    again = distillgen.run(
        pipeline, out="out", teachers={"t": counted}, ledger=run.directory / "ledger.sqlite3"
    )
    assert [(again.directory / name).read_bytes() for name in ("corpus.jsonl", "dropped.jsonl")] == lines
    assert len(asked) == first, "a loop that was lost is done again from the ledger"
