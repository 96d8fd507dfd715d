"""Votes among samples: the most frequent answer, the share it needs, and the law for several teachers."""

import random
from itertools import product

import pytest

import distillgen
from tests.filters.groups import judged, reasons, samples

NUMBER = {"kind": "number", "min_votes": 1}

CASES = [
    (NUMBER, {"answer": "The answer is 4."}, None),
    (NUMBER, {"answer": "I do not know."}, "gives no answer"),
    ({"kind": "number"}, {"answer": "The answer is 4."}, "1 vote < 2"),
    ({"others": ["b", "c"]}, {"answer": "Rome", "b": "rome.", "c": "Milan"}, None),
    (
        {"others": ["b", "c"]},
        {"answer": "Milan", "b": "rome.", "c": "Rome"},
        "not the answer of 67% of the votes",
    ),
    (
        {"others": ["b", "c"]},
        {"answer": "Rome", "b": "Paris", "c": None},
        "no majority: 33% of the votes < 50%",
    ),
    ({"others": ["b"]}, {"answer": "Rome", "b": "Paris"}, None),
    (
        {"others": ["b"], "min_share": 0.51},
        {"answer": "Rome", "b": "Paris"},
        "no majority: 50% of the votes < 51%",
    ),
]


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_votes_stay_within_a_request_across_chunks(chunk):
    records = (
        samples(["It is 4.", "5", "The answer is 4", "none"], "a")
        + samples(["5", "1/5", "5.0"], "b")
        + samples(["7", "8"], "c")
    )
    out = judged(records, [{"majority": {"kind": "number"}}], chunk=chunk)
    other = "not the answer of 50% of the votes"
    assert reasons(out) == [
        None,
        other,
        None,
        "gives no answer",
        None,
        "not the answer of 67% of the votes",
        None,
        None,
        other,
    ]
    assert out[0].scores == {
        "majority.answered": 1,
        "majority.agrees": 1,
        "majority.share": 0.5,
        "majority.votes": 4,
    }


def test_records_without_a_common_parent_vote_by_their_fields():
    records = [r for q in ("p", "q") for r in samples(["Rome", "rome", "Milan"], q)]
    records = [type(r).read(r.fields, r.source) for r in records]
    assert [r is None for r in reasons(judged(records, [{"majority": {"by": ["question"]}}]))] == [
        True,
        True,
        False,
    ] * 2
    assert [r.scores["majority.votes"] for r in judged(records, ["majority"])] == [1] * 6


@pytest.mark.parametrize("accuracies", [(0.6, 0.6, 0.6), (0.9, 0.7, 0.55, 0.5, 0.65)])
def test_majority_accuracy_matches_the_poisson_binomial(accuracies):
    """Two possible answers, an odd number of independent teachers: P(more than half are right), over all
    outcomes.
    """
    outcomes = product((0, 1), repeat=len(accuracies))
    exact = 0.0
    for right in outcomes:
        chance = 1.0
        for own, p in zip(right, accuracies, strict=True):
            chance *= p if own else 1 - p
        exact += chance * (2 * sum(right) > len(right))
    draw, groups = random.Random(7), 5_000
    records = []
    for i in range(groups):
        truth = draw.randrange(2)
        records += samples(
            [f"The answer is {truth if draw.random() < p else 1 - truth}." for p in accuracies],
            f"{i}:{truth}",
        )
    kept = [r for r in judged(records, [{"majority": {"kind": "number"}}], chunk=256) if not r.dropped]
    verdicts = {r.source: r.fields["answer"] == f"The answer is {r.source[-1]}." for r in kept}
    share = sum(verdicts.values()) / groups
    assert len(verdicts) == groups
    assert abs(share - exact) < 4 * (exact * (1 - exact) / groups) ** 0.5, f"{share} is not {exact}"


def test_in_a_run_the_votes_are_those_of_one_request(project):
    """Each question's samples are 5, 5, 4 or 4, 4, 5 and so on; the vote is the question's own."""
    project.write(
        "teacher.py",
        "def say(request, sample):\n    n = int(request.messages[-1]['content'])\n"
        "    return f'It is {n + (sample == 2)}.'\n",
    )
    project.rows("q.jsonl", [{"question": n} for n in range(300)])
    stages = [
        {"source": {"path": "q.jsonl"}},
        {"generate": {"model": "t", "template": "{{ question }}", "output": "answer", "n": 3}},
        {"filter": [{"majority": {"kind": "number"}}]},
    ]
    models = {"t": {"provider": "scripted", "model": "teacher.py:say"}}
    distillgen.run({"version": 1, "models": models, "stages": stages}, out="out")
    assert [row["answer"] for row in project.read("out/corpus.jsonl")] == [
        f"It is {n}." for n in range(300) for _ in range(2)
    ]
    reasons = {row["meta"]["dropped"]["reason"] for row in project.read("out/dropped.jsonl")}
    assert reasons == {"not the answer of 67% of the votes"}
