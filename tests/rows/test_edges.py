"""Edges between rows: neighbours in both directions, and a reason for each edge that joins no rows."""

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.flow.stage import CheckContext
from distillgen.project import Project
from distillgen.stages.source import Source

NODES = [{"id": n, "x": 0.5} for n in (1, 2, 3, "four")]


def read(project, edges, nodes=NODES, **options):
    project.rows("nodes.jsonl", nodes)
    if isinstance(edges, str):
        project.write("edges.csv", edges)
    else:
        project.rows("edges.jsonl", edges)
    file = "edges.csv" if isinstance(edges, str) else "edges.jsonl"
    source = Source(name="source", path="nodes.jsonl", edges=file, node="id", **options)
    bound = source.bind(CheckContext(frozenset(), {}, Project(project.path)))
    assert "neighbours" in bound.fields and bound.count == len(nodes)
    return [*source.records(Project(project.path))]


@pytest.mark.parametrize(
    "edges", ["from,to\n1,2\nfour,1\n2,1\n", [{"from": 1, "to": 2}, {"from": "four", "to": 1}]]
)
def test_an_edge_joins_both_rows(project, edges):
    records = read(project, edges)
    assert {r.fields["id"]: r.fields["neighbours"] for r in records} == {
        1: [2, "four"],
        2: [1],
        3: [],
        "four": [1],
    }
    plain = [*Source(name="source", path="nodes.jsonl").records(Project(project.path))]
    assert [(r.id, r.item) for r in plain] == [(r.id, r.item) for r in records], "paid answers are lost"


def test_a_bad_edge_is_dropped_with_a_reason(project):
    edges = [{"from": 1, "to": 2}, {"from": 1, "to": 9}, {"from": 2}, {"from": 3, "to": 3}]
    records = read(project, edges, held_out=0.5)
    assert [(r.source, r.dropped.reason) for r in records if r.dropped] == [
        ("edges.jsonl:2", "no row has the id '9'"),
        ("edges.jsonl:3", "the edge has no 'to'"),
        ("edges.jsonl:4", "the edge joins '3' with itself"),
    ]
    assert sum(not r.dropped for r in records) == 4 and {"split", "neighbours"} <= records[0].fields.keys()


@pytest.mark.parametrize(
    ("edges", "nodes", "message"),
    [
        ([{"source": 1, "target": 2}], NODES, "edges.jsonl:1' joins two rows: the edge has no 'from'"),
        ("from,to\n", NODES, "joins two rows: it has no rows"),
        ([{"from": 1, "to": 2}], [*NODES, {"id": 1, "x": 0}], "an earlier row has the id '1'"),
        ([{"from": 1, "to": 2}], [*NODES, {"x": 0}], "there is no id in the field 'id'"),
        ([{"from": 1, "to": 2}], [{**n, "neighbours": []} for n in NODES], "leave 'edges' out"),
    ],
)
def test_edges_that_cannot_be_joined_are_refused_in_the_check(project, edges, nodes, message):
    with pytest.raises(ConfigError, match=message):
        read(project, edges, nodes)


def test_an_edited_file_of_edges_is_read_again(project):
    project.rows("nodes.jsonl", NODES)
    stages = [{"source": {"path": "nodes.jsonl", "edges": "edges.jsonl", "node": "id"}}]

    def neighbours(edges):
        project.rows("edges.jsonl", edges)
        run = distillgen.run({"version": 1, "stages": stages}, out="out")
        return [row["neighbours"] for row in run.corpus], len(run.dropped)

    assert neighbours([{"from": 1, "to": 2}, {"from": 1, "to": 7}]) == ([[2], [1], [], []], 1)
    assert neighbours([{"from": 2, "to": 3}]) == ([[], [3], [2], []], 0)
