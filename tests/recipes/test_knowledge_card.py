"""knowledge-card and knowledge-card-ask: one card is right, one beside the point, and one plausibly false."""

import random
import re
import sys
from collections import Counter
from functools import cache

import pytest

from distillgen.plugins import filter_factory
from distillgen.project import Project, home
from distillgen.record import Record
from distillgen.runs.directory import read_rows
from tests.recipes.harness import Teacher, chance, teach

FILLER = (
    "Sailors who come back from the outer sea like to speak of this at great length in the taverns, where "
    "everybody has heard it many times before and nobody minds to hear it all again. "
)
WRONG = {"area": "999", "harbour": "Nowhere", "founded": "1001", "governor": "Zebedee", "bird": "towers"}
OWN = 0.2  # the share of the questions whose answer the main model knows by itself
CONTEXT = 180  # characters of knowledge that it reads: less than a long passage
ITEMS = 25  # the first questions, about five islands
CARDS = ("geography", "history", "nature")


@cache
def archipelago():
    sys.path.insert(0, str(home("data")))
    try:
        import archipelago as module
    finally:
        sys.path.pop(0)
    return module


@cache
def subjects():
    """By question: the kind of the fact, the island, the domain and the right value."""
    module = archipelago()
    return {
        question.format(i=island): (kind, island, card, values[kind])
        for island, values in module.world().items()
        for kind, (card, _, question) in module.TEMPLATES.items()
        if question
    }


def question_in(text):
    return next(question for question in subjects() if question in text)


def subject_of(text):
    return subjects()[question_in(text)]


def statement(kind, island, value):
    return archipelago().TEMPLATES[kind][1].format(i=island, v=value)


def card(name, *, right=True):
    """A card says what is right about its own domain. The next card speaks of another island, and the third
    one tells what is false.
    """

    def tell(text, sample):
        kind, island, domain, value = subject_of(text)
        place = (CARDS.index(name) - CARDS.index(domain)) % 3
        lead = FILLER if chance(0.7, name, text, sample) else ""
        if place == 0 and right and chance(0.8, name, text, sample, "right"):
            return f"{lead}Number {sample}: {statement(kind, island, value)}"
        if place == 1:
            lead = FILLER if chance(0.95, name, text, sample, "long") else ""
            islands = archipelago().ISLANDS
            other = islands[(islands.index(island) + 7) % 20]
            return f"{lead}Number {sample}: {statement(kind, other, archipelago().world()[other][kind])}"
        return f"{lead}Number {sample}: {statement(kind, island, WRONG[kind])}"

    return Teacher({"": tell}, name)


def said(text, kind):
    """The values that a text gives for a kind of fact, whatever the island: the reader is not careful."""
    pattern = (
        re.escape(archipelago().TEMPLATES[kind][1]).replace(r"\{i\}", r"\w+").replace(r"\{v\}", r"(\w+)")
    )
    return re.findall(pattern, text)


def main_model(context):
    """It believes what most passages say that it can read, else what it knows itself."""

    def answer(text, sample):
        kind, _, _, value = subject_of(text)
        knowledge = text.partition("Knowledge:")[2].partition("Parts of the")[0]
        values = said(knowledge[:context], kind)
        if values:
            return f"The answer is {Counter(values).most_common(1)[0][0]}."
        return f"The answer is {value if chance(OWN, text.split('Question:')[1]) else 'unknown'}."

    def need(text, sample):
        kind, island, _, value = subject_of(text)
        if value in said(text, kind):
            return "No"
        kinds = {
            "area": "the square kilometres of an island",
            "harbour": "the harbour of an island",
            "founded": "the year in which a village was founded",
            "governor": "who governed the island first",
            "bird": "where birds nest",
        }
        return f"Yes: {kinds[kind]}"

    def choose(text, sample):
        domain = subject_of(text)[2]
        return "the library" if chance(0.05, text, "lost") else f" {domain.capitalize()} "

    return Teacher(
        {
            "one sentence of at most": lambda text, sample: (
                text.removesuffix("\n").rpartition("Text: ")[2].split(". ")[-1].rpartition(": ")[2]
            ),
            "Do you need more": need,
            "name of the one source": choose,
            "Answer with one line": answer,
        },
        "main",
    )


def teachers(*, right=True, context=CONTEXT):
    return {name: card(name, right=right) for name in CARDS} | {"main": main_model(context)}


def run_of(recipe, models, sets=(), out="run"):
    return teach(recipe, models, sets, out, limit=ITEMS)


def accuracy(run):
    return sum(row["right"] for row in read_rows(run.directory / "corpus.jsonl")) / ITEMS


def stage_rows(run, name):
    (file,) = run.directory.glob(f"stages/*-{name}.jsonl")
    return list(read_rows(file))


NO_FACTUALITY = ["knowledge_card=null", "factual.by=relevance", "gather.best=relevance"]
NO_FACTUALITY += ["gather.keep=[card, knowledge]"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run_of("knowledge-card", teachers(), out=tmp_path_factory.mktemp("whole") / "run")


def test_the_passages_of_the_right_card_are_among_the_20_nearest(whole):
    rows = [r for r in stage_rows(whole, "tell") if r["card"] == r["domain"] and r["gold"] in r["knowledge"]]
    near = {
        row["meta"]["id"] for row in stage_rows(whole, "select") if row["meta"]["scores"]["near.rank"] <= 20
    }
    recall = sum(row["meta"]["id"] in near for row in rows) / len(rows)
    assert len(rows) > 170 and recall >= 0.95
    shuffled = random.Random(0).sample([row["meta"]["id"] for row in stage_rows(whole, "select")], len(near))
    assert sum(row["meta"]["id"] in {*shuffled} for row in rows) / len(rows) < 0.8


def test_the_passages_help_and_each_selector_has_a_part_in_it(project, whole):
    full = accuracy(whole)
    assert full >= 0.9
    without = {
        "relevance": ["relevance=null", "near=null"],
        "factuality": NO_FACTUALITY,
        "brevity": ["shorten=null"],
    }
    for name, sets in without.items():
        assert accuracy(run_of("knowledge-card", teachers(), sets, out=name)) <= full - 0.1, name


def test_cards_that_are_off_topic_or_false_help_nobody(project):
    nothing = accuracy(run_of("knowledge-card", teachers(), ["learn.fields.learnt=none"], out="nothing"))
    assert nothing <= 0.4
    assert accuracy(run_of("knowledge-card", teachers(right=False), out="false")) <= nothing


def test_the_draws_follow_the_formula(project):
    """Five passages, of which the two models hold different things; 10,000 draws of one of them."""
    from scipy.stats import chisquare

    project.write(
        "models.py",
        "def verify(pairs):\n    return [(int(t[-1]) / 5, 0.0, (4 - int(t[-1])) / 20) for _, t in pairs]\n"
        "def critic(pairs):\n    return [(1 - int(t[-1]) / 10, 0.0, int(t[-1]) / 10) for _, t in pairs]\n",
    )
    project.rows("facts.jsonl", [{"text": "nothing of the kind"}])
    here = Project(project.path)
    models = {"verifier": "models.py:verify", "plausibility": "models.py:critic"}
    card_filter = filter_factory("knowledge_card", here)(knowledge="facts.jsonl", **models, project=here)
    texts = [f"passage {n}" for n in range(5)]
    scores = card_filter.measure([Record.read({"knowledge": text}, "") for text in texts])
    by_hand = [((n / 5 - (4 - n) / 20 + 1) / 2 + 1 - n / 10) / 2 for n in range(5)]
    assert scores == pytest.approx(by_hand)
    sampled = filter_factory("sample_by_score", here)(by="f", per=["q"], n=1, best=5)
    counts = Counter()
    for group in range(10_000):
        records = [
            Record(f"{group}-{n}", {"q": group}, scores={"f": score}) for n, score in enumerate(scores)
        ]
        counts[next(n for n, number in enumerate(sampled.measure(records)) if number["draw"] == 1)] += 1
    observed = [counts[n] for n in range(5)]
    assert chisquare(observed, [10_000 * score / sum(scores) for score in scores]).pvalue > 0.01
    assert chisquare(observed).pvalue < 0.01  # equal chances are not the formula


@pytest.mark.parametrize("way", ["automatic", "explicit"])
def test_the_model_asks_the_right_card_and_stops_when_it_has_enough(project, way):
    asked = teachers(context=2000)
    run = run_of("knowledge-card-ask", asked, [f"way.fields.way={way}"])
    rows = stage_rows(run, "last")
    kept = [row for row in rows if "dropped" not in row["meta"]]
    assert len(kept) == ITEMS and all(row["enough"] == "yes" for row in kept)
    calls = [(subject_of(text)[2], name) for name in CARDS for text in asked[name].asked()]
    right = sum(domain == name for domain, name in calls) / len(calls)
    assert right >= 0.9 and len(calls) < 6 * ITEMS
    assert accuracy(run) >= 0.9
    needs = Counter(question_in(text) for text in asked["main"].asked("Do you need more"))
    told = Counter(question_in(text) for name in CARDS for text in asked[name].asked())
    assert all(
        needs[question] == told[question] // 5 + 1 for question in [*subjects()][:ITEMS]
    )  # after "No", no more


def test_cards_on_other_subjects_never_satisfy_the_model(project):
    asked = teachers(right=False)
    run = run_of("knowledge-card-ask", asked)
    assert accuracy(run) <= 0.4
    assert len(asked["main"].asked("Do you need more")) == 4 * ITEMS


def test_the_data_is_what_the_program_draws(tmp_path):
    archipelago().write(tmp_path)
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (home("data") / "archipelago" / file.name).read_bytes()


def test_the_judges_tell_a_fact_from_a_false_value_and_from_another_subject():
    verify, plausible = archipelago().verify, archipelago().plausible
    fact = "The island of Orvane covers 426 square kilometres."
    pairs = [(fact, statement("area", "Orvane", value)) for value in ("426", "999")]
    pairs += [(fact, statement("hill", "Orvane", "5")), ("", fact)]
    assert [row.index(max(row)) for row in verify(pairs)] == [0, 2, 1, 1]
    assert [row[0] for row in plausible(pairs)] == [0.9, 0.1, 0.5, 0.5]
