"""Triples become a graph: merged nodes, dropped triples with reasons, exports and drawing, and paths."""

import json
import re

import pytest

import distillgen
from distillgen.errors import ConfigError

nx = pytest.importorskip("networkx", reason="needs the extra 'graph'")

from distillgen.algorithms.name_graph import (  # noqa: E402
    LETTER,
    LINE,
    commonest,
    communities,
    connections,
    mentioned,
    name_key,
    picture,
)


@pytest.fixture
def carry_out(project):
    """carry_out(triples, **options) -> (kept rows, {number of a dropped triple: [rule, reason]}, graph)."""

    def carry_out(triples, **options):
        rows = [
            dict(zip(("head", "relation", "tail", "note"), triple, strict=False), n=i)
            for i, triple in enumerate(triples)
        ]
        project.rows("rows.jsonl", rows)
        stages = [{"source": {"path": "rows.jsonl"}}, {"graph": {"embedder": "words", **options}}]
        distillgen.run({"version": 1, "stages": stages}, out="out")
        dropped = {
            row["n"]: (row["meta"]["dropped"]["filter"], row["meta"]["dropped"]["reason"])
            for row in project.read("out/dropped.jsonl")
        }
        return (
            project.read("out/corpus.jsonl"),
            dropped,
            json.loads((project.path / "out/graph.json").read_text()),
        )

    return carry_out


def shown(rows):
    return [(row["head"], row["relation"], row["tail"]) for row in rows]


@pytest.mark.parametrize(
    "one, other, same",
    [
        ("Crack tip", "the crack-tips", True),
        ("stress", "Stresses", True),
        ("phase", "phases", True),
        ("grain boundary", "grain boundaries", True),
        ("crack", "crack tip", False),
        ("10 nm", "20 nm", False),
        ("gas", "gases", True),
        ("bond", "bone", False),
    ],
)
def test_what_spellings_of_a_name_share(one, other, same):
    assert (name_key(one) == name_key(other)) is same


def test_the_commonest_spelling_names_a_node():
    assert commonest(["cracks", "crack", "cracks"]) == "cracks" and commonest(["cracks", "crack"]) == "crack"


def test_every_triple_that_goes_says_why_and_a_pair_is_kept_once(carry_out):
    kept, dropped, graph = carry_out(
        [
            ("Cracks", "weaken", "glass"),
            ("crack", "breaks", "the glass"),
            ("glass", "holds", "crack"),
            ("it", "is", "glass"),
            ("crack", "", "glass"),
            ("crack", "is", None),
            ("a crack", "is", "Cracks"),
            ("crack", "weaken", "glass"),
        ]
    )
    assert shown(kept) == [("crack", "weaken; breaks", "glass"), ("glass", "holds", "crack")]
    first = kept[0]["meta"]
    assert (
        first["scores"] == {"graph.count": 3, "graph.community": 0, "graph.degree": 1}
        and len(first["parents"]) == 2
    )
    assert dropped == {
        1: ("joined", f"joins {first['id']}, of the same pair"),
        3: ("empty", "its 'head' names nothing"),
        4: ("empty", "its 'relation' names nothing"),
        5: ("empty", "its 'tail' names nothing"),
        6: ("self_loop", "its 'head' and its 'tail' are one node, 'crack'"),
        7: ("joined", f"joins {first['id']}, of the same pair"),
    }
    assert graph["nodes"][0]["names"] == "a crack; crack; cracks" and graph["edges"][0]["count"] == 3


def test_names_with_equal_words_and_numbers_are_one_node(carry_out):
    triples = [
        ("tip of the crack", "is in", "plate 1"),
        ("crack tip", "is in", "plate 2"),
        ("crack tip", "bends", "plate 1"),
    ]
    _, _, graph = carry_out(triples)
    assert sorted(node["id"] for node in graph["nodes"]) == ["crack tip", "plate 1", "plate 2"]
    _, _, graph = carry_out(triples, min_cosine=None)
    assert len(graph["nodes"]) == 4


def test_names_with_near_vectors_are_one_node_unless_their_numbers_differ(carry_out, monkeypatch):
    numpy = pytest.importorskip("numpy")
    from distillgen.stages import graph as stage

    vectors = {"boat": (1.0, 0.0), "ship": (0.98, 0.2), "plate 1": (0.0, 1.0), "plate 2": (0.0, 1.0)}

    async def embedded(names, model, ledger):
        return numpy.array([vectors[name] for name in names], numpy.float32)

    monkeypatch.setattr(stage, "check_embedder", lambda name: None)
    monkeypatch.setattr(stage, "embedded", embedded)
    triples = [("boat", "bears", "plate 1"), ("ship", "bears", "plate 2")]
    for min_cosine, nodes in (0.9, ["boat", "plate 1", "plate 2"]), (0.99, sorted(vectors)):
        _, _, graph = carry_out(triples, embedder="planted", min_cosine=min_cosine)
        assert sorted(node["id"] for node in graph["nodes"]) == nodes


def test_only_the_largest_part_is_kept_on_demand(carry_out):
    triples = [("a1", "x", "b1"), ("c1", "x", "d1"), ("d1", "x", "e1"), ("b1", "x", "a1")]
    kept, dropped, _ = carry_out(triples, component="giant")
    assert shown(kept) == [("c1", "x", "d1"), ("d1", "x", "e1")]
    assert dropped == dict.fromkeys((0, 3), ("fragment", "in a part apart from the largest, of 3 nodes"))
    assert len(carry_out(triples)[0]) == 4


def test_things_that_several_texts_name_together_are_joined(carry_out, project):
    triples = [
        ("a1", "x", "b1", "n1"),
        ("c1", "x", "d1", "n1"),
        ("a1", "x", "b1", "n2"),
        ("c1", "x", "e1", "n2"),
    ]
    kept, _, graph = carry_out(triples, proximity=True, text="note")
    near = [row for row in kept if row["relation"] == "appears with"]
    assert (
        shown(near) == [("a1", "appears with", "c1"), ("b1", "appears with", "c1")]
        and near[0]["meta"]["scores"]["graph.count"] == 2
    )
    assert {e["relation"] for e in graph["edges"]} == {"x", "appears with"}
    measured = json.loads((project.path / "out/usage.json").read_text())["stages"][1]["measured"]
    assert measured["nodes"] == 5 and measured["pairs near each other in one text only"] == 4
    assert not [row for row in carry_out(triples)[0] if row["relation"] == "appears with"]


def cliques(size=5):
    nodes = [[f"{part}{i}" for i in range(size)] for part in "ab"]
    return [(x, y) for part in nodes for i, x in enumerate(part) for y in part[:i]] + [("a0", "b0")]


@pytest.mark.parametrize("method", ["louvain", "girvan_newman"])
def test_two_cliques_are_two_communities(method):
    found = communities(nx.Graph(cliques()), method, 0)
    assert [sorted({node[0] for node in part}) for part in found] == [["a"], ["b"]]
    assert (
        communities(nx.Graph([("x", "y")]), method, 0) == [{"x", "y"}]
        and communities(nx.Graph(), method, 0) == []
    )


def test_labels_do_not_cover_each_other_and_stay_inside():
    graph = nx.gnm_random_graph(90, 160, seed=3)
    graph = nx.relabel_nodes(graph, {i: f"a node of number {i}" for i in graph})
    places = picture(graph, 0)
    assert 30 < len(places) <= 60
    boxes = [(x, y, len(name) * LETTER / 2) for name, (x, y) in places.items()]
    assert all(w - 0.1 <= x <= 1000.1 - w and LINE - 0.1 <= y <= 640.1 - LINE for x, y, w in boxes)
    over = [
        a
        for i, a in enumerate(boxes)
        for b in boxes[:i]
        if abs(a[0] - b[0]) < (a[2] + b[2]) * 0.9 and abs(a[1] - b[1]) < 2 * LINE * 0.9
    ]
    assert len(over) <= 3


def test_a_path_prefers_the_more_frequent_triples():
    graph = nx.Graph()
    graph.add_weighted_edges_from(
        [
            ("crack", "tip", 1),
            ("tip", "steel", 1),
            ("crack", "void", 3),
            ("void", "steel", 3),
            ("glass", "ion", 1),
        ],
        weight="count",
    )
    assert mentioned(graph, "How does a Crack harm steels?") == ["crack", "steel"]
    assert mentioned(["crack", "crack tip"], "the tip of a crack") == ["crack tip"]
    assert connections(graph, ["crack", "steel"], 4) == [("crack", "void"), ("void", "steel")]
    assert (
        connections(graph, ["crack", "steel"], 1)
        == []
        == connections(graph, ["crack", "glass"], 4)
        == connections(graph, [], 4)
    )
    assert connections(graph, ["crack"], 1) == [("crack", "void")]


def test_retrieve_brings_the_edges_of_the_path_in_order(project):
    project.rows(
        "edges.jsonl",
        [
            {"head": h, "relation": r, "tail": t}
            for h, r, t in [
                ("tip", "emits", "dislocation"),
                ("void", "grows in", "steel"),
                ("dislocation", "shapes", "void"),
            ]
        ],
    )
    project.rows("rows.jsonl", [{"q": "What has a tip to do with a void?"}, {"q": "And rain?"}])
    stage = {
        "retrieve": {"from": "edges.jsonl", "query": "q", "path": ["head", "tail"], "into": "facts", "k": 3}
    }
    distillgen.run({"version": 1, "stages": [{"source": {"path": "rows.jsonl"}}, stage]}, out="out")
    found = [[fact["relation"] for fact in row["facts"]] for row in project.read("out/corpus.jsonl")]
    assert found == [["emits", "shapes"], []]


def test_the_graph_is_deterministic_and_readable_elsewhere(project):
    rows = [{"head": a, "relation": "joins", "tail": b} for a, b in cliques(6)]
    project.rows("rows.jsonl", [*rows, {"head": "a\u0001<b>&", "relation": "]]>\u0002", "tail": "a0"}])
    project.write(
        "pipelines/g.yaml",
        "# g.yaml: x\nversion: 1\nstages:\n  - source: {path: rows.jsonl}\n"
        "  - graph: {embedder: words, name: mine}\n",
    )
    for seed in ("1", "2"):
        project.cli(
            "run", "g", "--out", f"out{seed}", "--ledger", f"{seed}.sqlite3", env={"PYTHONHASHSEED": seed}
        )
    first, second = (project.path / name for name in ("out1", "out2"))
    for name in ("graph-mine.json", "graph-mine.graphml", "corpus.jsonl"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    told = json.loads((first / "graph-mine.json").read_text())
    graph = nx.node_link_graph(told, edges="edges")
    other = nx.read_graphml(first / "graph-mine.graphml")
    assert (
        graph.edges == other.edges
        and dict(graph.nodes(data="community")) == dict(other.nodes(data="community"))
        and len(graph) == 13
    )
    (first / "graph-mine.graphml").unlink()
    distillgen.run("pipelines/g.yaml", out="out1")
    assert (first / "graph-mine.graphml").exists()


def test_the_report_draws_it_without_obeying_its_names(carry_out, project):
    carry_out([("crack", "breaks", "<script>alert(1)</script>"), ("crack", "meets", "void")])
    page = (project.path / "out/report.html").read_text()
    assert "&lt;script&gt;alert(1)" in page and "<script" not in page
    drawing = re.search(r'<div class="graph">.*?</svg>', page, re.S)[0]
    assert drawing.count("<circle") == 3 and drawing.count("<line") == 2 and ">crack</text>" in drawing
    assert "crack → meets → void" in drawing


def test_nothing_left_to_join(carry_out, project):
    kept, dropped, graph = carry_out([("", "is", "crack"), ("crack", "is", "crack")])
    assert kept == [] and len(dropped) == 2 and graph["nodes"] == []
    assert "0 nodes and 0 edges" in (project.path / "out/report.html").read_text()


@pytest.mark.parametrize(
    "stage, told",
    [
        (
            {"graph": {"head": "hed"}},
            "'head' needs the field 'hed', which no earlier stage gives; did you mean 'head'?",
        ),
        ({"graph": {"min_cosine": 2}}, "less than or equal to 1"),
        ({"graph": {"communities": "leiden"}}, "'louvain' or 'girvan_newman'"),
        ({"graph": {"text": "note"}}, "'text' needs the field 'note'"),
        ({"retrieve": {"from": "rows.jsonl", "query": "head"}}, "give either 'key'"),
        (
            {"retrieve": {"from": "rows.jsonl", "query": "head", "path": ["head", "tal"]}},
            "'path' in rows.jsonl needs the field 'tal'",
        ),
        (
            {
                "retrieve": {
                    "from": "rows.jsonl",
                    "query": "head",
                    "path": ["head", "tail"],
                    "embedder": "words",
                }
            },
            "'embedder' has no use with 'path'",
        ),
    ],
)
def test_mistakes_are_told_before_the_run(project, stage, told):
    project.rows("rows.jsonl", [{"head": "a", "relation": "b", "tail": "c"}])
    with pytest.raises(ConfigError, match=re.escape(told)):
        distillgen.load({"version": 1, "stages": [{"source": {"path": "rows.jsonl"}}, stage]})
