"""Draws in proportion to scores within each group."""

import asyncio
from collections import Counter

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.flow.stage import CheckContext, Job, RunContext, WorkerServices
from distillgen.project import Project
from distillgen.record import Record
from distillgen.stages.filter import FilterStage

CASES = [
    ({"by": "s", "per": ["q"], "n": 1}, {"q": "Why?", "s": 0.3}, None),
    ({"by": "s", "per": ["q"], "n": 1}, {"q": "Why?", "s": "much"}, None),
]


def draw(project, groups, options, chunk=3, scores=(4.0, 3.0, 2.0, 1.0, 0.5)):
    """Which places of each group are kept."""
    records = [
        Record.read({"q": g, "i": i}, "").scored({"fact": s})
        for g in range(groups)
        for i, s in enumerate(scores)
    ]

    async def main():
        async def chunks():
            for start in range(0, len(records), chunk):
                yield records[start : start + chunk]

        stage = FilterStage(name="f", filters=[{"sample_by_score": {"by": "fact", "per": ["q"], **options}}])
        context = CheckContext(frozenset({"q", "i"}), {}, Project(project.path), scores=frozenset({"fact"}))
        chunks_out = stage.bind(context).run(
            chunks(), Job(RunContext(context.project), WorkerServices({}, None))
        )
        return [r async for some in chunks_out for r in some]

    out = asyncio.run(main())
    assert [(r.fields["q"], r.fields["i"]) for r in out] == [(r.fields["q"], r.fields["i"]) for r in records]
    return out


def test_one_draw_is_distributed_as_the_scores_are(project):
    """Chi-square over 10,000 draws: among the best four of five, 0.4, 0.3, 0.2 and 0.1 (0.999 quantile of 3
    degrees: 16.3).
    """
    kept = Counter(
        r.fields["i"] for r in draw(project, 10_000, {"n": 1, "best": 4}, chunk=256) if not r.dropped
    )
    expected = [4000, 3000, 2000, 1000]
    assert kept[4] == 0 and sum(kept.values()) == 10_000
    assert sum((kept[i] - e) ** 2 / e for i, e in enumerate(expected)) < 16.3
    assert sum((kept[i] - 2500) ** 2 / 2500 for i in range(4)) > 1000  # a uniform draw would not pass


def test_two_draws_are_without_replacement(project):
    """A pair's chance is p_i p_j / (1 - p_i) + p_j p_i / (1 - p_j) (0.999 quantile of 5 degrees: 20.5)."""
    out = draw(project, 10_000, {"n": 2}, chunk=256)
    pairs = Counter(
        tuple(r.fields["i"] for r in out[at : at + 5] if not r.dropped) for at in range(0, len(out), 5)
    )
    p = [0.4, 0.3, 0.2, 0.1]
    expected = {
        (i, j): 10_000 * p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j]))
        for i in range(4)
        for j in range(i + 1, 4)
    }
    assert pairs.keys() == expected.keys()
    assert sum((pairs[pair] - e) ** 2 / e for pair, e in expected.items()) < 20.5


def test_groups_stay_whole_across_chunks_and_the_seed_matters(project):
    found = [[r.dropped is None for r in draw(project, 40, {"n": 2}, chunk)] for chunk in (1, 2, 5, 7, 500)]
    assert all(other == found[0] for other in found) and sum(found[0]) == 80
    assert [r.dropped is None for r in draw(project, 40, {"n": 2, "seed": 1})] != found[0]


def test_reasons(project):
    reasons = {r.dropped.reason for r in draw(project, 40, {"n": 2}) if r.dropped}
    assert reasons == {
        "not drawn among the 4 with the highest fact",
        "not among the 4 with the highest fact: place 5",
    }
    message = "'sample_by_score' \\(by\\) names 'facts', which is no field and no score; did you mean 'fact'?"
    with pytest.raises(ConfigError, match=message):
        draw(project, 1, {"n": 1, "by": "facts"})
    with pytest.raises(ConfigError, match="'n' must be at least 1 and at most 'best'"):
        draw(project, 1, {"n": 3, "best": 2})


def test_a_record_that_passed_the_measuring_filter_by_is_dropped_with_its_reason(project):
    project.rows("rows.jsonl", [{"q": "a", "text": "one two three"}, {"q": "a", "text": "one"}])
    stages = [
        {"source": {"path": "rows.jsonl"}},
        {
            "filter": {
                "name": "count",
                "when": "{{ 'two' in text }}",
                "filters": [{"word_count": {"field": "text"}}],
            }
        },
        {"filter": [{"sample_by_score": {"by": "word_count", "per": ["q"], "n": 1}}]},
    ]
    run = distillgen.run({"version": 1, "models": {}, "stages": stages}, out="run")
    assert [row["text"] for row in run.corpus] == ["one two three"]
    assert [r.dropped.reason for r in run.dropped] == ["there is no number 'word_count' in the row"]


def test_records_dropped_before_a_field_of_the_groups_was_there_are_left_alone(project):
    project.rows("rows.jsonl", [{"q": "a"}, {"q": None}, {"q": "b"}])
    project.rows("more.jsonl", [{"kind": kind, "s": s} for kind in ("x", "y") for s in (0.5, 1.0)])
    by_kind = {"name": "best", "by": "s", "per": ["q", "kind"], "n": 1, "best": 1}
    stages = [
        {"source": {"path": "rows.jsonl"}},
        {"filter": [{"where": {"true": "{{ q }}"}}]},
        {"cross": {"rows": "more.jsonl"}},
        {"filter": {"name": "draw", "filters": [{"sample_by_score": by_kind}]}},
    ]
    run = distillgen.run({"version": 1, "models": {}, "stages": stages}, out="run")
    rows = [(row["q"], row["kind"], row["s"]) for row in run.corpus]
    assert rows == [(q, kind, 1.0) for q in "ab" for kind in "xy"]
    assert sorted(r.dropped.stage for r in run.dropped) == ["draw"] * 4 + ["filter"]
