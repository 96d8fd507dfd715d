"""chains: records of chains of facts, the part of the data that they are in, and facts that no chain uses."""

import random
import re
from collections import Counter

import pytest

import distillgen
from distillgen.errors import ConfigError

FACTS = [("Ann", "aunt", "Bea"), ("Bea", "boss", "Cay"), ("Eve", "aunt", "Fay"), ("Fay", "boss", "Gus")]
CONTEXT = {"levels": {"context": 1}}


def rows_of(triples, **more):
    return [{"head": h, "relation": r, "tail": t, **more} for h, r, t in triples]


@pytest.fixture
def chains(project):
    """chains(rows, **options) -> the run."""

    def chains(rows, *, seed=0, **options):
        project.rows("facts.jsonl", rows)
        stages = [{"source": {"path": "facts.jsonl"}}, {"chains": {"hops": [1, 2], **options}}]
        return distillgen.run({"version": 1, "seed": seed, "stages": stages}, out="out")

    return chains


def reasons(run):
    return {(r.fields["head"], r.fields["tail"]): (r.dropped.filter, r.dropped.reason) for r in run.dropped}


def in_order(facts, wanted):
    """The facts in the order of others, and the rest behind them."""
    return sorted(facts, key=lambda fact: wanted.index(fact) if fact in wanted else len(wanted))


def test_each_fact_begins_a_chain_of_each_level(chains, project):
    chains(rows_of(FACTS), hops=[2, 2], levels={"instruction": 2, "context": 2, "agreement": 1})
    rows = project.read("out/corpus.jsonl")
    assert Counter(row["level"] for row in rows) == {"instruction": 4, "context": 4, "agreement": 2}
    assert len({row["meta"]["id"] for row in rows}) == len(rows)
    fact = {name: dict(zip(("head", "relation", "tail"), triple, strict=True)) for name, triple in
            zip(("ab", "bc", "ef", "fg", "af"), [*FACTS, ("Ann", "aunt", "Fay")], strict=True)}  # fmt: skip
    bc_changed = {**fact["bc"], "tail": "Gus"}
    assert {row["head"] for row in rows} == {"Ann", "Eve"}  # Bea and Fay begin no chain of two
    for row in (row for row in rows if row["head"] == "Ann"):
        assert row["chain"] == [fact["ab"], fact["bc"]] and (row["answer"], row["hops"]) == ("Cay", 2)
        if row["level"] == "agreement":
            assert (
                row["edited"] == row["chain"] == in_order(row["facts"], row["chain"]) and not row["changes"]
            )
            assert row["edited_answer"] == "Cay"
            continue
        assert row["edited_answer"] == "Gus"
        first = row["changes"] == [fact["af"]]
        assert first or row["changes"] == [bc_changed]
        assert row["edited"] == ([fact["af"], fact["fg"]] if first else [fact["ab"], bc_changed])
        if row["level"] == "context":
            assert in_order(row["facts"], row["edited"]) == row["edited"]
        else:  # the assumption alone states the change
            stated = [*row["chain"], *([fact["fg"]] if first else [])]
            assert in_order(row["facts"], stated) == stated


def test_lengths_and_edits_are_drawn_within_their_bounds_by_the_seed(chains, project):
    entities = [f"n{i}" for i in range(30)]
    rows = rows_of(
        (entities[i], f"r{k}", entities[(7 * i + 11 * k + 1) % 30]) for i in range(30) for k in range(3)
    )
    drawn = {}
    for seed in (0, 1):
        chains(rows, seed=seed, hops=[1, 3], edits=2)
        drawn[seed] = project.read("out/corpus.jsonl")
    longer = [row for row in drawn[0] if row["level"] == "context" and row["hops"] == 2]
    ordered = sum(row["facts"] == row["edited"] for row in longer)
    assert 0.2 < ordered / len(longer) < 0.8  # the place of a fact says nothing
    counts = Counter((row["hops"], len(row["changes"])) for row in drawn[0])
    assert set(counts) == {(1, 1), (2, 2), (3, 2)} and min(counts.values()) > 30
    assert [row["edited"] for row in drawn[0]] != [row["edited"] for row in drawn[1]]
    loops = sum(row["head"] == row["tail"] for row in rows)
    assert len(drawn[0]) == 2 * (90 - loops) and all(row["meta"]["parents"] for row in drawn[0])


def test_facts_that_no_chain_may_use_are_dropped_with_the_reason(chains):
    more = [
        ("Ann", "cook", "Bea"),
        ("Ann", "cook", "Cay"),
        ("Bea", "boss", "Cay"),
        ("Ivy", "", "Bea"),
        ("Joe", "tutor", "Joe"),
    ]
    numbered = [{**row, "id": i} for i, row in enumerate(rows_of([*FACTS, *more]))]
    run = chains(numbered, **CONTEXT)
    assert len(run.corpus) == 4
    why = [(r.dropped.filter, re.sub("[0-9a-f]{20}", "ID", r.dropped.reason)) for r in run.dropped]
    assert why == [
        ("ambiguous", "the cook of Ann is Bea and Cay"),
        ("ambiguous", "the cook of Ann is Bea and Cay"),
        ("repeated", "repeats the fact of ID"),
        ("empty", "its 'relation' names nothing"),
        ("no_chain", "no chain of 1 to 2 facts that can be edited begins with it"),
    ]


def test_a_chain_stays_in_the_part_of_its_facts_and_training_facts_share_nothing_with_the_test(
    chains, project
):
    tested = [("Kim", "vet", "Lou"), ("Mia", "vet", "Ned"), ("Lou", "nurse", "Ned")]
    shared = [("Ann", "vet", "Eve"), ("Ned", "aunt", "Ann"), ("Eve", "boss", "Lou")]
    rows = [*rows_of(FACTS), *rows_of(tested, split="test"), *rows_of(shared, split="train")]
    run = chains(rows, **CONTEXT)
    why = reasons(run)
    assert why["Ann", "Eve"] == ("shared", "a held-out fact has 'vet', too")
    assert why["Ned", "Ann"] == ("shared", "a held-out fact has 'Ned', too")
    assert why["Eve", "Lou"] == ("shared", "a held-out fact has 'Lou', too")
    names = {"test": set(), None: set()}
    for row in project.read("out/corpus.jsonl"):
        names[row.get("split")] |= {part for fact in row["chain"] + row["edited"] for part in fact.values()}
    assert names["test"] == {"Kim", "vet", "Lou", "Mia", "Ned"} and not names["test"] & names[None]


def test_a_template_names_the_facts_of_the_test(chains, project):
    tested = [("Kim", "vet", "Lou"), ("Mia", "vet", "Ned")]
    rows = [
        *rows_of(FACTS, region="south"),
        *rows_of(tested, region="north"),
        *rows_of([("Ann", "vet", "Eve")]),
    ]
    run = chains(rows, held_out="{{ region == 'north' }}", **CONTEXT)
    heads = Counter((row["split"], row["head"]) for row in project.read("out/corpus.jsonl"))
    assert {head for split, head in heads if split == "test"} == {"Kim", "Mia"}
    assert {head for split, head in heads if split == "train"} == {"Ann", "Bea", "Eve", "Fay"}
    assert reasons(run)["Ann", "Eve"] == ("held_out", "'held_out': there is no field 'region' in the row")


def test_held_out_entities_and_relations_are_drawn_where_the_rows_have_no_split(chains, project):
    chance, entities = random.Random(0), [f"n{i}" for i in range(40)]
    triples = [(head, f"r{k}", chance.choice(entities)) for head in entities for k in range(10)]
    run = chains(rows_of(triples), held_out=0.4, **CONTEXT)
    names = {"test": set(), "train": set()}
    for row in project.read("out/corpus.jsonl"):
        names[row["split"]] |= {part for fact in row["chain"] + row["edited"] for part in fact.values()}
    assert names["test"] and names["train"] and not names["test"] & names["train"]
    crossing = "its entities and its relation are drawn for both the training and the test"
    assert ("crosses", crossing) in reasons(run).values()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"hops": [3, 1]}, "hops: [3, 1]: give the smallest number first, at least 1"),
        ({"hops": [0, 1]}, "hops: [0, 1]: give the smallest number first, at least 1"),
        ({"levels": {"contxt": 1}}, "contxt"),
        ({"levels": {"context": 0}}, "greater than or equal to 1"),
        ({"held_out": 1.5}, "held_out: 1.5 is no share between 0 and 1"),
        ({"held_out": "{{ regoin }}"}, "'held_out' needs the field 'regoin', which no earlier stage gives"),
        ({"head": "tail"}, "'head', 'relation' and 'tail' are three fields"),
        ({"head": "chain"}, "the stage writes 'chain' itself; rename that field of the facts"),
        (
            {"tail": "tali"},
            "'tail' needs the field 'tali', which no earlier stage gives; did you mean 'tail'?",
        ),
    ],
)
def test_mistakes_are_refused_before_the_run(chains, options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        chains(rows_of(FACTS), **options)
