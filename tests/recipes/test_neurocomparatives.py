"""The recipe neurocomparatives: a planted model says of each pair what is true with a known chance, and the
vote finds the majority.
"""

import json
from collections import Counter, defaultdict
from math import comb

import pytest
import distillgen
from distillgen.inference.request import Completion
from distillgen.located_yaml import read_yaml
from distillgen.project import home, load_module
from distillgen.runs.directory import read_records
from tests.recipes.harness import Teacher, draw, text_of

WORLD = load_module(home("data") / "siblings.py")
PAIRS = {(row["first"], row["second"]): row for row in WORLD.pairs()}
RIGHT = 0.7
SETS = ["unfold=null", "train=null", "gather=null", "models.student={provider: scripted, model: echo}"]


def says(right=RIGHT, seed=0):
    """A model whose first sample is about one attribute of the pair, and whose second is about the other."""

    def answer(opening, sample, auxiliary, adverb):
        first, second = opening.removeprefix("Compared to ").split(", ")[::-1]
        chance = draw(first, second, auxiliary, adverb, sample, right, seed)
        facts = [WORLD.MEANINGS[tuple(fact.split(" ", 1))] for fact in PAIRS[first, second]["facts"]]
        attribute, sign = [*dict.fromkeys(facts)][sample]
        said = WORLD.WORDINGS[attribute][auxiliary][(sign < 0) ^ (chance.random() >= right)]
        (wording,) = chance.choices(said, WORLD.SHARES[: len(said)])
        return f"{auxiliary} {adverb} {wording}"

    return answer


class Planted(Teacher):
    """Says something that meets the clauses of a request, and finds all texts equally likely."""

    def __init__(self, answer):
        super().__init__({}, "student")
        self.answer = answer

    def __call__(self, request, sample):
        if request.target is not None:
            return Completion(text=request.target, logprobs=[[request.target, -1.0, []]])
        phrases = [clause["any"][0] for clause in request.constraints["clauses"]]
        return self.answer(text_of(request), sample, *phrases[:2])


def run(answer, sets=(), limit=None, out="run"):
    """Run the recipe, which keeps all that win their vote, with a vote that counts 1 for each cluster, as a mark, before its own vote."""
    pipeline, _ = read_yaml((home("pipelines") / "neurocomparatives.yaml").read_text(), "")
    *stages, vote = pipeline["stages"]
    options = vote["filter"]["filters"][0]["contradiction"]
    options["max_kept"] = None
    ones = {name: value for name, value in options.items() if name != "size"} | {"name": "ones"}
    mark = {"filter": {"name": "marks", "mark": "by_ones", "filters": [{"contradiction": ones}]}}
    pipeline["stages"] = [*stages, mark, vote]
    teachers = {"student": Planted(answer)}
    return distillgen.run(pipeline, out=out, sets=[*SETS, *sets], teachers=teachers, limit=limit).directory


def stage(directory, name):
    """The records after a stage that no stage dropped."""
    (file,) = (directory / "stages").glob(f"*-{name}.jsonl")
    return [record for record in read_records(file) if not record.dropped]


def said(records):
    """By first, second and attribute: how often the first is said to have more of it, and how often less."""
    counts = defaultdict(Counter)
    for record in records:
        attribute, sign = WORLD.meaning(record.fields["statement"])
        counts[record.fields["first"], record.fields["second"], attribute][sign] += 1
    return counts


def truth(first, second, attribute):
    facts = dict(WORLD.MEANINGS[tuple(fact.split(" ", 1))] for fact in PAIRS[first, second]["facts"])
    return facts[attribute]


def drops(directory, name):
    dropped = read_records(directory / "dropped.jsonl")
    return [record for record in dropped if record.dropped.stage == name]


def accuracy(kept):
    """The share of kept comparisons that are right."""
    return sum(truth(*key) in signs for key, signs in kept.items()) / len(kept)


def right_ones(kept, keys):
    """For each comparison, whether it is kept and right."""
    return [truth(*key) in kept.get(key, ()) for key in keys]


def test_each_comparison_is_decided_by_its_majority_and_sizes_beat_counting_one(project):
    directory = run(says(), limit=60)
    votes, kept = said(stage(directory, "likely")), said(stage(directory, "vote"))
    majority = {
        key: {sign for sign in signs if 2 * signs[sign] > signs.total()} for key, signs in votes.items()
    }
    decided = {key: signs for key, signs in majority.items() if signs}
    assert {key: {*signs} for key, signs in kept.items()} == decided  # so never A > B and B > A
    clusters = stage(directory, "cluster")
    both = sum(len(signs) == 2 for signs in said(clusters).values())
    assert both > 0.7 * len(votes)  # what is kept without the vote
    assert sum(record.scores["cluster.size"] for record in clusters) == 60 * 12
    by_ones = said(record for record in stage(directory, "marks") if record.fields["by_ones"])
    assert all(len(signs) == 1 for signs in by_ones.values())
    assert sum(right_ones(kept, votes)) > sum(right_ones(by_ones, votes))
    assert accuracy(kept) > accuracy(by_ones)


def test_sizes_that_say_nothing_do_not_beat_counting_one(project):
    """The control: every wording is a cluster of its own, so that its size is 1."""
    directory = run(says(), limit=30, sets=["cluster.field=statement"])
    by_ones = [record.id for record in stage(directory, "marks") if record.fields["by_ones"]]
    assert by_ones == [record.id for record in stage(directory, "vote")] and by_ones


def test_sentences_of_another_form_have_no_vote(project):
    """Whoever compares with a third sibling, or does not end, is dropped before the sizes are counted."""

    def unfit(opening, sample, auxiliary, adverb):
        good = says()(opening, sample, auxiliary, adverb)
        return {"often": good, "generally": f"{good} than mice", "typically": f"{good} {auxiliary}"}[adverb]

    directory = run(unfit, limit=10)
    filters = Counter(record.dropped.filter for record in drops(directory, "form"))
    assert filters == {"schema": 40, "end": 40}
    assert sum(record.scores["cluster.size"] for record in stage(directory, "cluster")) == 40


def test_a_cluster_holds_sentences_about_one_pair(project):
    """Other pairs with the same first sibling say the same."""

    def same(opening, sample, auxiliary, adverb):
        return f"{auxiliary} {adverb} {'heavier' if auxiliary == 'are' else 'more weight'}"

    firsts = [first for first, _ in [*PAIRS][:6]]
    directory = run(same, limit=6)
    sizes = [record.scores["cluster.size"] for record in stage(directory, "cluster")]
    assert sizes == [6, 6] * 6  # for each auxiliary three adverbs, two answers each
    directory = run(same, limit=6, sets=["cluster.per=null"], out="control")
    sizes = [record.scores["cluster.size"] for record in stage(directory, "cluster")]
    assert sizes == [6 * n for n in Counter(firsts).values() for _ in range(2)] and len(sizes) < 12


def majority_oracle(n, p):
    """The accuracy of the majority of n votes that are right with chance p, where there is one."""
    chances = [comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    decided = [chance for k, chance in enumerate(chances) if 2 * k != n]
    return sum(chances[n // 2 + 1 :]) / sum(decided)


@pytest.mark.slow
def test_kept_accuracy_is_that_of_the_binomial_majority(project):
    """600 comparisons, six votes each, four times; the oracle of another error rate is not met."""
    kept, by_ones, keys = {}, {}, []
    for seed in range(4):
        directory = run(says(seed=seed), out=f"run{seed}")
        votes = said(stage(directory, "likely"))
        ones = (record for record in stage(directory, "marks") if record.fields["by_ones"])
        kept |= {(seed, *key): signs for key, signs in said(stage(directory, "vote")).items()}
        by_ones |= {(seed, *key): signs for key, signs in said(ones).items()}
        keys += [(seed, *key) for key in votes]
    right = sum(truth(*key[1:]) in signs for key, signs in kept.items()) / len(kept)
    ones_right = sum(truth(*key[1:]) in signs for key, signs in by_ones.items()) / len(by_ones)
    print(len(kept), right, majority_oracle(6, RIGHT), len(by_ones), ones_right)
    assert abs(right - majority_oracle(6, RIGHT)) < 0.02
    for other in (0.6, 0.8):
        assert abs(right - majority_oracle(6, other)) > 0.02
