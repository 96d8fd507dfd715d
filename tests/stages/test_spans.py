"""spans hides each run of words as often as any other, keeps all other characters, and loses no record."""

import json
from collections import Counter

import pytest

import distillgen
from distillgen.errors import ConfigError

FACT = "the  lighthouse Amber\nHeron near Iskar was built late"  # 9 words


def run(project, rows, out="run", seed=0, **options):
    project.write("facts.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    pipeline = {
        "version": 1,
        "seed": seed,
        "stages": [{"source": {"path": "facts.jsonl"}}, {"spans": {"field": "fact", "draw": 35, **options}}],
    }
    return distillgen.run(pipeline, out=out)


def holes(run):
    return [(row["masked"], row["gone"]) for row in run.corpus]


def test_all_spans_are_drawn_before_one_comes_again_and_the_text_stays(project):
    once = holes(run(project, [{"fact": FACT}]))
    assert len(once) == len(set(once)) == 35
    assert all(masked.replace("[MASK]", gone) == FACT for masked, gone in once)
    lengths = Counter(len(gone.split()) for _, gone in once)
    assert lengths == {1: 9, 2: 8, 3: 7, 4: 6, 5: 5}
    assert ("the  lighthouse [MASK] near Iskar was built late", "Amber\nHeron") in once
    twice = Counter(holes(run(project, [{"fact": FACT}], "more", draw=80)))
    assert set(twice) == set(once) and Counter(twice.values()) == {2: 25, 3: 10}


def test_the_seed_and_the_record_decide_and_other_fields_stay(project):
    rows = [{"fact": FACT, "month": "May"}, {"fact": FACT, "month": "June"}]
    first = run(project, rows, draw=5)
    assert holes(first) == holes(run(project, rows, "again", draw=5))
    assert holes(first) != holes(run(project, rows, "other", 1, draw=5))
    assert holes(first)[:5] != holes(first)[5:], "two records draw by themselves"
    assert [row["month"] for row in first.corpus] == ["May"] * 5 + ["June"] * 5
    assert len({row["meta"]["id"] for row in first.corpus}) == 10


def test_other_names_lengths_and_another_mask(project):
    pairs = run(
        project, [{"fact": "one two three"}], words=[2, 3], draw=3, mask="…", masked="prompt", gone="answer"
    )
    assert {(row["prompt"], row["answer"]) for row in pairs.corpus} == {
        ("… three", "one two"),
        ("one …", "two three"),
        ("…", "one two three"),
    }


def test_a_record_without_a_span_is_dropped_with_the_reason(project):
    left = run(
        project, [{"fact": "one two"}, {"fact": None}, {"fact": " "}, {"fact": FACT}], words=[3, 5], draw=2
    )
    reasons = [(r.dropped.filter, r.dropped.reason) for r in left.dropped]
    assert reasons == [
        ("too_short", "'fact' has 2 words, fewer than a span"),
        ("no_text", "'fact' holds no text"),
        ("too_short", "'fact' has 0 words, fewer than a span"),
    ]
    assert len(holes(left)) == 2


@pytest.mark.parametrize(
    "options, message",
    [
        ({"field": "facts"}, "did you mean 'fact'?"),
        ({"words": [0, 5]}, "'words' is [fewest, most], from 1 on, not [0, 5]"),
        ({"words": [3, 2]}, "'words' is [fewest, most], from 1 on, not [3, 2]"),
        ({"masked": "gone"}, "give them two names"),
        ({"gone": "meta"}, "distillgen's own"),
        ({"draw": 0}, "draw"),
    ],
)
def test_mistakes_are_found_before_the_run(project, options, message):
    with pytest.raises(ConfigError) as error:
        run(project, [{"fact": FACT}], **options)
    assert message in str(error.value)


def test_the_plan_counts_all_draws(project):
    project.write("facts.jsonl", json.dumps({"fact": FACT}) + "\n")
    project.write(
        "pipelines/p.yaml",
        "version: 1\nmodels: {m: {provider: scripted, model: echo}}\nstages:\n"
        "  - source: {path: facts.jsonl}\n  - spans: {field: fact, draw: 7}\n"
        '  - generate: {model: m, template: "{{ masked }}"}\n',
    )
    planned = project.cli("plan", "p", "--json")
    assert '"requests": 7' in planned.stdout, planned.stdout + planned.stderr
