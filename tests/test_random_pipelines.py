"""What holds for every pipeline of the words that branch, gather and grow, over random pipelines."""

import os
import random
import re
from collections import Counter

import pytest

import distillgen
from tests.random_pipelines import IN_FLIGHT, KILLED, MODELS, Runner, random_pipeline, write_rows

PIPELINES = int(os.environ.get("DISTILLGEN_RANDOM_PIPELINES", "120"))  # more of them at night: 2,000
SEEDS = [*range(16), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(16, PIPELINES))]


@pytest.fixture
def runner(project):
    write_rows(project.path)
    return Runner(project.path)


def files(runner, out):
    return {name: (runner.folder / out / name).read_bytes() for name in ("corpus.jsonl", "dropped.jsonl")}


@pytest.mark.parametrize("seed", SEEDS)
def test_every_row_is_accounted_for_and_kills_change_nothing(runner, seed):
    pipeline = random_pipeline(seed)
    plan = distillgen.load(pipeline, scripted=MODELS).plan()
    assert runner.run(pipeline, "whole", "whole.log") == 0
    asked = runner.asked("whole.log")
    assert len(asked) == len(set(asked)), "a request was sent twice"
    check_accounts(runner)
    check_plan(runner, plan, asked)

    draw, kills = random.Random(seed), 0
    for _ in range(2):
        fatal = draw.randint(1, max(1, len(asked) // 2))
        kills += runner.run(pipeline, "killed", "killed.log", fatal) == KILLED
    assert runner.run(pipeline, "killed", "killed.log") == 0
    assert files(runner, "killed") == files(runner, "whole")
    assert set(runner.asked("killed.log")) == set(asked)
    again = Counter(runner.asked("killed.log"))
    requests = {line.rpartition(b" ")[0] for line, times in again.items() if times > 1}
    assert len(requests) <= kills * IN_FLIGHT * len(MODELS), "more was asked again than was in flight"


def check_accounts(runner):
    """Check that each source row has left the run: kept, dropped with a reason, or gathered into a record."""
    rows = [*runner.rows("whole", "corpus.jsonl"), *runner.rows("whole", "dropped.jsonl")]
    sources = {row["meta"]["source"] for row in runner.rows("whole", stage_files(runner)[0])}
    ids = {row["meta"]["id"] for row in rows}
    every = {
        row["meta"]["id"]: row["meta"] for path in stage_files(runner) for row in runner.rows("whole", path)
    }
    assert {row["meta"]["source"] for row in rows} >= sources
    assert len(ids) == len(rows), "two records have one id"
    for row in rows:
        dropped = row["meta"].get("dropped")
        if dropped and dropped["filter"] == "gathered":
            (gathered,) = re.fullmatch(r"gathered into (\w+)", dropped["reason"]).groups()
            assert row["meta"]["id"] in every[gathered]["parents"]
        elif dropped:
            assert dropped["stage"] and dropped["filter"] and dropped["reason"]


def stage_files(runner):
    return sorted(f"stages/{path.name}" for path in (runner.folder / "whole/stages").iterdir())


def check_plan(runner, plan, asked):
    for (stage, estimate), file in zip(plan, stage_files(runner), strict=True):
        if estimate.rows is not None:
            kept = sum("dropped" not in row["meta"] for row in runner.rows("whole", file))
            assert kept <= estimate.rows, f"more records than planned: {stage.name}"
    requests = [estimate.requests for _, estimate in plan]
    if None not in requests:
        assert len({line.rpartition(b" ")[0] for line in asked}) <= sum(requests)


@pytest.mark.parametrize(
    "seed", [*range(8), *(pytest.param(s, marks=pytest.mark.slow) for s in range(8, PIPELINES // 3))]
)
def test_a_changed_condition_asks_only_what_newly_matches(runner, seed):
    pipeline = random_pipeline(seed)
    conditions = [o for stage in pipeline["stages"] for o in stage.values() if "when" in o]
    if not conditions:
        conditions = [pipeline["stages"][1]["generate"]]
        conditions[0]["when"] = "{{ 'amber' in q }}"
    assert runner.run(pipeline, "old", "old.log") == 0
    random.Random(seed).choice(conditions)["when"] = "{{ 'birch' in q or 'amber' in q }}"
    assert runner.run(pipeline, "new", "new.log") == 0
    assert runner.run(pipeline, "old", "changed.log") == 0
    assert files(runner, "old") == files(runner, "new")
    assert set(runner.asked("changed.log")) == set(runner.asked("new.log")) - set(runner.asked("old.log"))
