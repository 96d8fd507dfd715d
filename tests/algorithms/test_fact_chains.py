"""Edits of chains against an evaluator of its own, which walks a list of triples."""

import random

import pytest

from distillgen.algorithms.fact_chains import Fact, Facts, simple

HOPS, GRAPHS = 4, 1000


def random_graph(seed):
    """A random graph, a chain in it, and one or two edges to edit, which always have other ends: the graph
    holds two more chains of the same relations.
    """
    chance = random.Random(seed)
    names = [f"n{i}" for i in range(chance.randint(15, 30))]
    relations = [f"r{i}" for i in range(chance.randint(2, 5))]
    graph = {
        (name, relation): chance.choice(names)
        for name in names
        for relation in relations
        if chance.random() < 0.7
    }
    hops = chance.randint(1, HOPS)
    path = [chance.choice(relations) for _ in range(hops)]
    nodes = chance.sample(names, 3 * (hops + 1))
    for chain in (nodes[i : i + hops + 1] for i in range(0, len(nodes), hops + 1)):
        graph.update(zip(zip(chain, path, strict=False), chain[1:], strict=True))
    edges = chance.sample(range(hops), chance.randint(1, min(2, hops)))
    return graph, Facts(graph).follow(nodes[0], path), edges, chance


def evaluate(triples, head, relations):
    """The answer and the triples on the way, by search in the whole list, in which a later triple counts."""
    way = []
    for relation in relations:
        way.append([t for t in triples if t[0] == head and t[1] == relation][-1])
        head = way[-1][2]
    return head, way


def compare(seed, carried=True):
    """Edit a chain of a random graph; return it and the evaluation of the whole edited graph."""
    graph, chain, edges, chance = random_graph(seed)
    edit = Facts(graph).edit(chain, edges, chance)
    assert edit is not None, seed
    edited, changes = edit
    if not carried:  # the changed edges alone
        new = {fact.relation + fact.head: fact for fact in changes}
        edited = tuple(new.get(fact.relation + fact.head, fact) for fact in chain)
    triples = [(*key, tail) for key, tail in graph.items()] + [tuple(fact) for fact in changes]
    return chain, edges, edited, changes, evaluate(triples, chain[0].head, [f.relation for f in chain])


def test_an_edit_that_is_carried_down_equals_the_evaluation_of_the_whole_graph_in_1000_graphs():
    lengths = set()
    for seed in range(GRAPHS):
        chain, edges, edited, changes, (answer, way) = compare(seed)
        assert [tuple(fact) for fact in edited] == way and edited[-1].tail == answer, seed
        assert answer != chain[-1].tail and len(changes) == len(edges), seed
        assert all(edited[edge] in changes for edge in edges) and simple(edited), seed
        assert edited[: min(edges)] == chain[: min(edges)], seed
        lengths.add((len(chain), len(edges)))
    assert {length for length, _ in lengths} == set(range(1, HOPS + 1)) and (4, 2) in lengths


def test_an_edit_that_is_not_carried_down_differs():
    inner = 0
    for seed in range(GRAPHS):
        _, edges, edited, _, (_, way) = compare(seed, carried=False)
        last = edges == [len(edited) - 1]
        assert ([tuple(fact) for fact in edited] == way) == last, seed
        inner += not last
    assert inner > GRAPHS // 2


GRAPH = {
    ("Ann", "aunt"): "Bea",
    ("Bea", "boss"): "Cay",
    ("Eve", "aunt"): "Fay",
    ("Fay", "boss"): "Gus",
    ("Hal", "aunt"): "Ida",
    ("Cay", "aunt"): "Ann",
}
CHAIN = Facts(GRAPH).follow("Ann", ["aunt", "boss"])


def edits(graph, edges, draws=60):
    """All that drawn edits of the chain give."""
    return {Facts(graph).edit(CHAIN, edges, random.Random(i)) for i in range(draws)}


def test_a_new_end_is_one_that_the_relation_has_and_from_which_the_chain_goes_on():
    changed = Fact("Ann", "aunt", "Fay")
    assert edits(GRAPH, [0]) == {((changed, Fact("Fay", "boss", "Gus")), (changed,))}  # Ida has no boss
    last = Fact("Bea", "boss", "Gus")
    assert edits(GRAPH, [1]) == {((CHAIN[0], last), (last,))}


@pytest.mark.parametrize(
    "fact",
    [
        pytest.param({("Fay", "boss"): "Cay"}, id="the same answer"),
        pytest.param({("Fay", "boss"): "Ann"}, id="an entity twice"),
    ],
)
def test_there_is_no_edit_where_the_answer_or_an_entity_would_come_again(fact):
    assert edits({**GRAPH, **fact}, [0]) == {None}


def test_a_second_edit_starts_where_the_first_one_leads():
    graph = {**GRAPH, ("Hal", "boss"): "Joe"}
    for edited, changes in edits(graph, [1, 0]):
        assert changes[0] == Fact("Ann", "aunt", "Fay") and changes[1].head == "Fay"
        assert edited == changes and edited[1].tail in ("Joe",)


def test_a_chain_names_no_entity_twice_and_begins_with_its_fact():
    facts = Facts(GRAPH)
    chains = {facts.chain(CHAIN[0], 2, random.Random(i)) for i in range(20)}
    assert chains == {CHAIN}
    assert facts.chain(CHAIN[0], 3, random.Random(0)) is None  # Cay's aunt is Ann, with whom it began
    assert Facts({("Ann", "aunt"): "Ann"}).chain(Fact("Ann", "aunt", "Ann"), 1, random.Random(0)) is None
    both = Facts({**GRAPH, ("Bea", "aunt"): "Ida"})
    assert len({both.chain(CHAIN[0], 2, random.Random(i)) for i in range(20)}) == 2


def test_follow_ends_where_a_fact_is_missing():
    facts = Facts(GRAPH)
    assert facts.follow("Hal", ["aunt", "boss"]) is None and facts.follow("Eve", []) == ()
