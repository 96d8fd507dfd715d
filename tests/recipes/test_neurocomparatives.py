"""The recipe neurocomparatives: a planted model says of each pair what is true with a known chance, and the
vote finds the majority.
"""

import re
from collections import Counter

import pytest

import distillgen
from distillgen.algorithms.intervals import paired
from distillgen.inference.request import Completion
from distillgen.project import home
from distillgen.runs.directory import read_records
from tests.recipes.comparisons import (
    ORDERS,
    WORLD,
    accuracy,
    by_ones,
    facts,
    majorities,
    oracle,
    pipeline,
    right,
    said,
    stage,
)
from tests.recipes.harness import Teacher, draw, text_of, train_here

RIGHT = 0.7
SETS = ["unfold=null", "train=null", "gather=null", "models.student={provider: scripted, model: echo}"]


def says(chance_right=RIGHT, seed=0):
    """A model whose first sample is about one attribute of the pair, and whose second is about the other."""

    def answer(opening, sample, auxiliary, adverb):
        first, second = opening.removeprefix("Compared to ").split(", ")[::-1]
        chance = draw(first, second, auxiliary, adverb, sample, chance_right, seed)
        attribute, sign = [*facts(first, second).items()][sample]
        wordings = WORLD.WORDINGS[attribute][auxiliary][(sign < 0) ^ (chance.random() >= chance_right)]
        (wording,) = chance.choices(wordings, WORLD.SHARES[: len(wordings)])
        return f"{auxiliary} {adverb} {wording}"

    return answer


class Planted(Teacher):
    """Says something that meets the clauses of a request, and finds those with `often` likelier."""

    def __init__(self, answer):
        super().__init__({}, "student")
        self.answer = answer

    def __call__(self, request, sample):
        if request.target is not None:
            logprob = -0.5 if "often" in request.target else -1.0
            return Completion(text=request.target, logprobs=[[request.target, logprob, []]])
        phrases = [clause["any"][0] for clause in request.constraints["clauses"]]
        return self.answer(text_of(request), sample, *phrases[:2])


def run(answer, sets=(), limit=None, out="run", max_kept=None):
    """Run the recipe, which keeps all that win their vote, or `max_kept` of a pair."""
    options = {"sets": [*SETS, *sets], "teachers": {"student": Planted(answer)}, "limit": limit}
    return distillgen.run(pipeline(max_kept), out=out, **options).directory


def test_each_comparison_is_decided_by_its_majority_and_sizes_beat_counting_one(project):
    directory = run(says(), limit=40)
    votes, kept, ones = said(stage(directory, "likely")), said(stage(directory, "vote")), by_ones(directory)
    assert {key: {*signs} for key, signs in kept.items()} == majorities(votes)  # so never A > B and B > A
    clusters = stage(directory, "cluster")
    both = sum(len(signs) == 2 for signs in said(clusters).values())
    assert both > 0.7 * len(votes)  # what is kept without the vote
    assert sum(record.scores["cluster.size"] for record in clusters) == 40 * 12
    assert all(len(signs) == 1 for signs in ones.values())
    assert sum(right(kept, votes)) > sum(right(ones, votes))
    assert accuracy(kept) > accuracy(ones)


def test_sizes_that_say_nothing_do_not_beat_counting_one(project):
    """The control: every wording is a cluster of its own, so that its size is 1."""
    directory = run(says(), limit=15, sets=["cluster.field=statement"])
    ones = [record.id for record in stage(directory, "marks") if record.fields["by_ones"]]
    assert ones == [record.id for record in stage(directory, "vote")] and ones


def test_sentences_of_another_form_have_no_vote(project):
    """Whoever compares with a third sibling, or does not end, is dropped before the sizes are counted."""

    def unfit(opening, sample, auxiliary, adverb):
        good = says()(opening, sample, auxiliary, adverb)
        return {"often": good, "generally": f"{good} than mice", "typically": f"{good} {auxiliary}"}[adverb]

    directory = run(unfit, limit=5)
    dropped = (record.dropped for record in read_records(directory / "dropped.jsonl"))
    filters = Counter(drop.filter for drop in dropped if drop.stage == "form")
    assert filters == {"schema": 20, "end": 20}
    assert sum(record.scores["cluster.size"] for record in stage(directory, "cluster")) == 20


UNMET = {
    "are": ("{auxiliary} {adverb} big", "{adverb} {auxiliary} heavier", "heavier {auxiliary} {adverb}"),
    "have": ("{auxiliary} {adverb} more, they say", "{auxiliary} {adverb} 10kg more", "{auxiliary} more"),
}


def test_an_answer_that_breaks_a_clause_is_no_sentence(project):
    """Whoever answers: the stage checks what a search or another model gives."""

    def unmet(opening, sample, auxiliary, adverb):
        text = UNMET[auxiliary][WORLD.ADVERBS.index(adverb)]
        return text.format(auxiliary=auxiliary, adverb=adverb)

    directory = run(unmet, limit=1)
    assert not (directory / "corpus.jsonl").read_text()
    reasons = [record.dropped.reason for record in read_records(directory / "dropped.jsonl")]
    numbers = [re.search(r"clause (\d)", reason)[1] for reason in reasons]
    assert numbers == [number for number in "323452" for _ in range(2)], reasons


def test_the_likeliest_sentence_stands_for_its_cluster_and_the_five_likeliest_of_a_pair_stay(project):
    directory = run(says(1), limit=5, max_kept=5)
    best, score = {}, "likely.mean_logprob"
    for record in stage(directory, "likely"):
        key = record.fields["second"], record.fields["meaning"]
        best[key] = max(best.get(key, -9), record.scores[score])
    leaders = {
        (r.fields["second"], r.fields["meaning"]): r.scores[score] for r in stage(directory, "cluster")
    }
    assert leaders == best and {*best.values()} == {-0.5, -1}
    kept, of_clusters = (
        Counter((record.fields["first"], record.fields["second"]) for record in stage(directory, name))
        for name in ("vote", "cluster")
    )
    assert {*kept.values()} == {5} and min(of_clusters.values()) > 5
    dropped = [
        record for record in read_records(directory / "dropped.jsonl") if record.dropped.stage == "vote"
    ]
    for record in stage(directory, "vote"):
        pair = [r for r in dropped if r.fields["opening"] == record.fields["opening"]]
        assert pair and all(record.scores[score] >= other.scores[score] for other in pair)


def test_a_cluster_holds_sentences_about_one_pair(project):
    """Other pairs with the same first sibling say the same."""

    def same(opening, sample, auxiliary, adverb):
        return f"{auxiliary} {adverb} {'heavier' if auxiliary == 'are' else 'more weight'}"

    firsts = [row["first"] for row in WORLD.pairs()][:6]
    directory = run(same, limit=6)
    sizes = [record.scores["cluster.size"] for record in stage(directory, "cluster")]
    assert sizes == [6, 6] * 6  # for each auxiliary three adverbs, two answers each
    directory = run(same, limit=6, sets=["cluster.per=null"], out="control")
    sizes = [record.scores["cluster.size"] for record in stage(directory, "cluster")]
    assert sizes == [6 * n for n in Counter(firsts).values() for _ in range(2)] and len(sizes) < 12


def test_the_data_is_what_the_program_draws(tmp_path):
    WORLD.write(tmp_path)
    shipped = home("data") / "siblings/pairs.jsonl"
    assert (tmp_path / "pairs.jsonl").read_bytes() == shipped.read_bytes()


def test_people_say_what_is_wrong_and_what_is_unfit_as_often_as_they_are_told(project):
    def heard(**shares):
        for row in WORLD.pairs(**shares):
            for sentence in row["heard"]:
                opening = f"Compared to {row['second']}, {row['first']} "
                said, _, third = sentence.removeprefix(opening).removesuffix(".").partition(" than ")
                auxiliary, _, wording = said.split(" ", 2)
                yield f"{auxiliary} {wording}" in row["facts"], bool(third), sentence.startswith(opening)

    assert {*heard(wrong=0, unfit=0)} == {(True, False, True)}
    assert {*heard(wrong=1, unfit=1)} == {(False, True, True)}
    right, third, _ = (sum(column) / 3600 for column in zip(*heard(), strict=True))
    assert abs(right - 0.7) < 0.025 and abs(third - 0.1) < 0.017  # 3.3 standard deviations
    assert len(ORDERS) == 150  # no sibling has two classes
    for row in WORLD.pairs():
        true = {WORLD.MEANINGS[tuple(fact.split(" ", 1))] for fact in row["facts"]}
        assert true == {*facts(row["first"], row["second"]).items()}


@pytest.mark.slow
def test_kept_accuracy_is_that_of_the_binomial_majority(project):
    """600 comparisons with six votes each, four times. The oracles of other error rates are not met."""
    kept, ones, keys = {}, {}, []
    for seed in range(4):
        directory = run(says(seed=seed), out=f"run{seed}")
        for counts, all_counts in ((said(stage(directory, "vote")), kept), (by_ones(directory), ones)):
            all_counts |= {(*key, seed): signs for key, signs in counts.items()}
        keys += [(*key, seed) for key in said(stage(directory, "likely"))]
    print(len(kept), accuracy(kept), oracle([6], RIGHT), len(ones), accuracy(ones))
    assert abs(accuracy(kept) - oracle([6], RIGHT)) < 0.02
    assert all(abs(accuracy(kept) - oracle([6], other)) > 0.02 for other in (0.65, 0.75))
    gain = paired(right(kept, keys), right(ones, keys))
    print(gain)
    assert gain["low"] > 0 and accuracy(kept) > accuracy(ones)


def meets_in_order(text, auxiliary, adverb):
    """Whether a text has the auxiliary, then the adverb, then a comparative, and nothing that is banned."""
    comparatives, pronouns = (
        (home("data") / f"siblings/{name}.txt").read_text().split("\n")[:-1]
        for name in ("comparatives", "pronouns")
    )
    ordered = rf"\b{auxiliary}\b.*\b{adverb}\b.*\b({'|'.join(comparatives)})\b"
    return bool(re.search(ordered, text)) and not re.search(rf"\d|\b({'|'.join(pronouns)})\b", text, re.I)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("search", ["{beam: 15}", "{beam: 15, per_bucket: sample, buckets: progress}"])
def test_all_that_the_search_returns_meets_its_ordered_clauses(project, monkeypatch, search):
    """The control: without clauses, the likeliest texts of the same model meet the clauses rarely."""
    pytest.importorskip("torch")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    train_here(monkeypatch)
    recipe = pipeline()
    names = [next(iter(entry)) for entry in recipe["stages"]]
    recipe["stages"] = recipe["stages"][: names.index("generate") + 1]
    options = {"search": search, "n": "5"}

    def share(out, *sets):
        sets = [f"generate.{name}={value}" for name, value in options.items()] + [*sets]
        directory = distillgen.run(recipe, out=out, sets=["train.epochs=10", *sets], limit=10).directory
        answers = [record.fields for record in stage(directory, "generate")]
        assert len(answers) > 100
        return sum(meets_in_order(a["rest"], a["auxiliary"], a["adverb"]) for a in answers) / len(answers)

    assert share("run") == 1
    free = share("run", "generate.constraints=null", "generate.ordered=false")
    print(search, free)
    assert free < 0.5
