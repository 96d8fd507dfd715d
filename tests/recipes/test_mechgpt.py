"""The MechGPT recipes: documents become a graph and question-answer pairs, and the planted truth is
recovered.
"""

import json
import random
import re
from itertools import combinations
from pathlib import Path

import pytest

import distillgen
from distillgen.runs.directory import read_records
from distillgen.teachers.scripted import echo
from tests.recipes.planted_knowledge import BROKEN, RELATIONS, REPAIRABLE, Planted, read, reader

pytest.importorskip("networkx", reason="needs the extra 'graph'")

SETS = ["source.path=docs", "source.chunk_words=30", "graph.embedder=words", "graph.communities=louvain"]


@pytest.fixture
def make_graph(project):
    """Run the shipped pipeline on planted documents; gives the run and its graph."""

    def make_graph(planted, teacher, *sets, out="graph", **options):
        for name, text in planted.documents.items():
            project.write(f"docs/{name}", text)
        run = distillgen.run(
            "mechgpt-graph", sets=[*SETS, *sets], out=out, teachers={"teacher": teacher}, **options
        )
        return run, json.loads((run.directory / "graph.json").read_text())

    return make_graph


def edges_of(graph, planted) -> set:
    ends = {node["id"]: entity_of(node["id"], planted) for node in graph["nodes"]}
    return {
        (ends[e["source"]], relation, ends[e["target"]])
        for e in graph["edges"]
        for relation in e["relation"].split("; ")
    }


def f1(found: set, true: set) -> float:
    return 2 * len(found & true) / (len(found) + len(true))


def same_node(groups) -> set:
    return {frozenset(pair) for group in groups for pair in combinations(sorted(group), 2)}


@pytest.mark.parametrize("seed", range(3))
def test_planted_triples_are_recovered_and_shuffled_ones_are_not(make_graph, seed):
    planted = Planted(seed)
    _, graph = make_graph(planted, reader(error=0.03, broken=0.2, seed=seed))
    found, true = edges_of(graph, planted), set(planted.triples)
    assert f1(found, true) >= 0.9
    tails = [tail for _, _, tail in planted.triples]
    random.Random(seed).shuffle(tails)
    assert (
        f1(
            found,
            {
                (head, relation, tail)
                for (head, relation, _), tail in zip(planted.triples, tails, strict=True)
            },
        )
        < 0.1
    )
    names = [node["names"].split("; ") for node in graph["nodes"]]
    own = {spelling: entity_of(spelling, planted) for group in names for spelling in group}
    truth = [[spelling for spelling, entity in own.items() if entity == name] for name in planted.names]
    assert len(own) > 100 and f1(same_node(names), same_node(truth)) >= 0.95
    shuffled = dict(zip(own, random.Random(seed).sample(sorted(own.values()), len(own)), strict=True))
    truth = [[spelling for spelling, entity in shuffled.items() if entity == name] for name in planted.names]
    assert f1(same_node(names), same_node(truth)) < 0.1


def entity_of(spelling, planted):
    name = spelling.removeprefix("the ")
    return name if name in planted.names else name.removesuffix("s")


def told(run) -> dict:
    """The triples that the teacher's answers gave, by the piece of text."""
    found = {}
    for record in read_records(run.directory / "stages/02-generate.jsonl"):
        pieces = found.setdefault(record.source, [])
        if not record.dropped:
            pieces.append(tuple(record.fields[name] for name in ("head", "relation", "tail")))
    return found


def test_broken_answers_lose_no_valid_piece_and_no_valid_triple(make_graph):
    planted, seed = Planted(5), 5
    clean, graph = make_graph(planted, reader(seed=seed), out="clean")
    broken = reader(broken=0.5, seed=seed)  # half of them, so that every way of breaking occurs
    run, _ = make_graph(planted, broken, out="broken")
    assert set(broken.broken.values()) == set(BROKEN)
    whole, left = told(clean), told(run)
    pieces = [*read_records(run.directory / "stages/01-source.jsonl")]
    texts = {
        piece.source: piece.fields["text"].removeprefix(f"# {piece.fields['title']}").strip()
        for piece in pieces
    }
    ways = {
        source: next((way for asked, way in broken.broken.items() if text in asked), "")
        for source, text in texts.items()
    }
    for source, way in ways.items():
        kept = whole[source][:-1] if way == "cut off" else whole[source] if way in REPAIRABLE | {""} else []
        assert left[source] == kept, way
    lost = {
        ways[record.source]: record.dropped.filter
        for record in run.dropped
        if record.dropped.stage == "generate"
    }
    assert lost == {"bad item": "item", "cut off": "item", "prose": "malformed", "empty": "malformed"}
    run, mended = make_graph(planted, reader(seed=seed), out="broken", retry_failed=True)
    assert all(told(run)[source] == whole[source] for source, way in ways.items() if way != "cut off")
    assert edges_of(mended, planted) == edges_of(graph, planted) == set(planted.triples)


def test_a_path_of_the_graph_answers_what_pieces_of_text_do_not(make_graph, project):
    planted = Planted(9)
    run, _ = make_graph(planted, reader())
    pieces = [record.fields["text"] for record in read_records(run.directory / "stages/01-source.jsonl")]
    facts = [{frozenset((head, tail)) for head, _, tail in read(piece)} for piece in pieces]
    questions = [
        {"question": f"Through what is {a} joined to {c}?", "gold": bridge}
        for a, bridge, c in planted.bridges
        if not any({frozenset((a, bridge)), frozenset((bridge, c))} <= told for told in facts)
    ]
    questions = random.Random(0).sample(questions, 60)
    project.rows("questions.jsonl", questions)
    edges = project.read("graph/corpus.jsonl")
    tails = random.Random(0).sample([edge["tail"] for edge in edges], len(edges))
    project.rows("shuffled.jsonl", [{**edge, "tail": tail} for edge, tail in zip(edges, tails, strict=True)])

    def right(**memory) -> float:
        shown = (
            "{% for f in found %}{{ f.text if f.text is defined "
            "else f.head ~ ' ' ~ f.relation ~ ' ' ~ f.tail ~ '.' }} {% endfor %}"
        )
        stages = [
            {"source": {"path": "questions.jsonl"}},
            {
                "retrieve": {
                    "query": "question",
                    "into": "found",
                    "keep": ["head", "relation", "tail", "text"],
                    **memory,
                }
            },
            {"generate": {"model": "reader", "template": shown + "\n{{ question }}", "output": "answer"}},
            {"filter": [{"exact": {"field": "answer", "gold": "gold"}}]},
        ]
        models = {"reader": {"provider": "scripted", "model": "echo"}}
        asked = distillgen.run(
            {"version": 1, "models": models, "stages": stages},
            out=f"ask{random.random()}",
            teachers={"reader": bridged},
        )
        return asked.state["kept"] / len(questions)

    path = right(**{"from": "graph/corpus.jsonl", "path": ["head", "tail"], "k": 2})
    flat = {
        k: right(**{"from": "graph/stages/01-source.jsonl", "key": "text", "embedder": "words", "k": k})
        for k in (1, 8, 16)
    }
    shuffled = right(**{"from": "shuffled.jsonl", "path": ["head", "tail"], "k": 2})
    assert path >= 0.9 and shuffled <= 0.1
    assert flat[1] == 0 and path - flat[8] >= 0.3, "eight pieces, of twenty times the words, do as well"


def bridged(request, sample):
    """What a reader finds who takes in all of what was retrieved: the one thing that both others are joined
    to.
    """
    found, _, question = echo(request, sample).rpartition("\n")
    a, c = re.search(r"is (.+) joined to (.+)\?", question).groups()
    near = {name: set() for name in (a, c)}
    for head, _, tail in read(found):
        for one, other in ((head, tail), (tail, head)):
            if one in near:
                near[one].add(other)
    common = near[a] & near[c]
    return common.pop() if len(common) == 1 else "It does not say."


def examiner(wrong: float, shift: int = 0, documents=""):
    """Asks two questions about a piece and answers them, the share `wrong` in one of the ways in which models
    do; with `shift`, about another piece than it was shown.
    """
    everything = read(documents)

    def pair(text, draw) -> dict:
        facts = read(text)
        head, relation, tail = draw.choice(facts)
        if shift:
            head, relation, tail = everything[
                (everything.index((head, relation, tail)) + shift) % len(everything)
            ]
        passive = RELATIONS[relation]
        right = {
            "question": f"What is {passive} by {head}?",
            "answer": f"{tail.capitalize()} is {passive} by {head}.",
        }
        if draw.random() >= wrong:
            return right
        elsewhere = draw.choice([triple for triple in everything if triple not in facts])
        beside = draw.choice([triple for triple in facts if head not in triple] or facts)
        return right | draw.choice(
            [
                {"answer": f"{elsewhere[2].capitalize()} is {passive} by {head}."},
                {"answer": right["answer"].removesuffix(".") + " by 40 percent."},
                {"question": f"According to the text, what is {passive} by {head}?"},
                {"question": f"What is {passive} by it?"},
                {"answer": f"It is {passive} by {head}."},
                {"answer": f"{beside[0].capitalize()} {beside[1]} {beside[2]}."},
                {"answer": f"{tail.capitalize()} is {passive} by"},
            ]
        )

    def ask(request, sample):
        text = echo(request, sample)
        draw = random.Random(text)
        return json.dumps([pair(text, draw), pair(text, draw)])

    return ask


def answerable(record, piece) -> bool:
    """Whether the piece says what the answer says, and that is what the question asks for."""
    asked = re.fullmatch(r"What is (\w+) by (\w+ \w+)\?", record["question"])
    said = read(record["answer"])
    return (
        bool(asked and said)
        and set(said) <= set(read(piece))
        and all(RELATIONS[r] == asked[1] and head == asked[2] for head, r, _ in said)
    )


def test_what_is_kept_can_be_answered_from_its_piece(project):
    planted = Planted(3)
    for name, text in planted.documents.items():
        project.write(f"docs/{name}", text)
    documents = " ".join(text.partition("\n\n")[2] for text in planted.documents.values())
    sets = ["source.path=docs", "source.chunk_words=40"]
    run = distillgen.run(
        "mechgpt-qa", sets=sets, out="qa", teachers={"teacher": examiner(0.4, documents=documents)}
    )
    made = [
        record for record in read_records(run.directory / "stages/02-generate.jsonl") if not record.dropped
    ]
    kept = project.read("qa/corpus.jsonl")
    before = [answerable(record.fields, record.fields["text"]) for record in made]
    after = [answerable(row, row["text"]) for row in kept]
    assert sum(before) / len(before) < 0.7 and sum(after) / len(after) >= 0.95
    asked_twice = {record.id for record in run.dropped.group("filter")["unique"]}
    good = [
        record
        for record in made
        if answerable(record.fields, record.fields["text"]) and record.id not in asked_twice
    ]
    assert len(kept) >= 0.9 * len(good), "what can be answered was dropped as well"
    assert {"standalone", "grounded", "quotes", "responsive", "finished"} <= set(run.dropped.group("filter"))
    assert kept[0]["messages"] == [
        {"role": "user", "content": kept[0]["question"]},
        {"role": "assistant", "content": kept[0]["answer"]},
    ]
    other = distillgen.run(
        "mechgpt-qa", sets=sets, out="shuffled", teachers={"teacher": examiner(0.0, 17, documents)}
    )
    assert other.state["kept"] <= 0.15 * len(made), (
        "answers about another text were kept"
    )  # some pieces name the same things


@pytest.mark.parametrize("name", ["mechgpt-qa", "mechgpt-graph"])
def test_its_default_documents_go_through_and_it_has_its_place(project, name):
    def answer(request, sample):
        title, _, text = echo(request, sample).partition(": ")
        sentences = re.findall(r"(?<=[.] )[A-Z][^.]+[.]", text)[:2]
        words = re.findall(r"[a-z]{5,}", text)
        pairs = [
            {"question": f"{title}: {' '.join(s.split()[:4])} what?", "answer": s}
            for s in (sentences * 2)[:2]
        ]
        triples = [
            {"head": a, "relation": "goes with", "tail": b} for a, b in zip(words, words[1:6], strict=False)
        ]
        return json.dumps(pairs if name == "mechgpt-qa" else triples)

    sets = ["graph.embedder=words", "graph.communities=louvain"] if name == "mechgpt-graph" else []
    run = distillgen.run(name, sets=sets, out="out", teachers={"teacher": answer})
    assert (
        run.state["source_rows"] == (24 if name == "mechgpt-qa" else 50)
        and run.state["kept"] >= 20
        and run.state["failed"] == 0
    )
    system = distillgen.load(name, sets, scripted=["teacher"]).system
    assert (
        "MechGPT" in system.paper
        and system.elicitation
        and system.skill
        and system.vertical
        and system.access == "text"
    )


@pytest.mark.slow
def test_names_that_mean_the_same_are_one_node(project):
    pytest.importorskip("sentence_transformers", reason="needs the extra 'filters'")
    same = [
        ["aluminium", "aluminum"],
        ["crack tip", "tip of the crack"],
        ["fibre composite", "fiber composite"],
        ["dislocation", "Dislocations"],
        ["grain boundary", "the grain boundaries"],
        ["ductile-brittle transition", "ductile-to-brittle transition"],
    ]
    others = [
        "ductile fracture",
        "brittle fracture",
        "tensile stress",
        "compressive stress",
        "zirconia",
        "nacre",
    ]
    names = [*(name for some in same for name in some), *others]
    project.rows(
        "triples.jsonl",
        [{"head": name, "relation": "is told of in", "tail": f"note {i}"} for i, name in enumerate(names)],
    )
    stages = [{"source": {"path": "triples.jsonl"}}, {"graph": {"min_cosine": 0.9}}]
    distillgen.run({"version": 1, "stages": stages}, out="out")
    nodes = json.loads(Path("out/graph.json").read_text())["nodes"]
    found = same_node(node["names"].split("; ") for node in nodes)
    assert f1(found, same_node([name.lower() for name in some] for some in same)) >= 0.9
