"""retrieve: the nearest entries, those with the same words, and random ones, against plain loops."""

import math
import random
from collections import Counter

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.runs.directory import read_records
from distillgen.text.words import words

TASKS = ["law", "food", "sea"]
TOPICS = "harbour bread statute anchor oven court wave flour judge sail".split()


def texts(count, seed=0):
    draw = random.Random(seed)
    return [" ".join(draw.choices(TOPICS, k=4)) for _ in range(count)]


def rows(count):
    return [{"n": i, "q": text, "task": TASKS[i % 3]} for i, text in enumerate(texts(count))]


def retrieve(project, out="run", count=30, held_out=None, **options):
    project.rows("rows.jsonl", rows(count))
    source = {"path": "rows.jsonl", "item": ["n"]} | ({"held_out": held_out} if held_out else {})
    pipeline = {"version": 1, "models": {}, "stages": [{"source": source}, {"retrieve": options}]}
    run = distillgen.run(pipeline, out=out)
    return [*read_records(run.directory / "corpus.jsonl")]


def lists(records):
    return {r.fields["n"]: [entry["n"] for entry in r.fields["retrieved"]] for r in records}


def test_random_entries_are_of_others_of_the_same_task_and_repeat(project):
    options = {"from": "here", "by": "random", "k": 3, "others": True, "within": "task", "keep": ["n"]}
    first = lists(retrieve(project, "a", **options))
    assert first == lists(retrieve(project, "b", **options))
    for number, entries in first.items():
        assert len(set(entries)) == 3 and number not in entries
        assert all(entry % 3 == number % 3 for entry in entries)
    drawn = Counter(entry for entries in first.values() for entry in entries)
    assert len(drawn) > 20, "the same few entries are drawn again and again"
    across = lists(retrieve(project, "c", **{**options, "within": None, "across": "task"}))
    assert all(entry % 3 != number % 3 for number, entries in across.items() for entry in entries)
    alone = lists(retrieve(project, "d", **{**options, "others": False, "within": None, "k": 30}))
    assert all(sorted(entries) == list(range(30)) for entries in alone.values())


def test_random_entries_are_uniform(project):
    project.rows("bank.jsonl", [{"n": i} for i in range(6)])
    records = retrieve(project, count=600, **{"from": "bank.jsonl", "by": "random", "k": 2})
    counts = Counter(entry for entries in lists(records).values() for entry in entries)
    chi_square = sum((counts[i] - 200) ** 2 / 200 for i in range(6))
    assert chi_square < 20.5, counts  # p = 0.001 with 5 degrees of freedom


def test_entries_are_neither_dropped_nor_held_out_nor_without_the_condition(project):
    options = {
        "from": "here",
        "by": "random",
        "k": 50,
        "entries": "{{ task == 'sea' }}",
        "keep": ["n", "split"],
    }
    records = retrieve(project, held_out=0.4, count=60, **options)
    held_out = {r.fields["n"] for r in records if r.held_out}
    train_of_the_sea = [n for n in range(60) if n % 3 == 2 and n not in held_out]
    assert held_out and all(sorted(entries) == train_of_the_sea for entries in lists(records).values())


@pytest.mark.parametrize(
    "options", [{"by": "random"}, {"by": "bm25"}, {"by": "nearest", "embedder": "words"}]
)
def test_a_memory_without_entries_gives_none(project, options):
    pytest.importorskip("bm25s")
    if options["by"] != "random":
        options = {**options, "query": "q", "key": "q"}
    options = {**options, "from": "here", "entries": "{{ n > 9 }}", "keep": ["n"], "k": 2}
    assert lists(retrieve(project, count=3, **options)) == {0: [], 1: [], 2: []}


def bm25(query, corpus, k1=1.5, b=0.75):
    """The formula, in Lucene's variant."""
    counts = [Counter(words(text)) for text in corpus]
    mean, scores = sum(c.total() for c in counts) / len(corpus), []
    for of_text in counts:
        score = 0.0
        for word in words(query):
            n = sum(word in c for c in counts)
            weight = math.log(1 + (len(corpus) - n + 0.5) / (n + 0.5))
            norm = k1 * (1 - b + b * of_text.total() / mean)
            score += weight * of_text[word] / (of_text[word] + norm) if n else 0.0
        scores.append(score)
    return scores


def test_bm25_finds_the_texts_of_the_formula_in_its_order(project):
    pytest.importorskip("bm25s")
    bank = [" ".join(TOPICS[j] for j in range(10) if (i * 37 + j * j) % 3) for i in range(40)]
    project.rows("bank.jsonl", [{"n": i, "text": text} for i, text in enumerate(bank)])
    records = retrieve(project, **{"from": "bank.jsonl", "by": "bm25", "query": "q", "key": "text", "k": 5})
    for record in records:
        scores = bm25(record.fields["q"], bank)
        found = record.fields["retrieved"]
        assert [e["bm25"] for e in found] == pytest.approx(sorted(scores, reverse=True)[:5], abs=1e-4)
        assert all(entry["bm25"] == pytest.approx(scores[entry["n"]], abs=1e-4) for entry in found)
        ties = [(-entry["bm25"], entry["n"]) for entry in found]
        assert ties == sorted(ties), "equal entries do not stay in order"


@pytest.mark.parametrize("others", [False, True])
@pytest.mark.parametrize("most", [1.0, 0.8])
def test_the_nearest_are_those_of_a_plain_loop(project, others, most):
    pytest.importorskip("numpy")
    from distillgen.local_models.embedder import embed

    options = {"from": "here", "query": "q", "key": "q", "k": 4, "embedder": "words", "keep": ["n"]}
    options |= {"others": others} | ({"max_cosine": most} if most < 1 else {})
    records = retrieve(project, count=80, **options)
    vectors = embed(texts(80), model="words")
    for number, entries in lists(records).items():
        near = [float(value) for value in vectors @ vectors[number]]
        ranked = sorted(range(80), key=lambda i: -near[i])
        allowed = [i for i in ranked if near[i] > 0 and (near[i] <= most or most == 1)]
        assert entries == [i for i in allowed if not others or i != number][:4]


def test_a_plan_bounds_the_entries(project):
    project.rows("bank.jsonl", [{"n": i, "text": "x" * i} for i in range(100)])
    records = retrieve(project, **{"from": "bank.jsonl", "by": "random", "k": 3})
    project.rows("rows.jsonl", rows(30))
    pipeline = {"version": 1, "models": {}, "stages": []}
    pipeline["stages"] = [
        {"source": {"path": "rows.jsonl"}},
        {"retrieve": {"from": "bank.jsonl", "by": "random", "k": 3}},
    ]
    (_, source), (_, estimate) = distillgen.load(pipeline).plan()
    longest = max(len(str(record.fields["retrieved"])) for record in records)
    assert source.rows == estimate.rows == 30
    assert estimate.made_bytes is None or estimate.made_bytes >= longest * 0.9


@pytest.mark.parametrize(
    "options, message",
    [
        ({"from": "here", "by": "random", "key": "q"}, "'key' has no use with 'by: random'"),
        ({"from": "here", "key": "q"}, "give 'query'"),
        ({"from": "here", "query": "q"}, "give either 'key'"),
        ({"from": "here", "query": "q", "key": "q", "by": "bm25", "max_cosine": 0.9}, "embeds nothing"),
        ({"from": "here", "by": "random", "within": "tsk"}, "'within' needs the field 'tsk'.*task"),
        ({"from": "bank.jsonl", "by": "random", "within": "task"}, "'within' in bank.jsonl needs the field"),
        ({"from": "bank.jsonl", "by": "random", "entries": "{{ tasc }}"}, "'entries' in bank.jsonl needs"),
        ({"by": "random"}, "which works only inside 'rounds'"),
    ],
)
def test_a_mistake_is_found_by_check(project, options, message):
    project.rows("bank.jsonl", [{"n": 1}])
    with pytest.raises(ConfigError, match=message):
        retrieve(project, **options)
